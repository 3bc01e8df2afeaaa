"""report.html: the whole comparison as one page to look at or to send, made of the executed graphics.ipynb."""

from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.preprocessors import TagRemovePreprocessor

from helpers.files import written_whole

NOTEBOOK_ONLY = "notebook-only"  # the tag of cells that say something about the notebook, not about the results
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 0 auto; padding: 1rem; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 2px 8px; text-align: right; border-bottom: 1px solid #ddd; }
th { text-align: left; }
td, th:first-child { white-space: nowrap; }
caption { text-align: left; padding: 4px 0; color: #555; }
pre, code { font-size: 13px; white-space: pre-wrap; overflow-wrap: anywhere; }
.output_subarea { overflow-x: auto; }
.anchor-link, .prompt { display: none; }
"""


def write_page(notebook: Path, target: Path, about: str = "") -> None:
    """Writes the executed notebook as one self-contained page without code, which asks for nothing from elsewhere and
    runs no script. about: data set and request, for its title."""
    source = nbformat.read(notebook, 4)
    title = next(cell.source.splitlines()[0].lstrip("# ") for cell in source.cells if cell.cell_type == "markdown")
    title += f": {about}" * bool(about)
    exporter = HTMLExporter(template_name="basic", exclude_input=True)
    exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags={NOTEBOOK_ONLY}), enabled=True)
    body, _ = exporter.from_notebook_node(source)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<html lang="en"><head>{head}<title>{title}</title><style>{STYLE}</style></head>'
    with written_whole(target) as part:
        part.write_text(f"<!doctype html>\n{head}\n<body>{body}</body></html>\n", encoding="utf-8")
