"""GEMU and GeFeU: a generator learns noise that the classifier gets wrong; training on it impairs, then D_r repairs.

After Tarun, Chundawat, Mandal, Kankanhalli, "Fast Yet Effective Machine Unlearning" (UNSIR, arXiv:2111.08947), with the
fixed noise batch replaced by a generator g_phi that makes fresh noise from fresh z ~ N(0, I_d) at every call.

1. maximise the error: theta frozen, minimise over phi   E_z[-CE(f(g_phi(z)), y)] + lambda E_z[mean g_phi(z)^2]
2. impair: train theta at a high learning rate on generated samples labelled y, mixed with class-balanced D_r
3. repair: train theta on a sample of D_r alone, at a learning rate that falls to 0 (one Adam goes through 2 and 3)

In 2 and 3 the weights decay (AdamW): what was learned fades, and only what D_r teaches comes back.

GEMU: y is the one-hot label of the forgotten class; the forgotten images are never seen (zero-glance).
GeFeU: y of noise sample k is the trained model's own output softmax f(x_k), x_k in D_f, in steps 1 and 2.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from helpers.cnn import CNN
from helpers.device import training_precision
from helpers.training import adam, predict, seeded
from helpers.unlearning.common import Log, UnlearningData, class_balanced, copy_of, fit, sample

SNAPSHOTS, SHOWN = 4, 8  # of the noise, for the figures


@dataclass(frozen=True)
class GemuSettings:
    """Hyper-parameters of GEMU. No entry depends on the data set; each can be tuned alone.

    Shares are shares of the samples that retraining sees; learning rates are multiples of the recipe's peak.
    """

    noise_dim: int = 74  # d, of z ~ N(0, I_d)
    hidden_layers: int = 0
    width: int = 354  # units of each hidden layer
    generator_share: float = 0.00285  # samples of step 1
    generator_batch: int = 64  # samples per step of step 1
    generator_lr: float = 0.801
    noise_weight: float = 0.13  # lambda, per mean square pixel of standardised noise (real pictures have 1)
    batch_size: int = 96  # of impair and repair: few samples, so small steps use them better than the recipe's size
    impair_share: float = 0.00297  # samples of step 2, noise and retained ones together
    impair_noise: float = 0.449  # part of them that is noise
    impair_lr: float = 0.215
    repair_share: float = 0.0881  # samples of step 3
    repair_lr: float = 0.734  # at its start; falls to 0
    weight_decay: float = 0.984  # of impair and repair, per step as a part of the learning rate (decoupled)


@dataclass(frozen=True)
class GefeuSettings(GemuSettings):
    """Hyper-parameters of GeFeU: the same entries, tuned apart."""

    noise_dim: int = 130
    hidden_layers: int = 2
    width: int = 524
    generator_share: float = 0.00202
    generator_batch: int = 64
    generator_lr: float = 0.188
    noise_weight: float = 0.0833
    batch_size: int = 64
    impair_share: float = 0.00924
    impair_noise: float = 0.422
    impair_lr: float = 0.733
    repair_share: float = 0.0826
    repair_lr: float = 0.797
    weight_decay: float = 0.491


class Generator(nn.Module):
    """g_phi: z -> hidden ReLU layers -> one linear layer -> an image-shaped tensor.

    forward(z: Tensor [b, d]) -> Tensor [b, c, 28, 28], on the scale of standardised pictures.
    """

    def __init__(self, settings: GemuSettings, channels: int):
        super().__init__()
        sizes = [settings.noise_dim] + [settings.width] * settings.hidden_layers
        layers = []
        for n_in, n_out in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], channels * 28 * 28))
        self.channels = channels

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).view(-1, self.channels, 28, 28)


def gemu(model: CNN, data: UnlearningData, settings: GemuSettings, seed: int, log: Log | None = None) -> CNN:
    """Returns a new model that has unlearned the class's forgotten feature by GEMU; `seed` makes all noise and order.

    Of the forget set only its label is read, never the images.
    """
    label = data.forget_labels[:1]
    return _impair_and_repair(model, data, one_hot(label, 10).float(), settings, seed, log or Log())


def gefeu(model: CNN, data: UnlearningData, settings: GefeuSettings, seed: int, log: Log | None = None) -> CNN:
    """Returns a new model that has unlearned by GeFeU; the forgotten images are read once, for the model's outputs."""
    log = log or Log()
    own_outputs = predict(model, data.forget_images).softmax(1).to(data.forget_images.device)
    return _impair_and_repair(model, data, own_outputs, settings, seed, log)


