"""What others take along: the frame as CSV, the main tables as LaTeX."""

import pandas as pd
from IPython.display import Markdown

from helpers.data.task import Task
from helpers.evaluation.frame import results_folder
from helpers.files import StudyError, shown, written_whole
from helpers.report.tables import measures_table, over, overview_table

LATEX = str.maketrans(  # the ten characters that mean something else in LaTeX
    {each: f"\\{each}" for each in "%&#_${}"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
)


def export(results: pd.DataFrame, task: Task) -> Markdown:
    """Writes measures.csv (the whole frame) and tables.tex (needs the package booktabs alone) to
    data/results/<dataset>/<request>/."""
    folder = results_folder(task)
    try:
        for name, text in (("measures.csv", results.to_csv(index=False)), ("tables.tex", tables_tex(results))):
            with written_whole(folder / name) as part:
                part.write_text(text, encoding="utf-8")
    except StudyError as error:  # whoever may only read shall see the figures all the same
        return Markdown(str(error))
    return Markdown(
        f"All {len(results):,} values lie in `{shown(folder)}/measures.csv`, the main tables in `tables.tex` beside it."
    )


def tables_tex(results: pd.DataFrame) -> str:
    """Overview and all measures as LaTeX tables."""
    texts = []
    for label, table in (("overview", overview_table(results)), ("measures", measures_table(results))):
        columns = "l" * (table.data.shape[1] + 1)
        escaped = (
            table.data.style.format(escape="latex").format_index(escape="latex").format_index(escape="latex", axis=1)
        )
        caption = over(results).translate(LATEX)  # which pandas takes as it is
        texts.append(escaped.to_latex(caption=caption, hrules=True, label=f"tab:{label}", column_format=columns))
    return "% \\usepackage{booktabs}\n" + "\n".join(texts).replace("||", r"$\|$").replace("±", r"$\pm$").replace(
        "–", "--"
    )


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown without padding, which would make its lines as long as the longest cell of each column."""
    lines = [[table.index.name or "", *table.columns], ["---"] * (table.shape[1] + 1)]
    lines += [[name, *cells] for name, cells in zip(table.index, table.to_numpy().tolist(), strict=True)]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
