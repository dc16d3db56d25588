"""The program and the parameters of a run, for use without training.

config, program, params, step = load_trained("runs/a")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core import config as configs
from jaxlm.core.config import UserError
from jaxlm.mesh import MeshConfig
from jaxlm.nn.stored_kernel import StoredAs
from jaxlm.run import RunConfig, load_saved
from jaxlm.runs.folder import RunDir
from jaxlm.training import base as bases
from jaxlm.training.build import merged, program_of
from jaxlm.training.narrow import narrowed
from jaxlm.training.program import Program
from jaxlm.training.session import use_compilation_cache


def load_trained(
    run_dir: str,
    *,
    overrides: tuple[str, ...] = (),
    step: int | str | None = None,
    mesh: Mesh | None = None,
    merge: bool = False,
    weights: StoredAs | None = None,
    references: bool = False,
    report: Any = print,
) -> tuple[RunConfig, Program, Any, int]:
    """(config, program, parameters, step) of a run, for use without training.

    On the mesh of its config, or on another. merge: a program without the run's adapter, and the
    parameters that compute the same. weights: how kernels are stored (`jaxlm.training.narrow`).
    references: with the frozen models that its loss needs. Raises `UserError` where the folder is
    not a run, or has no checkpoint (yet).
    """
    config = load_saved(run_dir, overrides).config
    use_compilation_cache(config)
    run = RunDir(run_dir)
    reader = CheckpointReader(run.checkpoints, report=report)
    step = reader.choose(step)
    if step is None:
        raise UserError(f"{run_dir}: no checkpoint yet; train it first (`jaxlm resume {run_dir}`)")
    program = program_of(config, mesh or config.mesh.build(), references=references)
    params = bases.read_weights(config, program, reader, step, report=report)
    if merge:
        program, params = merged(config, program, params)
    if weights is not None:
        program, params = narrowed(config, program, params, weights)
    return config, program, params, step


def one_device_program(run_dir: str | Path) -> tuple[RunConfig, Program]:
    """A run's config, and its program on one device, which is enough to look at parameters."""
    config = load_saved(run_dir).config
    return config, program_on_one_device(config)


def program_on_one_device(config: RunConfig) -> Program:
    """The program of a resolved config on one device, to look at parameters."""
    mesh = configs.parse(MeshConfig, {"data": 1, "num_devices": 1}).build()
    return program_of(config.replace(mesh=MeshConfig()), mesh)
