"""Frozen models that are folders in Hugging Face's format: each is imported to a run first."""

from __future__ import annotations

from typing import Any

from jaxlm.core.config import Resolved
from jaxlm.hf.opened import run_of
from jaxlm.run import RunConfig
from jaxlm.runs.folder import is_hugging_face


def with_imported(resolved: Resolved[RunConfig]) -> Resolved[RunConfig]:
    """The config whose references are runs, those of the cache where it names other folders.

    Raises `UserError` where one cannot be imported.
    """
    objective = resolved.config.objective
    changes: dict[str, Any] = {
        name: wanted.replace(from_=str(run_of(wanted.from_)))
        for name, wanted in objective.references.items()
        if wanted.from_ is not None and is_hugging_face(wanted.from_)
    }
    if not changes:
        return resolved
    config = resolved.config.replace(objective=objective.replace(**changes))
    return Resolved(config, resolved.marks)
