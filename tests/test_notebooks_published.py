"""The notebooks once more, on the published pictures of Colored MNIST, where their archive is at hand."""

import pytest
from conftest import copy_repository, needs_published
from test_notebooks import (  # noqa: F401
    executed,
    study,
    test_the_data_are_those_that_the_fixture_chose,
    test_the_frame_that_is_left_is_of_the_stored_models,
    test_the_notebook_runs_top_to_bottom,
)

pytestmark = [needs_published, pytest.mark.thorough]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return copy_repository(tmp_path_factory.mktemp("work") / "published", archive=True)
