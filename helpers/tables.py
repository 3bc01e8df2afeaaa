"""Tables: rows of cells that show as HTML in a notebook and as Markdown in the README."""

import html
from dataclasses import dataclass

import numpy as np

from helpers.evaluation import Cost, Result, bootstrap


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


def overview_table(results: dict[str, Result]) -> Table:
    """Every kind of model against the main measures; best method in bold."""
    oracle = results["retrained"]
    whole = np.mean(oracle.seconds)
    kinds = [kind for kind in results if kind != "untrained"]
    methods = [kind for kind in kinds if kind not in ("trained", "retrained")]
    columns = {
        "gap closed, forget test, %": lambda r: (100 * np.array(r.gap["forget"]["values"]), 1, "high"),
        "gap closed, forget train, %": lambda r: (100 * np.array(r.gap["forget_train"]["values"]), 1, "high"),
        "accuracy forget, %": lambda r: (100 * np.array(r.accuracy["forget"]), 1, ""),
        "accuracy retain, %": lambda r: (100 * np.array(r.accuracy["retain"]), 2, "high"),
        "accuracy 7_retain, %": lambda r: (100 * np.array(r.accuracy["7_retain"]), 2, "high"),
        "time / retraining, %": lambda r: (100 * np.array(r.seconds) / whole, 1, ""),
    }
    best = {
        name: max(methods, key=lambda kind: column(results[kind])[0].mean())
        for name, column in columns.items()
        if methods and column(oracle)[2] == "high"
    }
    rows = []
    for kind in kinds:
        cells = [spread(*column(results[kind])[:1], digits=column(results[kind])[1]) for column in columns.values()]
        marked = [f"**{c}**" if best.get(name) == kind else c for name, c in zip(columns, cells, strict=True)]
        rows.append([results[kind].title, *marked])
    return Table(["", *columns], rows, _over(results) + " Best method in bold; accuracies aim at Retrained's.")


def paired_comparison(results: dict[str, Result], a: str, b: str, subset: str = "forget") -> Table:
    """Is method a better than b? Difference of the gap closed, paired over the models, with a bootstrap interval."""
    first, second = (100 * np.array(results[kind].gap[subset]["values"]) for kind in (a, b))
    low, high = bootstrap(first - second)
    word = "yes" if low > 0 else "no" if high < 0 else "undecided"
    rows = [
        [f"gap closed by {results[a].title}, %", spread(first, digits=1)],
        [f"gap closed by {results[b].title}, %", spread(second, digits=1)],
        ["difference, points", f"{(first - second).mean():+.1f} (95 % interval {low:+.1f} to {high:+.1f})"],
        [f"is {results[a].title} closer to retraining than {results[b].title}?", word],
    ]
    return Table([f"subset {subset}", ""], rows, _over(results))


def _over(results: dict[str, Result]) -> str:
    result = next(iter(results.values()))
    return f"Mean ± standard deviation over {len(result)} models; {result.dataset}, {result.device}."
