"""What others take along: the frame as CSV, the main tables as LaTeX."""

from pathlib import Path

import pandas as pd
from IPython.display import Markdown

from helpers.data.task import Task
from helpers.evaluation.frame import results_folder
from helpers.files import written_whole
from helpers.report.tables import measures_table, over, overview_table


def export(results: pd.DataFrame, task: Task) -> Markdown:
    """Writes measures.csv (the whole frame) and tables.tex (needs the package booktabs alone) to data/results/<dataset>/<side>/."""
    folder = results_folder(task)
    for name, text in (("measures.csv", results.to_csv(index=False)), ("tables.tex", tables_tex(results))):
        with written_whole(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    where = Path(*folder.parts[-4:])
    return Markdown(
        f"All {len(results):,} values lie in `{where}/measures.csv`, the main tables in `{where}/tables.tex`."
    )


def tables_tex(results: pd.DataFrame) -> str:
    """Overview and all measures as LaTeX tables."""
    texts = []
    for label, table in (("overview", overview_table(results)), ("measures", measures_table(results))):
        data = table.data.map(_latex)
        data.index, data.columns = (pd.Index([_latex(each) for each in axis]) for axis in (data.index, data.columns))
        layout = {"hrules": True, "label": f"tab:{label}", "column_format": "l" * (data.shape[1] + 1)}
        texts.append(data.style.to_latex(caption=_latex(over(results)), **layout))
    return "% \\usepackage{booktabs}\n" + "\n".join(texts)


def _latex(text: str) -> str:
    for plain, tex in (("_", r"\_"), ("%", r"\%"), ("±", r"$\pm$"), ("–", "--"), ("||", r"$\|$")):
        text = text.replace(plain, tex)
    return text
