"""Two methods in which the outputs of teachers are the targets of a student.

SCRUB: moves away from the trained model's outputs on the forget set and stays close to them on the retain set.
Bad teacher: imitates a randomly initialised network on the forget set and the trained model on the retain set.

For SCRUB (Kurmanji et al. 2023, arXiv:2302.09880, eq. 1 and 2) the trained model is the teacher. The student takes, in
turn, steps that maximise KL(teacher || student) on D_f, and steps that minimise a CE + (1 - a) KL(teacher || student)
on D_r; at the end only the latter. As in the authors' code both KL terms are those of the logits divided by a
temperature T, times T^2 (Hinton et al. 2015, arXiv:1503.02531); T is 1 in the equations, 4 in their large experiments
and 2, as here by default, in their small ones, which use Adam too.

Where this is not the authors' SCRUB: the rewind (section 3.3) is left out: it needs samples like the forgotten ones
that no model trained on and that are not test samples; there are none. Steps on D_f have a learning rate of their own,
and that on D_r falls with every step. Weights decay as in AdamW, there as a part of the loss. At most half of the
budget goes into the steps on D_f; where they allow less than D_f, a random sample of it is read.

For the bad teacher (Chundawat et al. 2022, arXiv:2205.08096, eq. 2) the student minimises KL to a random network on D_f
and to the trained model on D_r, at temperature 1 and without weight decay.

Where this is not the authors' code: they show all of D_f with 30 % of D_r, here `forget_part` says what part of the
samples is of D_f, and the rate rises and falls. As there, both are shuffled together.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from helpers.device import training_precision
from helpers.models.cnn import CNN, new_model
from helpers.models.training import adam, seeded, set_lr
from helpers.unlearning.method import (
    Descent,
    Log,
    Method,
    UnlearningData,
    copy_of,
    decay_setting,
    forget_sample,
    rate,
    sample,
    setting,
)


@dataclass(frozen=True)
class ScrubSettings(Descent):
    warm_up: float = setting(0.0, "part of the steps on D_r in which the rate rises")
    temperature: int = setting(2, "T, by which the logits are divided in both KL terms", choices=(1, 2, 4))
    ce_part: float = setting(0.5, "a, weight of CE on D_r; 1 - a is that of KL to the teacher", 0.0, 1.0)
    ascent_passes: int = setting(2, "passes over D_f that maximise KL", 1, 4, within=(0, 10))
    ascent_lr: float = setting(0.1, "their learning rate, multiple of the recipe's peak", 0.001, 1.0, log=True)


@dataclass(frozen=True)
class BadTeacherSettings(Descent):
    weight_decay: float = decay_setting(0.0)
    forget_part: float = setting(0.05, "part of the samples that are forget samples", 0.01, 0.5, log=True)


def divergence(teacher: CNN, student_logits: Tensor, images: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student) of softmax(logits / T), mean over the batch, nats; T^2 keeps the size of the gradient.

    student_logits: Tensor [b, 10]; images: Tensor [b, c, 28, 28].
    """
    with torch.no_grad(), training_precision(images.device):
        wanted = (teacher(images).float() / temperature).log_softmax(1)
    reached = (student_logits / temperature).log_softmax(1)
    return temperature**2 * kl_div(reached, wanted, reduction="batchmean", log_target=True)


def scrub(model: CNN, data: UnlearningData, settings: ScrubSettings, seed: int, log: Log) -> CNN:
    """Returns a new model; `seed` draws samples and order."""
    random, device, recipe = seeded(seed), data.retain_images.device, data.recipe
    teacher, student = copy_of(model).eval().requires_grad_(False), copy_of(model)
    budget = data.samples(settings.budget)
    most = budget / 2 / settings.ascent_passes * 3 / 4  # a sample costs 1 in the student and 1/3 in the teacher
    read = forget_sample(data, most, seeded(seed, 1)).to(device)
    left = budget * 3 // 4 - settings.ascent_passes * len(read)
    parts = sample(len(data.retain_labels), left, random).to(device).tensor_split(settings.ascent_passes + 1)
    steps, step = sum(-(-len(part) // settings.batch_size) for part in parts), 0
    optimizer = adam(student, recipe.peak_lr, settings.weight_decay)

    def move(images: Tensor, labels: Tensor, lr: float, maximise: bool) -> None:
        with training_precision(device):
            logits = student(images)
        logits = logits.float()
        distance = divergence(teacher, logits, images, settings.temperature)
        wanted = settings.ce_part * cross_entropy(logits, labels) + (1 - settings.ce_part) * distance
        optimizer.zero_grad()
        (-distance if maximise else wanted).backward()
        set_lr(optimizer, lr * recipe.peak_lr)
        optimizer.step()
        log.step("maximise KL" if maximise else "minimise", distance if maximise else wanted, len(labels), len(labels))

    for turn, part in enumerate(parts):
        if turn < settings.ascent_passes:
            for at in read[torch.randperm(len(read), generator=random).to(device)].split(settings.batch_size):
                move(data.forget_images[at], data.forget_labels[at], settings.ascent_lr, maximise=True)
        for at in part.split(settings.batch_size):
            lr = settings.lr * rate(step, steps, settings.warm_up)
            move(data.retain_images[at], data.retain_labels[at], lr, maximise=False)
            step += 1
    return student.eval()


def bad_teacher(model: CNN, data: UnlearningData, settings: BadTeacherSettings, seed: int, log: Log) -> CNN:
    """Returns a new model; `seed` draws the random network, samples and order."""
    random, device, recipe = seeded(seed), data.retain_images.device, data.recipe
    competent, student = copy_of(model).eval().requires_grad_(False), copy_of(model)
    fresh = new_model(data.retain_images.shape[1], int(torch.randint(2**31, (), generator=random)))
    incompetent = fresh.to(device).eval().requires_grad_(False)
    total = data.samples(settings.budget) * 3 // 4  # a sample costs 1 in the student and 1/3 in a teacher
    n_forget = max(1, round(settings.forget_part * total))
    retain_at = sample(len(data.retain_labels), total - n_forget, random).to(device)
    forget_at = sample(len(data.forget_labels), n_forget, random).to(device)
    order = torch.randperm(total, generator=random).to(device)  # a place before n_forget: of a forget sample
    steps = max(1, total // settings.batch_size)
    optimizer = adam(student, recipe.peak_lr, settings.weight_decay)
    for step, at in enumerate(order.tensor_split(steps)):
        r, f = retain_at[at[at >= n_forget] - n_forget], forget_at[at[at < n_forget]]
        images = torch.cat([data.retain_images[r], data.forget_images[f]])
        with training_precision(device):
            logits = student(images)
        logits = logits.float()
        loss = logits.new_zeros(())
        for teacher, of in ((competent, slice(len(r))), (incompetent, slice(len(r), None))):
            if part := len(images[of]):
                loss = loss + divergence(teacher, logits[of], images[of]) * part / len(images)
        optimizer.zero_grad()
        loss.backward()
        set_lr(optimizer, settings.lr * recipe.peak_lr * rate(step, steps, settings.warm_up))
        optimizer.step()
        log.step("follow the teachers", loss, len(images), len(images))
    return student.eval()


SCRUB = Method(
    "scrub", "SCRUB", "Kurmanji et al. 2023, arXiv:2302.09880", scrub, ScrubSettings(), tried=({"temperature": 4},)
)
BAD_TEACHER = Method(
    "badteacher", "Bad teacher", "Chundawat et al. 2022, arXiv:2205.08096", bad_teacher, BadTeacherSettings()
)
