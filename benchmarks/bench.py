"""How fast is it? `make bench` measures this repository beside the usual way and beside the limit of the machine.

Every line has three numbers, measured in turn (ours, usual, limit, ours, ...), medians over the rounds (the last line,
a whole notebook, is run once, beside the rates of the rounds):

- ours: what the notebooks call;
- the usual way: `torchvision.datasets.MNIST` with ToTensor and Normalize, a DataLoader, float32, all threads; the same
  network, optimizer and batch size, the same number of samples; in a process of its own, as a plain script would be
  (this repository asks the C library to keep freed memory, from which the loop would gain otherwise);
- the limit: the time that the floating-point operations of the convolutions and linear layers take at the rate at which
  this machine multiplies matrices of their shapes, in its best number format, on all cores.

Rates of the usual way and of the limit are measured on a few thousand samples in each round and scaled to the number of
samples of the line. In the same rounds the network that this repository had before is trained in place of the present
one (`Former`), so that the gain can be seen on any machine. Writes data/results/benchmark.json,
data/report/cost_growth.png and the table in docs/speed.md.
"""

import argparse
import functools
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import psutil
import torch
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import MNIST
from tqdm import tqdm

import helpers.unlearning
from helpers.data.task import NAMES, Task, load_task
from helpers.device import describe, has_fast_bfloat16, pick_device
from helpers.evaluation import logits
from helpers.evaluation.evaluate import measure as measure_all
from helpers.evaluation.frame import RESULTS
from helpers.files import DATA, DOWNLOADS, ROOT, shown, written_whole
from helpers.models import ensembles, training
from helpers.models.cnn import new_model
from helpers.models.ensembles import BASELINES, baseline, state_of
from helpers.models.training import RECIPE, Recipe, Stopwatch, predict, train
from helpers.parallel import compute, cores
from helpers.report.page import page_with, write_page
from helpers.report.style import Figure, figure, save_figure
from helpers.run import execute
from helpers.unlearning import METHODS, make_unlearned, unlearned

ROUNDS = 5
STEPS = 30  # of training in one measurement of a rate
BATCH = RECIPE.batch_size
WHERE = RESULTS / "benchmark.json"
SIDES = {"ours": "ours", "usual way": "usual", "limit": "limit"}


def seconds(work, *arguments) -> float:
    with Stopwatch() as watch:
        work(*arguments)
    return watch.seconds


# ---- the three sides ----


def our_training(task: Task, steps: int = STEPS) -> float:
    """Samples per second over as many models at once as there are cores, as an ensemble is trained."""

    network = training.new_model

    def work(task: Task, seed: int) -> None:
        part, device = slice(0, steps * BATCH), pick_device()
        images, labels = task.data.train.images[part].to(device), task.data.train.labels[part].to(device)
        with patch.object(training, "new_model", network):
            train(images, labels, Recipe(min_passes=1, min_steps=1), seed)

    jobs = [(seed, (task, seed)) for seed in range(cores())]
    return len(jobs) * steps * BATCH / seconds(list, compute(work, jobs))


