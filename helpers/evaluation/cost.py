"""What does unlearning cost? Seconds of one unlearning beside one retraining, on the same machine, in the same run."""

from dataclasses import replace

import numpy as np

from helpers.data.task import Task
from helpers.device import pick_device
from helpers.models.ensembles import Ensemble
from helpers.models.training import RECIPE, Stopwatch, train
from helpers.parallel import one_thread
from helpers.sizes import SIZES
from helpers.unlearning import METHODS, UnlearningData, unlearn


def cost_side_by_side(
    name: str, task: Task, trained: Ensemble, rounds: int = SIZES.cost_rounds, steps: int = 50
) -> dict[str, float]:
    """Unlearns with method `name` and retrains from scratch, in turn, each on one thread as in the ensembles.

    Of a retraining `steps` steps are timed (one pass, where it has fewer), since all are alike. Returns `unlearning`,
    `retraining` (medians over the rounds, seconds) and `share`, their ratio.
    """
    device = pick_device()
    data = UnlearningData.of(task, RECIPE, device)
    times = {"unlearning": [], "retraining": []}
    start = trained.models[0].to(device)
    n = len(data.retain_labels)
    part = slice(0, steps * RECIPE.batch_size)
    images, labels = data.retain_images[part], data.retain_labels[part]
    once = replace(RECIPE, min_passes=1, min_steps=1)
    with one_thread():  # as in the ensembles
        for turn in range(rounds):
            with Stopwatch() as watch:
                unlearn(name, start, data, METHODS[name].settings, turn)
            times["unlearning"].append(watch.seconds)
            with Stopwatch() as watch:
                train(images, labels, once, turn)
            times["retraining"].append(watch.seconds * RECIPE.steps(n) / once.steps(len(labels)))
    start.cpu()
    found = {key: float(np.median(values)) for key, values in times.items()}
    return found | {"share": found["unlearning"] / found["retraining"]}
