"""Selective unlearning on MNIST, Colored MNIST and FashionMNIST.

Data flows one way, and the modules stand in that order; each imports only from those before it:
files, device, sizes, progress, parallel -> data -> models -> unlearning, own -> evaluation -> objective, studies
-> report -> run, release.
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# Module -> its source when the package was imported. Stored models and results are named after it: what is edited while
# a notebook runs counts from the next start.
SOURCES = {
    ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts): path.read_text(encoding="utf-8")
    for path in sorted(FOLDER.rglob("*.py"))
}
