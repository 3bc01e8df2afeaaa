"""What the README shows of a release, written between its marks from the files in data/report/ alone."""

import json

import pandas as pd

from helpers.data.task import NAMES
from helpers.evaluation.frame import COLUMNS
from helpers.files import DATA, ROOT, StudyError, load_arrays, load_frame, shown, written_whole
from helpers.report.frontier import frontier
from helpers.report.style import save_figure
from helpers.report.summary import EXAMPLES, summary
from helpers.report.tables import all_settings, conclusions, models_in, overview_table

REPORT = DATA / "report"
ABOUT = REPORT / "release.json"  # what made the frame beside it


def report() -> None:
    """Writes what stands between the README's marks, and its figures, from the release in data/report/ alone."""
    remedy = "take the published one, or run `make release`."
    results = load_frame(REPORT / "measures.csv.gz", COLUMNS, remedy)
    try:
        about = json.loads(ABOUT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise StudyError(f"{shown(ABOUT)} is missing or damaged: {remedy}") from None
    methods = all_settings().data.drop(columns="hyper-parameters").to_markdown()
    page = page_with({"results": results_text(results, about), "methods": methods})
    save_figure(frontier(results), REPORT / "frontier.png")
    write_page(page)
    try:
        shown_above = summary(results, load_arrays(REPORT / EXAMPLES, remedy))
        for suffix in ("png", "svg"):
            save_figure(shown_above, REPORT / f"summary.{suffix}")
    except StudyError as error:
        print(error)
    print(f"README.md and the figures in {shown(REPORT)}/ show release {about['version']}.")


def results_text(results: pd.DataFrame, about: dict) -> str:
    """Figure, and for each data set one table and what was found, in Markdown. about: of the release, as
    data/report/release.json."""
    parts = [
        "![The budget frontier: cost against energy gap closed, attack and accuracy lost](data/report/frontier.png)"
    ]
    for dataset, source in about["sources"].items():
        mine = results[results.dataset == dataset]
        title = NAMES[dataset] + (f" ({source})" if source != NAMES[dataset] else "")
        table = overview_table(mine).data.to_markdown()
        parts += [f"**{title}**, forgotten: {mine.iloc[0].forget}, {models_in(mine)} models of each kind", table]
        parts += [conclusions(mine).data]
    made = f"Release {about['version']} of {about['date']}; {about['machine']}."
    parts.append(f"Test split, mean ± standard deviation over the models. {made}")
    return "\n\n".join(parts)


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
