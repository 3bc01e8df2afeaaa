"""What README.md and docs/results.md show of a release, written between their marks from the files in data/report/
alone, and what docs/forms.md shows of the stored studies."""

import json
import re
import sys

import pandas as pd

from helpers.data.task import NAMES
from helpers.evaluation.frame import COLUMNS, headline, mean
from helpers.files import DATA, ROOT, StudyError, load_arrays, load_frame, shown, written_whole
from helpers.report.export import markdown
from helpers.report.forms import forms_text
from helpers.report.frontier import frontier
from helpers.report.style import save_figure
from helpers.report.summary import EXAMPLE_PARTS, EXAMPLES, summary
from helpers.report.tables import NONE, best_plain, in_short, kinds_in, models_in, overview_table
from helpers.report.words import conclusions
from helpers.unlearning import METHODS, TITLES
from helpers.unlearning.method import Method

REPORT = DATA / "report"
ABOUT = REPORT / "release.json"  # what made the frame beside it
REMEDY = "take the published one, or run `make release`."


def report() -> None:
    """Writes what stands between the marks of README.md and docs/results.md, and the figures, from the release in
    data/report/ alone; and docs/forms.md from data/studies/."""
    results, about = released()
    pages = {
        "README.md": page_with(
            {
                "results": first_screen(results, about),
                "conclusions": conclusions(first_of(results, about)).data,
                "methods": methods_text(),
            }
        ),
        "docs/results.md": page_with({"results": results_text(results, about)}, "docs/results.md"),
    }
    try:
        if forms := forms_text():
            pages["docs/forms.md"] = page_with({"forms": forms}, "docs/forms.md")
    except StudyError as error:  # studies are no part of a release: the page stays as it is
        print(error)
    save_figure(frontier(results), REPORT / "frontier.png")
    try:
        shown_above = summary(first_of(results, about), load_arrays(REPORT / EXAMPLES, REMEDY, EXAMPLE_PARTS))
        for suffix in ("png", "svg"):
            save_figure(shown_above, REPORT / f"summary.{suffix}")
    except StudyError as error:
        print(error)
    for name, page in pages.items():
        write_page(page, name)
    print(f"{', '.join(pages)} and the figures in {shown(REPORT)}/ show release {about['version']}.")


def released() -> tuple[pd.DataFrame, dict]:
    """The results frame of the release in data/report/, and what made it (release.json)."""
    results = load_frame(REPORT / "measures.csv.gz", COLUMNS, REMEDY)
    try:
        about = json.loads(ABOUT.read_text(encoding="utf-8"))
        return results, {key: about[key] for key in ("version", "date", "machine", "sources")}
    except (OSError, ValueError, KeyError, TypeError):
        raise StudyError(f"{shown(ABOUT)} is missing or damaged: {REMEDY}") from None


def first_of(results: pd.DataFrame, about: dict) -> pd.DataFrame:
    """The results on the release's first data set, which the README shows."""
    return results[results.dataset == next(iter(about["sources"]))]


def title_of(dataset: str, about: dict) -> str:
    """A data set's name and, where that says more, its source."""
    name, source = NAMES[dataset], about["sources"][dataset]
    return name if source == name else f"{name} ({source})"


def first_screen(results: pd.DataFrame, about: dict) -> str:
    """Figure and table of the README, in Markdown: the first data set alone, seven rows, four columns."""
    mine = first_of(results, about)
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
    """Frontier, and for each data set what was found and a table of all methods, in Markdown. about: of the release, as
    data/report/release.json."""
    parts = ["![Cost of every method against distance closed, attack and accuracy lost](../data/report/frontier.png)"]
    for dataset in about["sources"]:
        mine = results[results.dataset == dataset]
        note = (
            f"Forgotten: {mine.iloc[0].forget}; {models_in(mine)} models of each kind. The distances and the accuracy "
            f"on the forgotten samples are of the {headline(mine)} split."
        )
        parts += [f"## {title_of(dataset, about)}", note, conclusions(mine).data]
        parts += [markdown(overview_table(mine, kinds_in(mine)).data)]
    made = f"Release {about['version']} of {about['date']}; {about['machine']}."
    return "\n\n".join([*parts, f"Mean ± standard deviation over the models. {made}"])


def methods_text() -> str:
    """Every method in a line, in Markdown, from its declaration and docstring."""
    rows = {}
    for method in METHODS.values():
        paper = re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", method.source)
        rows[method.title] = {"what it does": does(method), "reads of the forget set": method.reads, "paper": paper}
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