def _impair_and_repair(
    model: CNN, data: UnlearningData, targets: Tensor, settings: GemuSettings, seed: int, log: Log
) -> CNN:
    """The three phases. targets: Tensor [k, 10], the distributions with which noise is labelled."""
    random = seeded(seed)
    generator = maximise_error(model, targets, settings, data, random, log)
    model = copy_of(model)

    # impair: a share of generated samples, the rest class-balanced from D_r
    total = data.samples(settings.impair_share)
    n_noise = round(settings.impair_noise * total)
    noise, noise_targets = generate(generator, settings, targets, n_noise, random)
    kept = class_balanced(data.retain_labels, total - n_noise, random).to(targets.device)
    images = torch.cat([noise, data.retain_images[kept]])
    labels = torch.cat([noise_targets, one_hot(data.retain_labels[kept], 10).float()])
    order = torch.randperm(len(labels), generator=random)
    size, recipe = settings.batch_size, data.recipe
    options = {"ends_low": False, "weight_decay": settings.weight_decay}
    optimizer = fit(model, images, labels, order, recipe, settings.impair_lr, log, "impair", size, **options)

    # repair: D_r alone, with the same Adam: a new one would take its first steps with gradients it has not measured
    order = sample(len(data.retain_labels), data.samples(settings.repair_share), random)
    images, labels = data.retain_images, data.retain_labels
    fit(model, images, labels, order, recipe, settings.repair_lr, log, "repair", size, optimizer=optimizer)
    return model.eval()


def maximise_error(
    model: CNN,
    targets: Tensor,
    settings: GemuSettings,
    data: UnlearningData,
    random: torch.Generator,
    log: Log,
) -> Generator:
    """Step 1: trains a new generator against the frozen classifier.

    targets: Tensor [k, 10]; each generated sample is paired with one of them, drawn anew at every step.
    """
    frozen = copy_of(model).eval().requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=random)))
        generator = Generator(settings, data.retain_images.shape[1])
    generator.to(targets.device)
    optimizer = adam(generator, settings.generator_lr * data.recipe.peak_lr)
    steps = math.ceil(data.samples(settings.generator_share) / settings.generator_batch)
    drawn = [draw(settings, len(targets), settings.generator_batch, random) for _ in range(steps)]
    every_z, every_target = (torch.stack(parts).to(targets.device) for parts in zip(*drawn, strict=True))
    for step, (z, which) in enumerate(zip(every_z, every_target, strict=True)):
        if len(log.noise) < SNAPSHOTS and step == (len(log.noise) * steps) // (SNAPSHOTS - 1):
            log.noise.append(_snapshot(generator, settings, seed=0))
        noise, labels = generator(z), targets[which]
        with training_precision(noise.device):
            logits = frozen(noise)
        error = cross_entropy(logits.float(), labels)
        loss = -error + settings.noise_weight * noise.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.step("maximise error", error, settings.generator_batch)
    log.noise.append(_snapshot(generator, settings, seed=0))
    return generator.eval()


def draw(settings: GemuSettings, k: int, n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Fresh z: Tensor [n, d], and which of the k targets each noise sample belongs to: Tensor [n] int64."""
    return torch.randn(n, settings.noise_dim, generator=random), torch.randint(k, (n,), generator=random)


@torch.no_grad()
def generate(
    generator: Generator, settings: GemuSettings, targets: Tensor, n: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """n fresh noise samples Tensor [n, c, 28, 28] with their targets Tensor [n, 10]."""
    z, which = (part.to(targets.device) for part in draw(settings, len(targets), n, random))
    return generator(z).contiguous(memory_format=torch.channels_last), targets[which]


@torch.no_grad()
def _snapshot(generator: Generator, settings: GemuSettings, seed: int) -> Tensor:
    """The same few z at each time, so that one sees how the noise develops."""
    z = torch.randn(SHOWN, settings.noise_dim, generator=seeded(seed))
    return generator(z.to(next(generator.parameters()).device))
