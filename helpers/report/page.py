"""What README.md and docs/results.md show of a release, written between their marks from the files in data/report/, and
what docs/forms.md and a line of the README show of the stored studies."""

import json
import re
import sys

import pandas as pd

from helpers.data.task import NAMES
from helpers.evaluation.frame import COLUMNS, headline, mean
from helpers.files import DATA, ROOT, StudyError, load_arrays, load_frame, shown, written_whole
from helpers.report.export import markdown
from helpers.report.forms import forms_text, parts_lines
from helpers.report.frontier import budgets, frontier
from helpers.report.requests import CELLS, hardest, requests_figure, side_by_side
from helpers.report.style import save_figure
from helpers.report.summary import EXAMPLE_PARTS, EXAMPLES, summary
from helpers.report.tables import NONE, best_plain, in_short, kinds_in, models_in, no_gap, overview_table
from helpers.report.words import conclusions
from helpers.unlearning import METHODS, TITLES
from helpers.unlearning.method import Method

REPORT = DATA / "report"
ABOUT = REPORT / "release.json"  # what made the frame beside it
REMEDY = "take the published one, or run `make release`."


def report() -> None:
    """Writes what stands between the marks of README.md and docs/results.md, and the figures, from the release in
    data/report/; docs/forms.md, and a line of the README, from data/studies/."""
    results, about = released()
    mine = first_of(results)
    pages = {
        "README.md": page_with(
            {
                "results": first_screen(results, about),
                "conclusions": conclusions_text(results),
                "methods": methods_text(),
            }
        ),
        "docs/results.md": page_with({"results": results_text(results, about)}, "docs/results.md"),
    }
    if forms := forms_text():
        pages["docs/forms.md"] = page_with({"forms": forms}, "docs/forms.md")
    save_figure(frontier(with_frontier(results)), REPORT / "frontier.png")
    if found := compared(results, about):
        save_figure(requests_figure(found), REPORT / "requests.png")
    try:
        shown_above = summary(mine, load_arrays(REPORT / EXAMPLES, REMEDY, EXAMPLE_PARTS))
        for suffix in ("png", "svg"):
            save_figure(shown_above, REPORT / f"summary.{suffix}")
    except StudyError as error:
        print(error)
    for name, page in pages.items():
        write_page(page, name)
    print(f"{', '.join(pages)} and the figures in {shown(REPORT)}/ show release {about['version']}.")


def released() -> tuple[pd.DataFrame, dict]:
    """The results frame of the release in data/report/, and what made it (release.json)."""
    results, about = load_frame(REPORT / "measures.csv.gz", COLUMNS, REMEDY), about_release()
    if not {"version", "date", "machine", "sources"} <= set(about):
        raise StudyError(f"{shown(ABOUT)} is missing or damaged: {REMEDY}")
    return results, about


