"""Models of a config that are folders in Hugging Face's format: each is imported to a run first."""

from __future__ import annotations

from typing import Any

from jaxlm.core.config import Resolved
from jaxlm.hf.opened import run_of
from jaxlm.run import RunConfig
from jaxlm.runs.folder import is_hugging_face


def with_imported(resolved: Resolved[RunConfig]) -> Resolved[RunConfig]:
    """The config whose start and references are runs, those of the cache where it names other
    folders. A config file's own start is one already: see `run_of` in `jaxlm.run.load_run`.

    Raises `UserError` where one cannot be imported.
    """
    config = resolved.config
    init, objective = config.init, config.objective
    if init.from_ is not None and is_hugging_face(init.from_):
        config = config.replace(init=init.replace(from_=str(run_of(init.from_))))
    changes: dict[str, Any] = {
        name: wanted.replace(from_=str(run_of(wanted.from_)))
        for name, wanted in objective.references.items()
        if wanted.from_ is not None and is_hugging_face(wanted.from_)
    }
    if changes:
        config = config.replace(objective=objective.replace(**changes))
    return Resolved(config, resolved.marks)
