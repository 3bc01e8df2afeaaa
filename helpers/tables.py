"""Tables: rows of cells that show as HTML in a notebook and as Markdown in the README."""

import html
import itertools
import time
from dataclasses import dataclass

import numpy as np

from helpers.audit import MEASURES, Audit, load_audit
from helpers.datasets import NAMES
from helpers.device import STARTED, describe, pick_device
from helpers.ensembles import BASELINES
from helpers.evaluation import Cost, Result, bootstrap, load_result, load_results, results_folder
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
    return f"{values.mean():.{digits}f} ± {values.std():.{digits}f}"


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
    return Table(["wall time", "seconds"], rows, "Measured in turn in this run, on the same device.")


def settings_table(settings) -> Table:
    """The exact hyper-parameters of a dataclass."""
    return Table(["setting", "value"], [[key, str(value)] for key, value in vars(settings).items()])


def run_note(task: Task, n: int) -> Text:
    """Which run the outputs of a notebook are from, and how long all its stored models took when they were computed."""
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    minutes = (time.time() - STARTED) / 60
    stored = [k for k in (*BASELINES, *METHODS) if (results_folder(task) / f"{k}.json").is_file()]
    computed = sum(sum(load_result(task.data.name, task.side, kind).seconds) for kind in stored) / 60
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
    if np.mean(mine.loss["forget"]) > np.mean(oracle.loss["forget"]) + 2 * np.std(oracle.loss["forget"]):
        rows.append(["forget loss", "above retraining's: it forgets more than retraining does (over-unlearning)"])
    return Table([mine.title, ""], rows, _over(results))


def measures_table(results: dict[str, Result], found: Audit) -> Table:
    """Every measure (rows) of every kind (columns); bold: the method closest to what retrained models give.

    The column "null" holds what retrained models give against each other (95 %); "over" marks forgetting more than
    they do.
    """
    kinds = [kind for kind in ("trained", "retrained", *METHODS) if kind in results]
    whole, samples = np.mean(results["retrained"].seconds), np.mean(results["retrained"].samples)
    simple = {  # title: (result -> values, digits)
        "gap closed, forget test, %": (lambda r: 100 * np.array(r.gap["forget"]["values"]), 1),
        "gap closed, forget train, %": (lambda r: 100 * np.array(r.gap["forget_train"]["values"]), 1),
        "accuracy, forget test, %": (lambda r: 100 * np.array(r.accuracy["forget"]), 1),
        "accuracy, forget train, %": (lambda r: 100 * np.array(r.accuracy["forget_train"]), 1),
        "accuracy, 7_retain, %": (lambda r: 100 * np.array(r.accuracy["7_retain"]), 2),
        "accuracy, retain, %": (lambda r: 100 * np.array(r.accuracy["retain"]), 2),
    }
    rows = []
    for title, (read, digits) in simple.items():
        values = {kind: float(np.mean(read(results[kind]))) for kind in kinds}
        low, high = bootstrap(read(results["retrained"]))
        texts = {kind: spread(read(results[kind]), digits=digits) for kind in kinds}
        rows.append([title, f"{low:.{digits}f} to {high:.{digits}f}", *_closest(texts, values)])
    for key, (title, unit, digits) in MEASURES.items():
        values = {kind: found.kinds[kind][key]["value"] for kind in kinds}
        low, high = found.null[key]
        texts = {kind: f"{value:.{digits}f}" for kind, value in values.items()}
        if key == "excess":
            texts |= {kind: f"{texts[kind]} over" for kind in kinds if values[kind] > max(high, 2)}
        rows.append([f"{title} ({unit})", f"{low:.{digits}f} to {high:.{digits}f}", *_closest(texts, values)])
    for title, attribute, one in (("time", "seconds", whole), ("samples seen", "samples", samples)):
        cost = {kind: 100 * np.mean(getattr(results[kind], attribute)) / one for kind in kinds}
        rows.append([f"{title} / retraining, %", "", *(f"{cost[kind]:.1f}" for kind in kinds)])
    note = (
        _over(results) + " Bold: the method that comes closest to Retrained. Floor and ceiling: Retrained and Trained."
    )
    return Table(["measure", "null", *(results[kind].title for kind in kinds)], rows, note)


def _closest(texts: dict[str, str], values: dict[str, float]) -> list[str]:
    """The cells of a row, with the method's in bold that is closest to the retrained models' value."""
    methods = [kind for kind in texts if kind in METHODS]
    best = min(methods, key=lambda kind: abs(values[kind] - values["retrained"])) if methods else ""
    return [f"**{text}**" if kind == best else text for kind, text in texts.items()]


