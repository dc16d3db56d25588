"""Frozen models that are folders in Hugging Face's format: each is imported to a run first."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from jaxlm.core.config import Resolved
from jaxlm.run import RunConfig
from jaxlm.runs.folder import is_hugging_face

log = logging.getLogger("jaxlm")


def with_imported(resolved: Resolved[RunConfig]) -> Resolved[RunConfig]:
    """The config whose references are runs, those of the cache where it names other folders.

    Raises `UserError` where one cannot be imported.
    """
    objective = resolved.config.objective
    changes: dict[str, Any] = {}
    for name, wanted in objective.references.items():
        if wanted.from_ is not None and is_hugging_face(wanted.from_):
            from jaxlm.hf.cached import imported

            changes[name] = wanted.replace(from_=str(imported(Path(wanted.from_), log.info)))
    if not changes:
        return resolved
    config = resolved.config.replace(objective=objective.replace(**changes))
    return Resolved(config, resolved.marks)
