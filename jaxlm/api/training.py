"""Trains a run from Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxlm.api.opening import fit
from jaxlm.api.run import Run
from jaxlm.core import config as configs
from jaxlm.core.callback import Hook
from jaxlm.core.config import Resolved, UserError
from jaxlm.core.exit_codes import DONE
from jaxlm.core.renames import renamed
from jaxlm.hf.opened import run_of
from jaxlm.run import RunConfig, load_run


def train(
    config: str | Path | RunConfig,
    overrides: Iterable[str] = (),
    *,
    callbacks: Sequence[Hook] = (),
) -> Run:
    """Trains a run to its end, from the newest checkpoint of its folder, and returns it.

    config: a YAML file, or a `RunConfig` with a `run_dir`. overrides: "key=value" texts as on the
    command line. callbacks: `jaxlm.core.callback.Hook`s, besides those of the config. Raises
    `UserError` for a mistake of the user, and `RuntimeError` where the run stopped before its end.
    """
    resolved = resolve(config, overrides)
    outcome = fit(resolved, hooks=callbacks)
    if outcome.code != DONE:
        raise RuntimeError(outcome.message)
    return Run(resolved.config.run_dir or "")


def resolve(config: str | Path | RunConfig, overrides: Iterable[str]) -> Resolved[RunConfig]:
    """A config under overrides, and where its values were set."""
    if not isinstance(config, RunConfig):
        return load_run(config, overrides, run_of)
    layer = configs.Layer(configs.to_dict(config))
    layer.merge(configs.read_overrides(overrides))
    layer = renamed(layer)
    if layer.values.get("run_dir") is None:
        raise UserError("run_dir: is required; name a folder for the run")
    return Resolved(configs.parse(RunConfig, layer.values, layer.marks), layer.marks)