def overview_table(found: dict[str, dict[str, Result]]) -> Table:
    """One row per data set and kind with the measures that matter first. found: dataset -> kind -> Result."""
    rows = []
    for dataset, results in found.items():
        oracle = results["retrained"]
        kinds = [kind for kind in ("trained", "retrained", *METHODS) if kind in results]
        gaps = {kind: 100 * np.mean(results[kind].gap["forget"]["values"]) for kind in kinds}
        best = min((k for k in kinds if k in METHODS), key=lambda k: abs(gaps[k] - 100), default="")
        for kind in kinds:
            r = results[kind]
            gap = spread(r.gap["forget"]["values"], 100, 1)
            rows.append(
                [
                    NAMES[dataset],
                    r.title,
                    f"**{gap}**" if kind == best else gap,
                    spread(r.accuracy["forget"], 100, 1),
                    spread(r.accuracy["7_retain"], 100),
                    spread(r.accuracy["retain"], 100),
                    f"{100 * (np.mean(r.accuracy['retain']) - np.mean(oracle.accuracy['retain'])):+.2f}",
                    f"{100 * np.mean(r.seconds) / np.mean(oracle.seconds):.1f}",
                ]
            )
    header = ["data set", "models", "gap closed, %", "forget, %", "7_retain, %", "retain, %"]
    header += ["retain against retrained, points", "time / retraining, %"]
    sizes = ", ".join(
        f"{len(r['retrained'])} models of each kind on {NAMES[d]}"
        + (f" ({r['retrained'].source})" if r["retrained"].source != NAMES[d] else "")
        for d, r in found.items()
    )
    device = next(iter(next(iter(found.values())).values())).device
    note = f"Test half; mean ± standard deviation over {sizes}; {device}. Accuracies aim at those of Retrained."
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


def findings(found: dict[str, dict[str, Result]], side: str) -> Text:
    """What was found, in words, with every number read from the stored results and audits."""
    lines = []
    for dataset, results in found.items():
        check = load_audit(dataset, side)
        oracle = results["retrained"]

        def gap(kind, results=results):
            return 100 * np.mean(results[kind].gap["forget"]["values"])

        def lost(kind, results=results, oracle=oracle):
            return 100 * (np.mean(oracle.accuracy["retain"]) - np.mean(results[kind].accuracy["retain"]))

        def value(kind, key, check=check):
            return check.kinds[kind][key]["value"]

        def share(kind, results=results, oracle=oracle):
            return 100 * np.mean(results[kind].seconds) / np.mean(oracle.seconds)

        cheap = max((kind for kind in CHEAP if kind in results and lost(kind) <= 1), key=gap, default=None)
        best = max(("gemu", "gefeu"), key=gap)
        name = {kind: result.title for kind, result in results.items()}
        lines.append(
            f"**{NAMES[dataset]}**, {len(oracle)} models of each kind. GEMU closes {gap('gemu'):.1f} % and GeFeU "
            f"{gap('gefeu'):.1f} % of the gap on the forget test set for {lost('gemu'):.2f} and {lost('gefeu'):.2f} points "
            f"of retain accuracy, in {share('gemu'):.0f} % and {share('gefeu'):.0f} % of the time of retraining."
        )
        lines.append(
            f"Gradient ascent as published closes {gap('ascent'):.0f} %: its forget loss lies "
            f"{value('ascent', 'excess'):.0f} standard deviations above that of retrained models, which is over-forgetting, "
            f"and it loses {lost('ascent'):.1f} points elsewhere. The forget loss of GEMU and GeFeU lies at "
            f"{value('gemu', 'excess'):+.1f} and {value('gefeu', 'excess'):+.1f} on that scale."
        )
        if cheap:
            word = "more" if gap(cheap) > gap(best) else "less"
            lines.append(
                f"The best of the cheap methods that lose at most one point is {name[cheap]}: it closes {gap(cheap):.1f} % "
                f"for {lost(cheap):.2f} points in {share(cheap):.0f} % of the time, {word} than {name[best]}. U-LiRA (below) "
                f"tells it from retraining with accuracy {value(cheap, 'u_lira'):.2f}, {name[best]} with "
                f"{value(best, 'u_lira'):.2f}; it relearns the forget set in {value(cheap, 'relearn'):.0f} steps, "
                f"{name[best]} in {value(best, 'relearn'):.0f}, retrained models in {value('retrained', 'relearn'):.0f}."
            )
        low, high = check.null["u_lira"]
        lines.append(
            f"An attacker who knows both ensembles (U-LiRA) tells GEMU's models from retrained ones with accuracy "
            f"{value('gemu', 'u_lira'):.2f} and GeFeU's with {value('gefeu', 'u_lira'):.2f}; retrained models among "
            f"themselves give {low:.2f} to {high:.2f}, trained ones {value('trained', 'u_lira'):.2f}."
        )
        lines.append(
            f"A linear read-out of the last hidden layer still finds the crossbar with balanced accuracy "
            f"{value('gemu', 'probe'):.2f} after GEMU and {value('gefeu', 'probe'):.2f} after GeFeU, against "
            f"{value('trained', 'probe'):.2f} before and {value('retrained', 'probe'):.2f} in models that never saw one."
        )
    return Text("\n".join(f"- {line}" for line in lines))


def _over(results: dict[str, Result]) -> str:
    result = next(iter(results.values()))
    return f"Mean ± standard deviation over {len(result)} models; {result.dataset}, {result.device}."
