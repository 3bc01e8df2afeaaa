"""GeFeU: Generator Feature Unlearning. The noise is labelled with what the trained model says of forgotten pictures.

y of noise sample k in `generator.py` is the trained model's own output softmax f(x_k), x_k in D_f, where the error is maximised
and where the model is impaired. The forgotten images are read once, for these outputs.
"""

from helpers.models.cnn import CNN
from helpers.models.training import predict
from helpers.unlearning.generator import SOURCE, GeneratorSettings, unlearn_by_generator
from helpers.unlearning.method import Log, Method, UnlearningData


def gefeu(model: CNN, data: UnlearningData, settings: GeneratorSettings, seed: int, log: Log) -> CNN:
    """Returns a new model that has unlearned the forgotten feature; `seed` makes all noise and order."""
    own_outputs = predict(model, data.forget_images).softmax(1).to(data.forget_images.device)
    log.samples += len(own_outputs) / 3
    return unlearn_by_generator(model, data, own_outputs, settings, seed, log)


METHOD = Method("gefeu", "GeFeU", SOURCE, gefeu, GeneratorSettings(), notebook="netcomp_GeFeU.ipynb")