def about_release() -> dict:
    """What release.json holds; empty where it is missing or damaged."""
    try:
        found = json.loads(ABOUT.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def requests_of(results: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """(data set, request) -> its results, in the order of the frame."""
    return dict(list(results.groupby(["dataset", "forget"], sort=False)))


def first_of(results: pd.DataFrame) -> pd.DataFrame:
    """The results on the release's first data set and request, which the README shows."""
    return next(iter(requests_of(results).values()))


def with_frontier(results: pd.DataFrame) -> pd.DataFrame:
    """The results on the requests whose frontier was measured."""
    return pd.concat(
        [mine for mine in requests_of(results).values() if budgets(set(mine.kind), "new")] or [first_of(results)]
    )


def compared(results: pd.DataFrame, about: dict) -> dict[str, pd.DataFrame]:
    """Data set and request in words -> its results; empty where no data set has several requests."""
    found = requests_of(results)
    several = len(found) > results.dataset.nunique()
    return {f"{NAMES[name]}, {called(name, words, about)}": mine for (name, words), mine in found.items() if several}


def called(dataset: str, words: str, about: dict) -> str:
    """A request as it is called: "class 9 (ankle boot)" where a class has a name."""
    title = about.get("titles", {}).get(f"{dataset}, {words}", words)
    return title if title.startswith(f"{words} (") else words


def conclusions_text(results: pd.DataFrame, storage: str | None = None) -> str:
    """What was found on the first request, what the others add, and what stored studies say on the methods' parts."""
    mine = first_of(results)
    lines = conclusions(mine).data.splitlines()
    found = {words: each for (name, words), each in requests_of(results).items() if name == mine.iloc[0].dataset}
    more, numbered = [hardest(found), *parts_lines(storage)], sum(line[:1].isdigit() for line in lines)
    lines += [f"{place}. {line}" for place, line in enumerate(filter(None, more), numbered + 1)]
    return "\n".join(lines)


def title_of(dataset: str, about: dict) -> str:
    """A data set's name and, where that says more, its source."""
    name, source = NAMES[dataset], about["sources"][dataset]
    return name if source == name else f"{name} ({source})"


def first_screen(results: pd.DataFrame, about: dict) -> str:
    """Figure and table of the README, in Markdown: the first data set alone, seven rows, four columns."""
    mine = first_of(results)
    table = in_short(mine).iloc[:-1]
    others = ", ".join(NAMES[dataset] for dataset in about["sources"] if dataset != mine.iloc[0].dataset)
    note = (
        f"{title_of(mine.iloc[0].dataset, about)}, forgotten: {mine.iloc[0].forget}; {headline(mine)} split, "
        f"mean ± standard deviation over {models_in(mine)} models of each kind. [All methods and measures"
        f"{f', and {others}' if others else ''}](docs/results.md). Release {about['version']} of "
        f"{about['date']}."
    )
    return f"![{summary_words(mine)}](data/report/summary.png)\n\n{markdown(table)}\n\n{note}"


def summary_words(results: pd.DataFrame) -> str:
    """The first figure in words, for whoever cannot see it."""
    split, there = headline(results), set(results.kind)
    shown_kinds = [kind for kind in ("trained", "retrained", "gemu", "gefeu", "ascent") if kind in there]
    read = [f"{TITLES[k]} {100 * mean(results, k, 'accuracy', split, 'forget'):.0f} %" for k in shown_kinds]
    closers = [kind for kind in ("gemu", "gefeu", best_plain(results), "new") if kind in there]
    closed = [f"{TITLES[k]} {100 * mean(results, k, 'energy_gap', split, 'forget'):.0f} %" for k in closers]
    return (
        "Forgotten samples and what each kind of model reads in them, beside distance to retraining closed against "
        f"cost, for every method. Forgotten samples read correctly: {', '.join(read)}. "
        f"Distance closed: {', '.join(closed)}."
    )


def results_text(results: pd.DataFrame, about: dict) -> str:
    """Frontier, requests side by side, and of each what was found and a table of all methods, in Markdown. about: of
    the release, as data/report/release.json."""
    parts = ["![Cost of every method against distance closed, attack and accuracy lost](../data/report/frontier.png)"]
    if found := compared(results, about):
        parts += ["## What is hard to forget", "![Requests side by side](../data/report/requests.png)"]
        table = side_by_side(found).reset_index("models").rename_axis("forgotten")
        notes = [f"{words}: {no_gap(mine)}" for words, mine in found.items() if no_gap(mine)]
        parts += [markdown(table), " ".join([CELLS, *notes])]
    for (dataset, words), mine in requests_of(results).items():
        note = (
            f"{models_in(mine)} models of each kind. The distances and the accuracy on the forgotten samples are of "
            f"the {headline(mine)} split."
        )
        parts += [
            f"## {title_of(dataset, about)}, forgotten: {called(dataset, words, about)}",
            note,
            conclusions(mine).data,
        ]
        parts += [markdown(overview_table(mine, kinds_in(mine)).data)]
    made = f"Release {about['version']} of {about['date']}; {about['machine']}."
    return "\n\n".join([*parts, f"Mean ± standard deviation over the models. {made}"])


def methods_text() -> str:
    """Every method in a line, in Markdown, from its declaration and docstring."""
    rows = {}
    for method in METHODS.values():
        paper = re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", method.source)
        rows[method.title] = {"what it does": does(method), "access to the forget set": method.reads, "paper": paper}
    return markdown(pd.DataFrame.from_dict(rows, "index").rename_axis("method"))


def does(method: Method) -> str:
    """What a method does, in a sentence: in the docstring of its module what follows its title and a colon at the start
    of a line; else the docstring's first sentence."""
    text = sys.modules[method.run.__module__].__doc__ or NONE
    sentence = r"(.+?)(?:\.(?=\n|\s+[A-Z]|\Z)|\n\n|\Z)"
    found = re.search(rf"^{re.escape(method.title)}: {sentence}", text, re.DOTALL | re.MULTILINE)
    return " ".join((found or re.match(sentence, text, re.DOTALL))[1].split())


def page_with(texts: dict[str, str], name: str = "README.md") -> str:
    """A page of the repository with each text between its marks (mark -> text); the rest stays as it is."""
    page = (ROOT / name).read_text(encoding="utf-8")
    for mark, text in texts.items():
        begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
        before, found, rest = page.partition(begin)
        if not found or end not in rest:
            raise StudyError(f"{name} has lost its lines {begin} and {end}: put them back where the text should stand.")
        page = f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"
    return page


def write_page(page: str, name: str = "README.md") -> None:
    """Replaces a page of the repository."""
    with written_whole(ROOT / name) as part:
        part.write_text(page, encoding="utf-8")
