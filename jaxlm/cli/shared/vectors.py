"""The argument of verbs about word vectors: a run, or a file of vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from jaxlm.cli.shared import options
from jaxlm.cli.shared.values import PATH
from jaxlm.core.errors import UserError, looked_from

if TYPE_CHECKING:
    from jaxlm.vectors.table import WordVectors

F = TypeVar("F", bound=Callable[..., Any])


def vectors(function: F) -> F:
    about = "the folder of a run, or a file of vectors"
    return options.argument("vectors", about, type=PATH, metavar="RUN_OR_FILE")(function)


def open_quietly(path: str) -> WordVectors:
    """The vectors of a run or a file; what a reader reports goes to stderr."""
    import os
    from pathlib import Path

    from jaxlm.cli.shared.training import say
    from jaxlm.vectors.files import read_vectors

    if not Path(path).exists():
        raise UserError(f"{path}: there is no such run or file{looked_from(path)}; check the path")
    if not Path(path).is_dir():
        return read_vectors(path, report=say)  # without jax
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # host work: an accelerator may be in use
    from jaxlm.api.word_vectors import open_vectors

    return open_vectors(path, report=say)


def print_scored(found: list[tuple[str, float]], as_json: bool) -> None:
    """Words with their cosines, a line a word."""
    import json

    if as_json:
        rows = [{"word": word, "cosine": round(cosine, 6)} for word, cosine in found]
        print(json.dumps(rows, ensure_ascii=False))
        return
    for word, cosine in found:
        print(f"{cosine:.4f}  {word}")
