"""Tables: rows of cells that show as HTML in a notebook and as Markdown in the README."""

import html
import itertools
import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from helpers.audit import MEASURES, MOST_STEPS, Audit, load_audit
from helpers.datasets import NAMES
from helpers.device import STARTED, describe, pick_device
from helpers.ensembles import BASELINES
from helpers.evaluation import Cost, Result, bootstrap, kl_intervals, load_result, load_results
from helpers.files import StudyError
from helpers.split import SIDES, Task
from helpers.unlearning import CHEAP, METHODS


class Text(str):
    """Sentences that a notebook shows as Markdown."""

    def _repr_markdown_(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Table:
    """header: list of str; rows: list of lists of str; note: one sentence under the table."""

    header: list[str]
    rows: list[list[str]]
    note: str = ""

    def _repr_html_(self) -> str:
        def line(cells, tag):
            return "<tr>" + "".join(f"<{tag}>{bold(html.escape(cell))}</{tag}>" for cell in cells) + "</tr>"

        def bold(text):
            return f"<b>{text[2:-2]}</b>" if text.startswith("**") else text

        body = "".join(line(row, "td") for row in self.rows)
        note = f"<p><i>{html.escape(self.note)}</i></p>" if self.note else ""
        return f"<table><thead>{line(self.header, 'th')}</thead><tbody>{body}</tbody></table>{note}"

    def __repr__(self) -> str:
        return self.markdown()

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        text = "\n".join("| " + " | ".join(row) + " |" for row in lines)
        return text + (f"\n\n{self.note}" if self.note else "")


def spread(values, scale: float = 1.0, digits: int = 2) -> str:
    """`mean ± standard deviation` over the models."""
    values = scale * np.asarray(values, float)
    mean = round(values.mean(), digits) + 0.0  # no "-0.0"
    return f"{mean:.{digits}f} ± {values.std():.{digits}f}"


def accuracy_table(results: dict[str, Result]) -> Table:
    """Accuracy in percent on the main subsets of the test half, and on the forget set of the training half."""
    subsets = ("all", "retain", "7_retain", "forget", "forget_train")
    rows = [
        [result.title, *(spread(result.accuracy[subset], 100) for subset in subsets)] for result in results.values()
    ]
    return Table(["accuracy, %", *subsets], rows, _over(results))


def all_subsets_table(results: dict[str, Result], measure: str = "accuracy") -> Table:
    """Accuracy in percent, or loss in nats, on every subset of the test half; one column per kind."""
    scale, digits = (100, 2) if measure == "accuracy" else (1, 3)
    first = next(iter(results.values()))
    rows = [
        [subset, *(spread(getattr(result, measure)[subset], scale, digits) for result in results.values())]
        for subset in getattr(first, measure)
    ]
    head = "accuracy, %" if measure == "accuracy" else "mean cross-entropy, nats"
    return Table([head, *(result.title for result in results.values())], rows, _over(results))


def gap_table(results: dict[str, Result], subset: str = "forget") -> Table:
    """KL(retrained || kind) on a subset with floor and ceiling, and the share of the gap that is closed."""
    rows = []
    for result in results.values():
        gap = result.gap[subset]
        low, high = bootstrap(100 * np.array(gap["values"]))
        share = spread(gap["values"], 100, 1)
        rows.append([result.title, spread(gap["kl"], digits=3), share, f"{low:.1f} to {high:.1f}"])
    any_gap = next(iter(results.values())).gap[subset]
    note = (
        f"Subset {subset}. Floor (retrained against retrained of other seeds): {any_gap['floor']:.3f} nats; "
        f"ceiling (retrained against trained): {any_gap['ceiling']:.3f} nats. {_over(results)}"
    )
    return Table(["kind", "KL(retrained || kind), nats", "gap closed, %", "95 % interval of the mean"], rows, note)


def cost_table(cost: Cost, title: str) -> Table:
    """Seconds of one unlearning and one retraining, measured in turn."""
    rows = [
        [f"{title}, one model", f"{np.median(cost.unlearning):.2f}"],
        ["retraining, one model", f"{np.median(cost.retraining):.2f}"],
        ["unlearning / retraining", f"{100 * cost.share:.1f} %"],
    ]
    return Table(
        ["wall time", "seconds"],
        rows,
        f"Medians of {len(cost.unlearning)} rounds, measured in turn in this run; of a retraining some fifty of its steps.",
    )


def settings_table(settings) -> Table:
    """The exact hyper-parameters of a dataclass."""
    return Table(["setting", "value"], [[key, str(value)] for key, value in vars(settings).items()])


def run_note(task: Task, n: int) -> Text:
    """Which run the outputs of a notebook are from, and how long all its stored models took when they were computed."""
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    minutes = (time.time() - STARTED) / 60
    computed = 0.0
    for kind in (*BASELINES, *METHODS):
        with suppress(StudyError):  # not stored, or of other models
            computed += sum(load_result(task.data.name, task.side, kind).seconds) / 60
    return Text(
        f"*This run: {task.data.source}, forgotten side {task.side}, {n} models of each kind, "
        f"{describe(pick_device())}; ended {when} UTC after {minutes:.1f} minutes. The models of all kinds that are "
        f"stored took {computed:.1f} minutes of processor time; where they are loaded, they are not computed again.*"
    )


def settings_of(results: dict[str, Result]) -> Table:
    """The exact hyper-parameters behind every kind of model."""
    rows = [[r.title, ", ".join(f"{k} = {v:.4g}" for k, v in sorted(r.settings.items()))] for r in results.values()]
    return Table(["models", "hyper-parameters"], rows)


def verdict(results: dict[str, Result], kind: str) -> Table:
    """What a method must deliver, in numbers: gap closed, and accuracy against retrained models."""
    mine, oracle = results[kind], results["retrained"]

    def difference(subset):
        return 100 * (np.mean(mine.accuracy[subset]) - np.mean(oracle.accuracy[subset]))

    rows = [
        ["gap closed on the forget test set", f"{100 * np.mean(mine.gap['forget']['values']):.1f} %"],
        [
            "gap closed on the forget training set",
            f"{100 * np.mean(mine.gap['forget_train']['values']):.1f} %",
        ],
        ["accuracy on retain against retrained", f"{difference('retain'):+.2f} points"],
        ["accuracy on 7_retain against retrained", f"{difference('7_retain'):+.2f} points"],
        ["accuracy on forget against retrained", f"{difference('forget'):+.2f} points"],
    ]
    if forgets_more(mine, oracle):
        rows.append(["forget loss", "above retraining's: it forgets more than retraining does (over-unlearning)"])
    return Table([mine.title, ""], rows, _over(results))


def forgets_more(result: Result, oracle: Result) -> bool:
    """True where a kind's mean loss on the forget training set exceeds that of retrained models by more than two of their
    standard deviations: over-unlearning, which singles the forgotten samples out (Streisand)."""
    usual = np.array(oracle.loss["forget_train"])
    spread_of_one = usual.std(ddof=1) if len(usual) > 1 else np.inf
    return bool(np.mean(result.loss["forget_train"]) > usual.mean() + 2 * spread_of_one)


def measures_table(found: dict[str, dict[str, Result]]) -> Table:
    """Every measure (rows) of every kind (columns), for all data sets whose audit is stored. found: dataset -> kind ->
    Result.

    The column "null" holds what retrained models give against each other (95 %). Bold: the methods closest to what
    retrained models give, among those that do not forget more than retraining does; these are marked "over".
    """
    kinds = ["trained", "retrained", *METHODS]
    rows, notes = [], []
    for dataset, results in found.items():
        try:
            check = load_audit(results)
        except StudyError as missing:
            notes.append(f"{NAMES[dataset]} is not shown: {missing}")
            continue
        rows += [[NAMES[dataset], *row] for row in _measures_of(results, check, kinds)]
        notes.append(_over(results))
    titles = [BASELINES.get(kind) or METHODS[kind].title for kind in kinds]
    note = (
        f"{' '.join(notes)} Null, 95 %: where means of retrained models lie (gap, KL, accuracy; bootstrap), or what they "
        "give against each other, measured as the methods are. U-LiRA, KLoM and forget loss in excess compare half of the "
        "models with half of the retrained ones, 20 times; Retrained's own value there is the mean of what makes its null. "
        "Bold: the methods that come closest to Retrained without forgetting more than it (over): the closest, and those "
        "whose value lies within its interval. Floor and ceiling: Retrained and Trained."
    )
    return Table(["data set", "measure", "null", *titles], rows, note)


def _measures_of(results: dict[str, Result], check: Audit, kinds: list[str]) -> list[list[str]]:
    """Rows of title, null and one cell per kind; a kind without results has empty cells."""
    present, oracle = [kind for kind in kinds if kind in results and kind in check.kinds], results["retrained"]
    over = {kind for kind in present if forgets_more(results[kind], oracle)}
    simple = {  # title: (result -> values, digits)
        "gap closed, forget test, %": (lambda r: 100 * np.array(r.gap["forget"]["values"]), 1),
        "gap closed, forget train, %": (lambda r: 100 * np.array(r.gap["forget_train"]["values"]), 1),
        "KL(retrained || kind), forget test, nats": (lambda r: np.array(r.gap["forget"]["kl"]), 2),
        "KL(retrained || kind), forget train, nats": (lambda r: np.array(r.gap["forget_train"]["kl"]), 2),
        "KL(retrained || kind), 7_retain, nats": (lambda r: np.array(r.gap["7_retain"]["kl"]), 3),
        "accuracy, forget test, %": (lambda r: 100 * np.array(r.accuracy["forget"]), 1),
        "accuracy, forget train, %": (lambda r: 100 * np.array(r.accuracy["forget_train"]), 1),
        "accuracy, 7_retain, %": (lambda r: 100 * np.array(r.accuracy["7_retain"]), 2),
        "accuracy, retain, %": (lambda r: 100 * np.array(r.accuracy["retain"]), 2),
    }
    rows = []
    for title, (read, digits) in simple.items():
        each = {kind: read(results[kind]) for kind in present}
        low, high = bootstrap(each["retrained"])
        texts = {kind: spread(values, digits=digits) for kind, values in each.items()}
        means = {kind: float(np.mean(values)) for kind, values in each.items()}
        closest = _closest(means, {kind: bootstrap(values) for kind, values in each.items()}, over)
        rows.append([title, f"{low:.{digits}f} to {high:.{digits}f}", *_marked(texts, kinds, closest)])
    for key, (title, unit, digits) in MEASURES.items():
        entries = {kind: check.kinds[kind][key] for kind in present}
        texts = {}
        for kind, entry in entries.items():
            if not np.isfinite(entry["value"]):
                texts[kind] = "needs 4 models"
                continue
            texts[kind] = f"{entry['value']:.{digits}f}"
            if entry["low"] < entry["high"]:
                texts[kind] += f" ({entry['low']:.{digits}f} to {entry['high']:.{digits}f})"
            if key == "relearn" and entry["high"] >= MOST_STEPS:
                texts[kind] += " or more"
        low, high = check.null[key]
        means = {kind: entry["value"] for kind, entry in entries.items()}
        closest = _closest(means, {kind: (entry["low"], entry["high"]) for kind, entry in entries.items()}, over)
        cells = _marked(texts, kinds, closest)
        if key.startswith(("excess", "beyond")):
            cells = [f"{cell} over" if kind in over else cell for kind, cell in zip(kinds, cells, strict=True)]
        rows.append([f"{title} ({unit})", f"{low:.{digits}f} to {high:.{digits}f}", *cells])
    for title, attribute in (("time", "seconds"), ("samples seen", "samples")):
        one = np.mean(getattr(oracle, attribute))
        cost = {kind: f"{100 * np.mean(getattr(results[kind], attribute)) / one:.1f}" for kind in present}
        rows.append([f"{title} / retraining, %", "", *(cost.get(kind, "") for kind in kinds)])
    return rows


def _closest(means: dict[str, float], intervals: dict[str, tuple[float, float]], over: set[str]) -> set[str]:
    """The method whose mean is closest to that of retrained models, of those that do not over-forget, and those whose
    mean lies within its interval."""
    methods = [kind for kind in means if kind in METHODS and kind not in over and np.isfinite(means[kind])]
    if not methods:
        return set()
    best = min(methods, key=lambda kind: abs(means[kind] - means["retrained"]))
    low, high = intervals[best]
    return {best, *(kind for kind in methods if low <= means[kind] <= high)}


def _marked(texts: dict[str, str], kinds: list[str], closest: set[str]) -> list[str]:
    """The cells of a row in the order of `kinds`, the closest in bold."""
    return [f"**{texts[kind]}**" if kind in closest else texts.get(kind, "") for kind in kinds]


def kl_table(task: Task, results: dict[str, Result], subset: str = "forget") -> Table:
    """KL(row || column) in nats with the 95 % interval of its mean over the column's models."""
    kinds, found = kl_intervals(task, results, subset)
    rows = [
        [results[kind].title, *(f"{mean:.2f} ({low:.2f} to {high:.2f})" for mean, low, high in row)]
        for kind, row in zip(kinds, found, strict=True)
    ]
    note = f"Row: a of KL(a || b), column: b; subset {subset}; pairs of different seeds. {_over(results)}"
    return Table(["KL, nats", *(results[kind].title for kind in kinds)], rows, note)


def overview_table(found: dict[str, dict[str, Result]]) -> Table:
    """One row per data set and kind with the measures that matter first. found: dataset -> kind -> Result."""
    rows = []
    for dataset, results in found.items():
        oracle = results["retrained"]
        kinds = [kind for kind in (*BASELINES, *METHODS) if kind in results]
        gaps = {kind: 100 * np.array(results[kind].gap["forget"]["values"]) for kind in kinds}
        over = {kind for kind in kinds if forgets_more(results[kind], oracle)}
        means = {kind: values.mean() for kind, values in gaps.items()}
        closest = _closest(means, {kind: bootstrap(values) for kind, values in gaps.items()}, over)
        for kind in kinds:
            r = results[kind]
            gap = spread(gaps[kind], digits=1)
            rows.append(
                [
                    NAMES[dataset],
                    r.title + (" (over)" if kind in over and kind in METHODS else ""),
                    f"**{gap}**" if kind in closest else gap,
                    spread(r.gap["forget"]["kl"], digits=2),
                    spread(r.accuracy["forget"], 100, 1),
                    spread(r.accuracy["7_retain"], 100),
                    spread(r.accuracy["retain"], 100),
                    f"{100 * (np.mean(r.accuracy['retain']) - np.mean(oracle.accuracy['retain'])):+.2f}",
                    f"{100 * np.mean(r.seconds) / np.mean(oracle.seconds):.1f}" if kind in METHODS else "",
                ]
            )
    header = ["data set", "models", "gap closed, %", "KL, nats", "forget, %", "7_retain, %", "retain, %"]
    header += ["retain against retrained, points", "time / retraining, %"]
    sizes = ", ".join(
        f"{len(r['retrained'])} models of each kind on {NAMES[d]}"
        + (f" ({r['retrained'].source})" if r["retrained"].source != NAMES[d] else "")
        for d, r in found.items()
    )
    device = next(iter(next(iter(found.values())).values())).device
    note = (
        f"Test half; mean ± standard deviation over {sizes}; {device}. KL(retrained || kind) on forget: Retrained is the "
        "floor, Trained the ceiling. Accuracies aim at those of Retrained. Bold: the largest part of the gap closed, and what "
        "lies within its 95 % interval. Over: forgets more than retraining does."
    )
    return Table(header, rows, note)


def sides_table(*datasets: str, kinds=("trained", "retrained", "gemu", "gefeu")) -> Table:
    """Forgetting the crossbar sevens beside forgetting the plain ones, with the same hyper-parameters; on the given data
    sets, or all."""
    rows, notes = [], []
    for dataset, side in itertools.product(datasets or NAMES, SIDES):
        try:
            results = load_results(dataset, side)
        except StudyError:
            flag = f" DATASET={dataset}" if dataset != "mnist" else ""
            notes.append(f"{NAMES[dataset]}, {side} is not shown: `make study{flag} FORGET={side}` makes it.")
            continue
        for kind in kinds:
            r, gap = results[kind], results[kind].gap["forget"]
            rows.append(
                [
                    NAMES[dataset],
                    side,
                    r.title,
                    spread(gap["values"], 100, 1),
                    f"{gap['floor']:.2f} to {gap['ceiling']:.2f}",
                    *(spread(r.accuracy[subset], 100, 1) for subset in ("forget", "7_retain", "retain")),
                ]
            )
        notes.append(f"{NAMES[dataset]}, {side}: {len(results['retrained'])} models of each kind.")
    header = ["data set", "forgotten side", "models", "gap closed, %", "floor to ceiling, nats"]
    return Table([*header, "forget, %", "7_retain, %", "retain, %"], rows, " ".join(notes))


def sides_in_words(*datasets: str, kinds=("gemu", "gefeu")) -> Text:
    """Which side is harder, with every number read from the stored results; data sets whose sides are not both stored
    are left out."""
    lines = []
    for dataset in datasets or NAMES:
        try:
            sides = {side: load_results(dataset, side) for side in SIDES}
        except StudyError:
            continue

        def mean(side, kind, subset, sides=sides):
            return 100 * np.mean(sides[side][kind].accuracy[subset])

        def gap(side, kind, sides=sides):
            return sides[side][kind].gap["forget"]

        width = {side: gap(side, "trained")["ceiling"] - gap(side, "trained")["floor"] for side in SIDES}
        closed = {side: 100 * np.mean([np.mean(gap(side, kind)["values"]) for kind in kinds]) for side in SIDES}
        paid = {
            side: np.mean([mean(side, "retrained", "7_retain") - mean(side, kind, "7_retain") for kind in kinds])
            for side in SIDES
        }
        one, other = SIDES
        names = " and ".join(METHODS[kind].title for kind in kinds)
        by_gap, by_cost = min(SIDES, key=closed.get), max(SIDES, key=paid.get)
        verdict = (
            f"Both by the gap closed and by what the sevens that stay pay, the {by_gap} side is harder."
            if by_gap == by_cost
            else f"By the gap closed the {by_gap} side is harder, by what the sevens that stay pay the {by_cost} side."
        )
        lines.append(
            f"**{NAMES[dataset]}**: models retrained without the {one} sevens still read "
            f"{mean(one, 'retrained', 'forget'):.0f} % of those, models retrained without the {other} ones "
            f"{mean(other, 'retrained', 'forget'):.0f} %; the gap is {width[one]:.1f} and {width[other]:.1f} nats wide. "
            f"{names} close {closed[one]:.0f} % and {closed[other]:.0f} % of it on average, and cost the sevens that stay "
            f"{paid[one]:.1f} and {paid[other]:.1f} points. {verdict}"
        )
    return Text("\n".join(f"- {line}" for line in lines))


def paired_comparison(found: dict[str, dict[str, Result]], a: str, b: str, subset: str = "forget") -> Table:
    """Is method a better than b? Difference of the gap closed, paired over the models, with a bootstrap interval.

    found: dataset -> kind -> Result.
    """
    rows = []
    for dataset, results in found.items():
        first, second = (100 * np.array(results[kind].gap[subset]["values"]) for kind in (a, b))
        low, high = bootstrap(first - second)
        word = "yes" if low > 0 else "no" if high < 0 else "undecided"
        difference = f"{(first - second).mean():+.1f} ({low:+.1f} to {high:+.1f})"
        rows.append(
            [NAMES[dataset], str(len(first)), spread(first, digits=1), spread(second, digits=1), difference, word]
        )
    titles = [METHODS[kind].title for kind in (a, b)]
    header = [
        "data set",
        "models",
        *(f"{title}: gap closed, %" for title in titles),
        "difference, points (95 % interval)",
    ]
    return Table(
        [*header, f"is {titles[0]} closer to retraining than {titles[1]}?"], rows, f"Paired by model; {subset}."
    )


def findings(found: dict[str, dict[str, Result]]) -> Text:
    """What was found, in five sentences, with every number read from the stored results and audits; data sets whose audit
    is not stored are left out."""
    checks = {}
    for dataset in found:
        try:
            checks[dataset] = load_audit(found[dataset])
        except StudyError as missing:
            print(f"{NAMES[dataset]} is left out of the findings. {missing}")
    ours = ("gemu", "gefeu")

    def gaps(dataset, kind):
        return 100 * np.array(found[dataset][kind].gap["forget"]["values"])

    def lost(dataset, kind, subset="retain"):
        accuracy = {name: np.mean(found[dataset][name].accuracy[subset]) for name in ("retrained", kind)}
        return 100 * (accuracy["retrained"] - accuracy[kind])

    def time_share(dataset, kind):
        return 100 * np.mean(found[dataset][kind].seconds) / np.mean(found[dataset]["retrained"].seconds)

    def value(dataset, kind, key):
        return checks[dataset].kinds[kind][key]["value"]

    def each(say):
        return "; ".join(f"on {NAMES[dataset]} {say(dataset)}" for dataset in checks)

    def read(dataset, kind):
        return 100 * np.mean(found[dataset][kind].accuracy["forget"])

    def number(dataset, kind, key, form):
        found_value = value(dataset, kind, key)
        return format(found_value, form) if np.isfinite(found_value) else "unknown (needs 4 models)"

    def closing(dataset):
        told = " and ".join(
            f"{METHODS[kind].title} {gaps(dataset, kind).mean():.1f} %, reading {read(dataset, kind):.0f} % of them, for "
            f"{lost(dataset, kind):.2f} points of retain and {lost(dataset, kind, '7_retain'):.2f} of 7_retain accuracy in "
            f"{time_share(dataset, kind):.0f} % of the time"
            for kind in ours
        )
        return f"(where retrained models read {read(dataset, 'retrained'):.0f} % of the forgotten sevens) {told}"

    def over(dataset):
        others = ", ".join(f"{METHODS[kind].title} {number(dataset, kind, 'excess', '+.1f')}" for kind in ours)
        return (
            f"it closes {gaps(dataset, 'ascent').mean():.0f} %, its forget loss lies "
            f"{number(dataset, 'ascent', 'excess', '.0f')} standard deviations above that of retrained models, and it loses "
            f"{lost(dataset, 'ascent'):.0f} points elsewhere ({others}; below 0: forgets less than retraining does)"
        )

    def against_cheap(dataset):
        results = found[dataset]
        best = max(ours, key=lambda kind: gaps(dataset, kind).mean())
        words = {"more": [], "as much within the interval": [], "less": []}
        for kind in (kind for kind in CHEAP if kind in results):
            low, high = bootstrap(gaps(dataset, kind) - gaps(dataset, best))
            word = "more" if low > 0 else "less" if high < 0 else "as much within the interval"
            pays = f"{gaps(dataset, kind).mean():.1f} %, {lost(dataset, kind):.2f} and {lost(dataset, kind, '7_retain'):.2f}"
            words[word].append(f"{results[kind].title} ({pays} points)")
        told = [f"{', '.join(names)} {word}" for word, names in words.items() if names]
        kinds = ["retrained", *(kind for kind in METHODS if kind in results)]
        cells = [row[2:] for row in _measures_of(results, checks[dataset], kinds)]
        wins = {results[kind].title: sum(row[at].startswith("**") for row in cells) for at, kind in enumerate(kinds)}
        most = ", ".join(f"{title} {count}" for title, count in sorted(wins.items(), key=lambda pair: -pair[1])[:4])
        return (
            f"{METHODS[best].title} closes {gaps(dataset, best).mean():.1f} %, and of the cheap methods {'; '.join(told)}; "
            f"among the closest to retraining by most of the {len(cells) - 2} measures of the table: {most}"
        )

    def attacked(dataset):
        low, high = checks[dataset].null["u_lira"]
        kinds = [kind for kind in (*ours, "randomlabels", "salun", "trained") if kind in checks[dataset].kinds]
        named = ", ".join(f"{found[dataset][kind].title} {number(dataset, kind, 'u_lira', '.2f')}" for kind in kinds)
        return f"{named} (retrained among themselves {low:.2f} to {high:.2f})"

    def left(dataset):
        kinds = [
            kind for kind in ("trained", *ours, "randomlabels", "salun", "retrained") if kind in checks[dataset].kinds
        ]
        return ", ".join(
            f"{found[dataset][kind].title} {value(dataset, kind, 'relearn'):.0f} steps and {value(dataset, kind, 'probe'):.2f}"
            for kind in kinds
        )

    blind = all(value(dataset, "retrained", "probe") > 0.9 for dataset in checks)
    probe = " (the probe tells nothing apart here: models that never saw a crossbar hold it as well)" if blind else ""
    lines = [
        f"How much of the gap is closed on the forget test set: {each(closing)}.",
        f"Gradient ascent as published over-forgets: {each(over)}.",
        f"Against cheap methods, paired over the models (in brackets: gap closed, retain and 7_retain accuracy lost): "
        f"{each(against_cheap)}.",
        f"An attacker who knows both ensembles (U-LiRA) tells models from retrained ones with accuracy: {each(attacked)}.",
        f"Relearning the forget set, and reading the crossbar from the last hidden layer (balanced accuracy): "
        f"{each(left)}{probe}.",
    ]
    return Text("\n".join(f"{place}. {line}" for place, line in enumerate(lines, 1)))


def _over(results: dict[str, Result]) -> str:
    result = next(iter(results.values()))
    return f"Mean ± standard deviation over {len(result)} models; {result.dataset}, {result.device}."
