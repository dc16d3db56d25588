"""Whether a file of word vectors has what was written: it is read back and compared.

    found = check_vectors("glove.txt", table, read_vectors("glove.txt", "glove"), "glove", report)

The error is the largest difference of a number, as a part of that number. Text with 9 digits and
the binary format give each float32 back: their bound is 0. fastText's 5 digits round a number by at
most 5e-5 of it, and float32 rounds it once more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.vectors.table import WordVectors

FASTTEXT_DIGITS = 5
ROUNDING = 2.0**-23  # float32's, relative
BOUNDS = {
    "glove": 0.0,
    "word2vec": 0.0,
    "word2vec-binary": 0.0,
    "fasttext": 0.5 * 10.0 ** (1 - FASTTEXT_DIGITS) + ROUNDING,
}


def check_vectors(
    name: str, want: WordVectors, found: WordVectors, form: str, report: Callable[[str], None]
) -> float:
    """Reports the error and returns it. form: one of `BOUNDS`.

    Raises `UserError` for an error above the bound and for other words.
    """
    if list(found.words) != list(want.words) or found.size != want.size:
        raise UserError(
            f"{name}: what was written gives {len(found):,} words of {found.size} dimensions that "
            f"are not the run's {len(want):,} words of {want.size}; nothing was kept (--no-check "
            "writes it in spite of that)"
        )
    error, bound = largest_error(want.vectors, found.vectors), BOUNDS[form]
    report(
        f"read back: the largest relative error of a number is {error:.1e} (at most {bound:.0e})"
    )
    if not error <= bound:
        raise UserError(
            f"{name}: what was written gives numbers that differ from the run's by {error:.1e} of "
            f"a number, the bound for {form} is {bound:.0e}; nothing was kept (--no-check writes "
            "it in spite of that)"
        )
    return error


def largest_error(want: np.ndarray, found: np.ndarray) -> float:
    """The largest |found - want| / |want|. Below the smallest normal float32, whose own rounding
    is coarser, it is a part of that.
    """
    want = np.asarray(want, np.float64)
    size = np.maximum(np.abs(want), np.finfo(np.float32).tiny)
    return float((np.abs(found - want) / size).max())
