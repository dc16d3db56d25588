"""The run of a folder: itself, or the one that a folder in Hugging Face's format is imported to.

    run_of("runs/quickstart")     # runs/quickstart
    run_of("downloads/gpt2")      # .../jaxlm/imports/gpt2-0f3a5c...

The import is that of `jaxlm.hf.cached`.
"""

from __future__ import annotations

import logging
from pathlib import Path

from jaxlm.runs.folder import is_hugging_face

log = logging.getLogger("jaxlm")


def run_of(folder: str | Path) -> Path:
    """The run of a folder. Raises `UserError` where it is to be imported and cannot be.

    An import needs jax's devices: the processes of a program have joined before.
    """
    if not is_hugging_face(folder):
        return Path(folder)
    from jaxlm.distributed.consensus import processes

    report = log.info if processes()[0] == 0 else log.debug  # one process imports, see `imported`
    # only now: without jax the line above fails, as core/without_jax.py wants it to
    from jaxlm.hf.cached import imported

    return imported(Path(folder), report)
