"""How much is computed: everything that only costs time, in one place.

With the environment variable UNLEARNING_QUICK=1 everything is tiny: about three minutes to see that the whole works.
Such models are poor, and are kept apart from all others, since data and recipe are part of what names them; the
executed notebooks, figures and measures.csv of such a run take the place of those that lie in data/results/.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    min_passes: int = 2  # of training, over the training set
    min_steps: int = 300  # of training
    train_samples: int | None = None  # of the training split, drawn with seed 0; None: all
    test_samples: int | None = None  # the same of the test split
    tuning_models: int = 20  # on which hyper-parameters are tuned
    # of retraining's samples, at which the frontier is measured
    shares: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    probed: int = 5  # models of each kind on which relearn time and linear probe are measured
    relearn_steps: int = 240  # at which relearning is given up
    # after which resurgence is evaluated: passes over a tenth of the retained samples
    resurgence: tuple[float, ...] = (0.1, 0.25, 0.5, 1, 2)
    heartbeat: int = 5  # seconds between two signs of a process that works on a study
    grace: int = 30  # seconds without a sign after which its trial goes back into the queue


QUICK = Sizes(
    1, 20, train_samples=8_000, test_samples=2_000, tuning_models=2, shares=(0.1, 0.5), probed=1, relearn_steps=40,
    resurgence=(0.1, 0.5), heartbeat=1, grace=4,
)  # fmt: skip
SIZES = QUICK if os.environ.get("UNLEARNING_QUICK", "0") not in ("", "0") else Sizes()
