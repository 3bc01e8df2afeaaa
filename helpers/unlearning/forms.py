"""What GEMU and GeFeU might be: what each of their parts adds, and what was tried to make them better.

A form is one of the two methods with one thing changed, or several where its title says so. It is a method with a study
of its own (`python -m helpers tune forms`), stands in no table of methods, and is shown by docs/forms.md, written from
these studies.

noise: "wrong" is what GEMU and GeFeU learn, what the trained model gets wrong. The others: "untrained", of a generator
as it was drawn; "gaussian", pixels from N(0, 1); "none"; "likeness", pictures that the trained model reads as what is
to be forgotten; "features", pictures with the activations of forgotten pictures in the last hidden layer; "pictures",
the forgotten pictures themselves. around: whether the first three are added to forgotten pictures, as in GeFeU.
labels, with which impair shows the noise: "forgotten", the label of a forgotten sample; "outputs", the trained model's
on one; "others", these without the sample's own label; "random", wrong ones.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from helpers.device import training_precision
from helpers.models.cnn import CNN, LAYERS
from helpers.models.training import predict, seeded
from helpers.unlearning.delete import without_label
from helpers.unlearning.gefeu import GeFeUSettings
from helpers.unlearning.generator import GeneratorSettings, generate, maximise_error, new_generator, train_generator
from helpers.unlearning.impair import impair
from helpers.unlearning.method import (
    IMAGES,
    Log,
    Method,
    UnlearningData,
    copy_of,
    forget_sample,
    reinitialise_last,
    repair,
    sample,
    setting,
)
from helpers.unlearning.salun import wrong_labels

FEW = ("lr", "weight_decay")  # what an ablation tunes anew
MOST = (*FEW, "impair_share", "impair_noise", "impair_lr", "generator_share", "generator_lr")  # and another form
Noise = Callable[[int], tuple[Tensor, Tensor]]  # n -> pictures [n, c, 28, 28] and their targets [n, 10]


@dataclass(frozen=True)
class FormSettings(GeFeUSettings):
    noise: str = setting("wrong", "wrong, untrained, gaussian, none, likeness, features or pictures")
    labels: str = setting("forgotten", "forgotten, outputs, others or random")
    centre: float = setting(0.0, "part of the mean picture of D_r with which the generator begins")
    around: int = setting(0, "1: the noise is added to forgotten pictures")
    redrawn: int = setting(0, "last layers that are drawn anew before impair")
    chosen: float = setting(1.0, "part of the weights that impair moves, those that serve the noise more than D_r")
    rounds: int = setting(1, "of impair and repair, each impairs half as much as the one before and repairs twice")
    no_impair: int = setting(0, "1: repair alone")
    distilled: float = setting(0.0, "part of the budget for the trained model's outputs on D_r, which repair learns")


def form(model: CNN, data: UnlearningData, settings: FormSettings, seed: int, log: Log) -> CNN:
    """Returns a new model; `seed` makes all weights, noise and order."""
    random, changed = seeded(seed), copy_of(model)
    noise = _noise(model, data, settings, seed, random, log)
    if settings.redrawn:
        reinitialise_last(changed, settings.redrawn, int(torch.randint(2**31, (), generator=random)))
    repaired_on = _distilled(model, data, settings, random, log) if settings.distilled else data
    budget = data.samples(settings.budget) - ceil(log.samples)
    most = max(1, min(data.samples(settings.impair_share), budget // 2))
    parts = [0.5**place for place in range(settings.rounds)]
    for part, longer in zip(parts, reversed(parts), strict=True):
        before = log.samples
        if not settings.no_impair:
            _impair(changed, data, noise, settings, max(1, int(most * part / sum(parts))), random, log)
        left = int(budget * longer / sum(parts) - (log.samples - before))
        repair(changed, repaired_on, settings, left, random, log)
        changed.train()
    return changed.eval()


def _noise(model: CNN, data: UnlearningData, settings: FormSettings, seed: int, random, log: Log) -> Noise:
    """Where impair takes its pictures and targets from."""
    labels, kind, device = data.forget_labels, settings.noise, data.retain_images.device
    if kind == "none":
        return lambda n: (data.retain_images[:0], torch.zeros(0, 10, device=device))
    reads = settings.around or kind in ("features", "pictures") or settings.labels in ("outputs", "others")
    most = 3 * settings.read_part * data.samples(settings.budget)
    read = forget_sample(data, most, seeded(seed, 1)).to(device) if reads else torch.arange(len(labels), device=device)
    targets = given = one_hot(labels[read], 10).float()
    if settings.labels in ("outputs", "others"):
        logits = predict(model, data.forget_images[read]).to(device)
        log.samples += len(read) / 3
        given = logits.softmax(1)
        targets = given if settings.labels == "outputs" else without_label(logits, labels[read])
    if settings.labels == "random":
        targets = one_hot(wrong_labels(labels[read].cpu(), random).to(device), 10).float()
    if kind in ("gaussian", "pictures"):

        def shown(n: int) -> tuple[Tensor, Tensor]:
            at, pixels = _which(targets, n, random), torch.zeros(n, *data.retain_images.shape[1:], device=device)
            if kind == "pictures" or settings.around:
                pixels += data.forget_images[read[at]]
            if kind == "gaussian":
                pixels += torch.randn(pixels.shape, generator=random).to(device)
            return pixels, targets[at]

        return shown
    generator, around = new_generator(settings, data, random), data.forget_images[read] if settings.around else None
    if settings.centre:
        some = sample(len(data.retain_labels), 500, random).to(device)
        with torch.no_grad():
            generator.layers[-1].bias += settings.centre * data.retain_images[some].mean(0).flatten()
    if kind == "wrong":
        maximise_error(model, given, settings, data, random, log, generator, around)
    elif kind != "untrained":
        pictures = data.forget_images[read] if kind == "features" else None
        _imitate(generator, model, given, pictures, settings, data, random, log)
    return lambda n: generate(generator, settings, targets, n, random, around)


def _distilled(model: CNN, data: UnlearningData, settings: FormSettings, random, log: Log) -> UnlearningData:
    """A sample of D_r with the trained model's outputs [n, 10] in place of the labels."""
    n = int(3 * settings.distilled * data.samples(settings.budget))
    at = sample(len(data.retain_labels), min(n, len(data.retain_labels)), random).to(data.retain_images.device)
    outputs = predict(model, data.retain_images[at]).softmax(1).to(data.retain_images.device)
    log.samples += len(at) / 3
    return replace(data, retain_images=data.retain_images[at], retain_labels=outputs)


