"""The data of a run, prepared by its configs; imports no jax.

prepared = prepare(run.data, run.tokenizer, Path("cache"), workers=2, report=print)
"""

from __future__ import annotations

import os
from pathlib import Path

from jaxlm.core.errors import UserError
from jaxlm.core.types import TokenizerConfig
from jaxlm.data.store.prepared import DataConfig, Prepared, Report


def prepare(
    data: DataConfig | None,
    tokenizer: TokenizerConfig | None,
    folder: Path,
    *,
    workers: int = 0,
    report: Report = print,
) -> Prepared:
    """The dataset with its tokenizer, stored in the cache `folder`; see `DataConfig.prepare`."""
    check_writable(folder)
    if data is None:
        raise UserError(
            "data: null, so there is nothing to work on; name some, such as "
            "data='{type: text, source: {type: text, files: a.txt}, seq_len: 128}'"
        )
    if tokenizer is None:
        raise UserError("tokenizer: null, so a text has no tokens; name one, tokenizer.type=...")
    return data.prepare(tokenizer, folder, workers=workers, report=report)


def check_writable(folder: Path) -> None:
    """Makes the cache's folder; raises `UserError` where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK | os.X_OK) else "permission denied"
    except OSError as error:
        reason = (error.strerror or "cannot be made").lower()
    if reason:
        raise UserError(
            f"cache_dir: {folder}: {reason}; set cache_dir, or the variable JAXLM_CACHE, to a "
            "folder that can be written"
        )