class Former(torch.nn.Module):
    """The network before the present one: 3x3 convolutions of 32, 64 and 128 channels, each with ReLU and 2x2
    max-pooling, only the first padded, then 128 hidden units; 159,626 parameters on one channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.convolutions = torch.nn.Sequential(
            *(torch.nn.Conv2d(channels, 32, 3, padding=1), torch.nn.MaxPool2d(2), torch.nn.ReLU()),
            *(torch.nn.Conv2d(32, 64, 3), torch.nn.MaxPool2d(2), torch.nn.ReLU()),
            *(torch.nn.Conv2d(64, 128, 3), torch.nn.MaxPool2d(2), torch.nn.ReLU()),
        )
        self.linear = torch.nn.Sequential(torch.nn.Linear(512, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.convolutions(images).flatten(1))


def former_training(task: Task, steps: int = STEPS) -> float:
    """As `our_training`, with the former network."""
    with patch.object(training, "new_model", lambda channels, seed: Former(channels)):
        return our_training(task, steps)


@functools.cache
def usual_data(split: bool) -> MNIST:
    """The data set as most tutorials load it; split: True for training."""
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    return MNIST(DOWNLOADS, train=split, transform=steps)


def usual_training(device: str, steps: int = STEPS) -> float:
    """Samples per second of a plain loop on one model."""
    model = new_model(1, 0).to(device, memory_format=torch.contiguous_format).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=RECIPE.peak_lr)
    loader = DataLoader(Subset(usual_data(True), range(steps * BATCH)), batch_size=BATCH, shuffle=True)
    start = time.perf_counter()
    for images, labels in loader:
        loss = torch.nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loss.item()  # waits for the device
    return steps * BATCH / (time.perf_counter() - start)


@torch.no_grad()
def usual_prediction(device: str, n: int = 4_000) -> float:
    """Samples per second of a plain evaluation loop."""
    model = new_model(1, 0).to(device, memory_format=torch.contiguous_format).eval()
    loader = DataLoader(Subset(usual_data(False), range(n)), batch_size=BATCH)
    start = time.perf_counter()
    for images, _ in loader:
        found = model(images.to(device)).argmax(1)
    found.cpu()
    return n / (time.perf_counter() - start)


def products(channels: int = 1) -> list[tuple[int, int, int]]:
    """The matrix products [m, k] x [k, n] of one forward pass over a batch: what convolutions reduce to."""
    model, found = new_model(channels, 0), []

    def note(layer, inputs, output):
        if isinstance(layer, torch.nn.Conv2d):
            m, k = output[:, 0].numel(), layer.weight[0].numel()
        else:
            m, k = len(output), layer.in_features
        found.append((m, k, output.shape[1]))

    for layer in model.children():
        layer.register_forward_hook(note)
    model(torch.zeros(BATCH, channels, 28, 28))
    return found


def limit(training: bool) -> float:
    """Samples per second if nothing but the matrix products took time: forward, and for training two more for each
    (the gradients of weights and of inputs; the first layer needs none of its inputs)."""
    device = pick_device()
    dtype = torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    total = 0.0
    for at, (m, k, n) in enumerate(products()):
        shapes = [(m, k, n)] + ([(k, m, n)] + [(m, n, k)] * (at > 0)) * training
        for rows, inner, columns in shapes:
            a, b = (torch.ones(*shape, dtype=dtype, device=device) for shape in ((rows, inner), (inner, columns)))
            torch.mm(a, b)
            repeats = max(3, int(2e9 / (rows * inner * columns)))
            total += seconds(lambda a=a, b=b, repeats=repeats: [torch.mm(a, b) for _ in range(repeats)]) / repeats
    return BATCH / total


# ---- lines of the table ----


def measure(task: Task, rounds: int, models: int) -> dict:
    """All lines: name -> {unit, ours, usual, limit (medians), times} with every single measurement kept."""
    n_train = len(task.data.train)
    retrain = RECIPE.steps(int((~task.forget["train"]).sum())) * BATCH
    trained = baseline("trained", task, max(models, cores()), stored=False)
    device = pick_device()
    few = [model.to(device) for model in trained.models[: cores()]]
    our_training(task, 1)  # the processes start, and load the data
    seen = len(task.data.test) + int(task.forget["train"].sum()) + logits.RETAIN_TRAIN_SAMPLE
    budget = {name: 0 for name in ("ascent", "gemu", "gefeu")}
    raw = {
        key: [] for key in ("ours", "former", "usual", "limit", "predict", "usual predict", "limit predict", *budget)
    }
    plain = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    for turn in tqdm(range(rounds), desc="benchmark", unit="round"):
        raw["ours"].append(our_training(task))
        raw["former"].append(former_training(task))
        raw["usual"].append(plain.submit(usual_training, device.type).result())
        raw["limit"].append(limit(training=True))
        raw["usual predict"].append(plain.submit(usual_prediction, device.type).result())
        raw["limit predict"].append(limit(training=False))
        raw["predict"].append(seen * len(few) / seconds(_outputs, task, few))
        for name in budget:
            known = [(name, task, RECIPE, METHODS[name].settings, turn, state_of(model)) for model in few]
            raw[name].append(seconds(list, compute(make_unlearned, enumerate(known))) / len(few))
            if not turn:
                budget[name] = make_unlearned(*known[0])[1]["samples"]
    plain.shutdown()
    rate = {key: float(np.median(values)) for key, values in raw.items()}
    lines = {"training, samples per second": _line("1/s", rate["ours"], rate["usual"], rate["limit"])}
    samples = RECIPE.steps(n_train) * BATCH
    lines["one trained model of an ensemble, seconds"] = _line(
        "s", *(samples / rate[key] for key in ("ours", "usual", "limit"))
    )
    for name, cost in budget.items():
        line = _line("s", rate[name], cost / rate["usual"], cost / rate["limit"])
        line["share of retraining"] = rate[name] / (retrain / rate["ours"])
        lines[f"{METHODS[name].title}, one model of an ensemble, seconds"] = line
    predicted = (seen / rate[key] for key in ("predict", "usual predict", "limit predict"))
    lines["logits of one model on all subsets, seconds"] = _line("s", *predicted)
    notebook = whole_notebook(models)
    both = [
        2 * models * (samples / rate[a] + seen / rate[b])
        for a, b in (("usual", "usual predict"), ("limit", "limit predict"))
    ]
    lines[f"netcomp_compare.ipynb, {models} models of each kind, seconds"] = _line("s", notebook, *both)
    return {"lines": lines, "former": rate["former"], "measured": raw}


def _outputs(task: Task, models: list) -> None:
    retain = task.data.train.images[logits.retain_train_sample(task)]
    for images in (task.data.test.images, task.forget_set("train")[0], retain):
        for model in models:
            predict(model, images.to(pick_device()))


def _line(unit: str, ours: float, usual: float, at_best: float) -> dict:
    times, share = (ours / usual, ours / at_best) if unit == "1/s" else (usual / ours, at_best / ours)
    return {"ours": ours, "usual": usual, "limit": at_best, "times the usual way": times, "share of the limit": share}


def copied(folder: Path) -> Path:
    """A copy of code and notebooks without stored models, with the downloads that are here."""
    for path in (*ROOT.glob("*.ipynb"), ROOT / "pyproject.toml"):
        shutil.copy(path, folder)
    for part in ("helpers", "data/splits", "data/downloads"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.tar.gz"))
    return folder


def whole_notebook(models: int) -> float:
    """Seconds of netcomp_compare.ipynb from nothing, the kernel's start included."""
    with tempfile.TemporaryDirectory() as place:
        folder = copied(Path(place))
        return seconds(execute, "netcomp_compare", folder / "done.ipynb", {"N_MODELS": models}, folder)