def _which(targets: Tensor, n: int, random: torch.Generator) -> Tensor:
    """Positions of n targets [k, 10], drawn anew: Tensor [n] int64."""
    return torch.randint(len(targets), (n,), generator=random).to(targets.device)


def _imitate(generator, model: CNN, targets: Tensor, pictures: Tensor | None, settings, data, random, log: Log) -> None:
    """Trains the generator, in place, to make what the model gives these targets [k, 10]; with pictures [k, c, 28, 28],
    what has their activations."""
    frozen = copy_of(model).eval().requires_grad_(False)
    wanted = None if pictures is None else predict(frozen, pictures, CNN.features).to(pictures.device)

    def loss(noise: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        with training_precision(noise.device):
            seen = frozen(noise) if wanted is None else frozen.features(noise)
        if wanted is None:
            far = cross_entropy(seen.float(), targets[which])
        else:
            far = (seen.float() - wanted[which]).square().sum(1).mean() / wanted.square().sum(1).mean()
        return far, far

    if wanted is not None:
        log.samples += len(wanted) / 3
    train_generator(generator, loss, len(targets), settings, data, random, log, "imitate")


def _impair(model: CNN, data: UnlearningData, noise: Noise, settings, samples: int, random, log: Log) -> None:
    """Impair, which may move a part of the weights alone."""
    before, moves = {}, {}
    if settings.chosen < 1:
        moves = _serving(model, data, noise, settings, random, log)
        before = {name: weights.detach().clone() for name, weights in model.named_parameters() if name in moves}

    @torch.no_grad()
    def keep_the_others() -> None:
        for name, weights in model.named_parameters():
            if name in moves:
                weights.copy_(torch.where(moves[name], weights, before[name]))

    impair(model, data, noise, settings, samples, random, log, keep_the_others)


def _serving(model: CNN, data: UnlearningData, noise: Noise, settings, random, log: Log) -> dict[str, Tensor]:
    """Name -> which weights impair may move: of its layers the part `chosen` whose gradients on the noise are largest,
    relative to those on D_r."""
    layers = LAYERS[len(LAYERS) - settings.impair_layers :]
    named = {name: weights for name, weights in model.named_parameters() if name.split(".")[0] in layers}
    at = sample(len(data.retain_labels), settings.impair_batch, random).to(data.retain_images.device)
    sizes = []
    for images, targets in (noise(settings.impair_batch), (data.retain_images[at], data.retain_labels[at])):
        error = cross_entropy(model(images), targets)
        sizes.append([gradient.abs() for gradient in torch.autograd.grad(error, list(named.values()))])
        log.samples += len(targets)
    found = {}
    for name, on_noise, on_retained in zip(named, *sizes, strict=True):
        ratio = (on_noise / (on_retained + 1e-8)).flatten()
        most = ratio.topk(max(1, int(settings.chosen * len(ratio)))).indices
        found[name] = torch.zeros_like(ratio, dtype=torch.bool).index_fill(0, most, True).view_as(on_noise)
    return found


def forms_of(gemu: Method, gefeu: Method) -> dict[str, Method]:
    """Every form by its name, from the two methods with the settings that they have."""
    found = {}
    for method in (gemu, gefeu):
        own = asdict(method.settings) | ({"around": 1, "labels": "others"} if method is gefeu else {})
        redrawn = {"redrawn": method.settings.impair_layers}
        for name, (title, changes) in (PARTS[method.name] | TRIED[method.name]).items():
            settings = FormSettings(**own | changes | (redrawn if name == "redrawn" else {}))
            found[f"{method.name}_{name}"] = replace(
                method,
                name=f"{method.name}_{name}",
                title=f"{method.title}, {title}",
                run=form,
                settings=settings,
                reads=IMAGES,
                tried=(),
                search=FEW if name in PARTS[method.name] else MOST,
            )
    return found


EVERY_PART = {  # name -> in words, what is changed
    "whole": ("as it is, tuned anew", {}),
    "untrained": ("generator not trained", {"noise": "untrained"}),
    "gaussian": ("Gaussian pixels", {"noise": "gaussian"}),
    "none": ("impair on retained samples alone", {"noise": "none", "impair_noise": 0.0}),
    "random": ("forgotten pictures with random labels", {"noise": "pictures", "labels": "random"}),
    "everywhere": ("impair on all layers", {"impair_layers": len(LAYERS)}),
    "unimpaired": ("no impair", {"noise": "none", "no_impair": 1}),
    "redrawn": ("the same layers drawn anew in place of impair", {"noise": "none", "no_impair": 1}),
}
PARTS = {"gemu": EVERY_PART}  # method -> what its ablation leaves out or replaces
PARTS["gefeu"] = EVERY_PART | {
    "pictures": ("forgotten pictures without noise", {"noise": "pictures"}),
    "alone": ("noise without forgotten pictures", {"around": 0}),
    "outputs": ("labelled with all outputs", {"labels": "outputs"}),
    "kept": ("no layers drawn anew", {"redrawn": 0}),
}
FORMER = asdict(GeneratorSettings()) | {"around": 0, "redrawn": 0, "labels": "outputs"}  # GeFeU as it was
PUBLISHED = {"width": 1024, "impair_layers": len(LAYERS)}
TRIED = {
    "gemu": {
        "hidden": ("a hidden layer in the generator", {"hidden_layers": 1, "width": 256}),
        "published": ("generator and impaired layers as published", PUBLISHED | {"hidden_layers": 1, "noise_dim": 35}),
        "centred": ("noise around the mean picture", {"centre": 1.0}),
        "likeness": ("likenesses of the forgotten class", {"noise": "likeness"}),
        "chosen": ("impair on chosen weights", {"chosen": 0.5}),
        "rounds": ("three rounds, each impairs less", {"rounds": 3}),
        "distilled": ("repair with the trained model's outputs as labels", {"distilled": 0.25}),
        "output": ("output layer drawn anew first", {"redrawn": 1}),
    },
    "gefeu": {
        "former": ("noise alone, labelled with all outputs, no layers drawn anew", FORMER),
        "published": (
            "the same, generator and impaired layers as published",
            FORMER | PUBLISHED | {"hidden_layers": 5, "noise_dim": 128},
        ),
        "features": (  # lambda as where noise stands alone: that of noise on pictures would hold it near grey
            "noise with the features of forgotten pictures",
            {"noise": "features", "around": 0, "noise_weight": GeneratorSettings().noise_weight},
        ),
    },
}
