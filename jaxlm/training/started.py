"""The state of a run's folder: whether a run has started there, and its tokenizer.

A folder whose checkpoints are lost is an error: its run is never begun again.
"""

from __future__ import annotations

from typing import Any

from jaxlm.core.config import UserError
from jaxlm.data.tokenizers.base import load_tokenizer
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import (
    all_missing,
    check_tokenizer,
    read_record,
)


def has_started(run: RunDir) -> bool:
    """Whether the folder holds a run that continues. Before its first save there is nothing to
    lose, and the config that is started next replaces what is there.
    """
    return run.checkpoints.is_dir() and any(run.checkpoints.iterdir())


def check_trainable(run: RunDir) -> None:
    """Raises `UserError` where the folder holds weights that were imported, which have no state."""
    if run.imported.is_file():
        raise UserError(
            f"{run}: was imported and has no optimizer state to go on from; train from its weights "
            f"in a run of their own: `jaxlm finetune CONFIG init.from={run}`"
        )


def lacks_tokenizer(run: RunDir) -> bool:
    """Whether the run was imported without a tokenizer."""
    if not run.imported.is_file() or run.tokenizer.exists():
        return False
    record, _ = read_record(run)
    return record is None or record.identity.tokenizer is None


def saved_tokenizer(run: RunDir) -> Any:
    """The tokenizer that a run keeps; raises `UserError` where it was imported without one."""
    if lacks_tokenizer(run):
        raise UserError(
            f"{run}: was imported without a tokenizer, so a text has no tokens; put its "
            "tokenizer.json beside the weights and import them again"
        )
    tokenizer = load_tokenizer(run.tokenizer)
    check_tokenizer(run, tokenizer)
    return tokenizer


def check_checkpoints(run: RunDir) -> None:
    """Raises `UserError` where a run has lost all of its checkpoints: it is never begun again."""
    if has_started(run):
        return
    record, _ = read_record(run)
    lost = record is not None and (record.saved or not run.checkpoints.exists())
    if lost or run.result.exists():
        raise UserError(all_missing(run))
