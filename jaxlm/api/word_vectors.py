"""The word vectors of a run or of a file.

table = open_vectors("runs/word2vec")
table = open_vectors("glove.6B.50d.txt")
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jaxlm.api.run import load
from jaxlm.vectors.files import read_vectors
from jaxlm.vectors.table import WordVectors


def open_vectors(
    path: str | Path, *, step: int | str | None = None, report: Callable[[str], None] = print
) -> WordVectors:
    """The table of a run's folder, or of a file whose format is recognised.

    step: with a run, its checkpoint. Raises `UserError` where there are no vectors.
    """
    if Path(path).is_dir():
        return load(path, step=step).vectors
    return read_vectors(path, report=report)