# ---- how cost grows ----


def growth(task: Task) -> dict:
    """Seconds against the number of models and against the size of the training set, with the slope of the logarithms
    (1: proportional). Models: train, unlearn by GEMU, all measures of a notebook, on an eighth of the training split
    in one process (others load a task by its name, which a part of a data set has not). Size: one pass of training.
    Peak memory: of all processes together with 30 models of each kind on Colored MNIST."""
    by_models, by_size, peak = {}, {}, {}
    small = first(task, len(task.data.train) // 8)
    with patch.dict(os.environ, LOKY_MAX_CPU_COUNT="1"):
        for n in (2, 3, 10, 30):
            with tempfile.TemporaryDirectory() as place, _stored_in(Path(place)):
                by_models[n] = seconds(_short_study, small, n)
    with tempfile.TemporaryDirectory() as place, _stored_in(Path(place)), _PeakMemory() as memory:
        _short_study(load_task("cmnist"), 30)
    peak["cmnist"] = memory.peak / 1e9
    for part in (8, 4, 2, 1):
        n = len(task.data.train) // part
        images, labels = (part[:n].to(pick_device()) for part in (task.data.train.images, task.data.train.labels))
        by_size[n] = seconds(train, images, labels, Recipe(min_passes=1, min_steps=1), 0)
    return {
        "models": {str(n): value for n, value in by_models.items()},
        "training set": {str(n): value for n, value in by_size.items()},
        "slope, models": slope(by_models),
        "slope, training set": slope(by_size),
        "peak memory at 30 models, GB": peak,
    }


def first(task: Task, n: int) -> Task:
    """The task with the first n training samples only."""
    split = task.data.train.pick(slice(0, n))
    masks = task.forget | {"train": task.forget["train"][:n]}
    data = replace(task.data, train=split, source=f"{task.data.source}, the first {n}")
    return replace(task, data=data, forget=masks)


def _short_study(task: Task, n: int) -> None:
    known = [baseline(kind, task, n, stored=False) for kind in BASELINES]
    measure_all(task, *known, unlearned("gemu", task, n, stored=False))


@contextmanager
def _stored_in(place: Path):
    """Models, their measures and a short recipe of one pass, as long as the block lasts."""
    short = Recipe(min_passes=1, min_steps=1)
    with ExitStack() as stack:
        for module in (ensembles, helpers.unlearning):
            stack.enter_context(patch.object(module, "RECIPE", short))
        stack.enter_context(patch.object(ensembles, "MODELS", place / "models"))
        yield


class _PeakMemory:
    """Largest sum of the memory of this process and its children, looked at every half second; what processes share
    counts once where the system tells (Linux), else not at all."""

    def __enter__(self):
        self.peak, self.done = 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.done.wait(0.5):
            total = 0
            for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
                with suppress(psutil.Error):
                    memory = process.memory_full_info()
                    total += getattr(memory, "pss", memory.uss)
            self.peak = max(self.peak, total)


def slope(times: dict[int, float]) -> float:
    """Of log seconds against log n, least squares."""
    return float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0])


