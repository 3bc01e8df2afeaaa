"""GeFeU: as GEMU, but the noise carries the trained model's own outputs on the forget set as labels.

Generator Feature Unlearning.

y of noise sample k in `generator.py` is the trained model's own output softmax f(x_k), x_k in D_f, where the error is
maximised and where the model is impaired. The forgotten images are read once, for these outputs; where reading all of
D_f would cost more than a tenth of the budget, a random sample of D_f is read.
"""

from dataclasses import dataclass

from helpers.models.cnn import CNN
from helpers.models.training import predict, seeded
from helpers.unlearning.generator import SOURCE, GeneratorSettings, unlearn_by_generator
from helpers.unlearning.method import Log, Method, UnlearningData, forget_sample, setting


@dataclass(frozen=True)
class GeFeUSettings(GeneratorSettings):
    read_part: float = setting(0.1, "most that reading outputs on D_f may cost, part of the budget", within=(0, 1))


def gefeu(model: CNN, data: UnlearningData, settings: GeFeUSettings, seed: int, log: Log) -> CNN:
    """Returns a new model that has unlearned D_f; `seed` makes all noise and order."""
    most = 3 * settings.read_part * data.samples(settings.budget)  # a sample that only goes forward costs a third
    read = forget_sample(data, most, seeded(seed, 1)).to(data.forget_images.device)
    own_outputs = predict(model, data.forget_images[read]).softmax(1).to(data.forget_images.device)
    log.samples += len(own_outputs) / 3
    return unlearn_by_generator(model, data, own_outputs, settings, seed, log)


METHOD = Method(
    "gefeu", "GeFeU", SOURCE, gefeu, GeFeUSettings(), notebook="netcomp_GeFeU.ipynb", tried=({"noise_weight": 0.1},)
)
