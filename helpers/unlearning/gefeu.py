"""GeFeU: Generator Feature Unlearning. The noise is labelled with what the trained model says of forgotten pictures.

y of noise sample k in `generator.py` is the trained model's own output softmax f(x_k), x_k in D_f, where the error is maximised
and where the model is impaired. The forgotten images are read once, for these outputs.
"""

from helpers.models.cnn import CNN
from helpers.models.training import predict
from helpers.unlearning.generator import SOURCE, GeneratorSettings, impair_and_repair
from helpers.unlearning.method import Log, Method, UnlearningData


def gefeu(model: CNN, data: UnlearningData, settings: GeneratorSettings, seed: int, log: Log) -> CNN:
    """Returns a new model that has unlearned the forgotten feature; `seed` makes all noise and order."""
    own_outputs = predict(model, data.forget_images).softmax(1).to(data.forget_images.device)
    return impair_and_repair(model, data, own_outputs, settings, seed, log)


TUNED = GeneratorSettings(
    noise_dim=130,
    hidden_layers=2,
    width=524,
    generator_share=0.00202,
    generator_batch=64,
    generator_lr=0.188,
    noise_weight=0.0833,
    batch_size=64,
    impair_share=0.00924,
    impair_noise=0.422,
    impair_lr=0.733,
    repair_share=0.0826,
    repair_lr=0.797,
    weight_decay=0.491,
)
METHOD = Method("gefeu", "GeFeU", SOURCE, gefeu, TUNED, notebook="netcomp_GeFeU.ipynb")