# ---- shown ----


def table(found: dict) -> str:
    """The benchmark for readers, in Markdown."""
    rows = {}
    for name, line in found["lines"].items():
        share = line.get("share of retraining")
        rows[name] = {key: f"{line[k]:,.0f}" if line[k] >= 100 else f"{line[k]:.2f}" for key, k in SIDES.items()}
        rows[name]["times the usual way"] = f"{line['times the usual way']:.1f}"
        rows[name]["of the limit"] = f"{100 * line['share of the limit']:.0f} %"
        rows[name]["of retraining"] = f"{100 * share:.1f} %" if share else ""
    grown = found["growth"]
    peaks = " and ".join(f"{NAMES[name]} {peak:.1f} GB" for name, peak in grown["peak memory at 30 models, GB"].items())
    note = (
        f"{found['machine']}. Medians of {found['rounds']} rounds, of the whole notebook one run; one model of an "
        "ensemble: "
        f"the ensemble's time by its models, {found['at once']} at once; usual way: float32, all threads; limit: "
        "matrix "
        f"products alone in {found['dtype']}. A network of three 3x3 convolutions (32, 64, 128 channels, each "
        "pooled), trained in the same rounds: "
        f"{found['former']:,.0f} samples per second. Time grows with the number of models to the power "
        f"{grown['slope, models']:.2f}, with the training set to the power {grown['slope, training set']:.2f}; "
        f"memory of a short study of four kinds with 30 models of each: {peaks}."
    )
    return f"{pd.DataFrame(rows).T.to_markdown(disable_numparse=True)}\n\n{note}"


def growth_figure(grown: dict) -> Figure:
    """Time against the number of models and against the size of the training set, both axes logarithmic."""
    made, axes = figure(1, 2, (8.0, 3.0))
    for axis, key, label in zip(axes.flat, ("models", "training set"), ("models", "training samples"), strict=True):
        n, times = np.array([int(k) for k in grown[key]]), np.array(list(grown[key].values()))
        axis.plot(n, times, "o", color="#0072B2")
        power = grown[f"slope, {key}"]
        middle = np.exp(np.log(times).mean() - power * np.log(n).mean())
        axis.plot(n, middle * n**power, color="#0072B2", linewidth=1)
        axis.plot(n, times[0] * n / n[0], color="#999999", linewidth=1, linestyle="--")
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds", title=f"slope {power:.2f}")
        axis.set_xticks(n, [f"{x:,}" for x in n], minor=False)
        axis.minorticks_off()
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--models", type=int, default=4, help="of netcomp_compare.ipynb")
    options = parser.parse_args()
    task = load_task("mnist")
    found = measure(task, options.rounds, options.models)
    found["growth"] = growth(task)
    found["machine"], found["rounds"] = describe(pick_device()), options.rounds
    found["at once"] = cores()
    found["dtype"] = "bfloat16" if has_fast_bfloat16(pick_device()) else "float32"
    with written_whole(WHERE) as part:
        part.write_text(json.dumps(found, indent=1), encoding="utf-8")
    picture = DATA / "report" / "cost_growth.png"
    save_figure(growth_figure(found["growth"]), picture)
    print(table(found))
    page, text = "docs/speed.md", f"{table(found)}\n\n![How cost grows](../{shown(picture)})"
    write_page(page_with({"performance": text}, page), page)


if __name__ == "__main__":
    main()
