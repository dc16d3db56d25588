"""The program and the learner of a resolved config."""

from __future__ import annotations

from typing import Any

import jax

from jaxlm.core.registry import import_class
from jaxlm.run import RunConfig
from jaxlm.training.learner import Learner
from jaxlm.training.program import Program, make_program


def learner_of(config: RunConfig, mesh: Any) -> Learner:
    """How a resolved config learns, on a mesh: by the learner that its objective names."""
    return learner_class(config).of(config, program_of(config, mesh))


def learner_class(config: RunConfig) -> type[Learner]:
    """The learner that the config's objective names."""
    found: type[Learner] = import_class(config.objective.learner)
    return found


def program_of(config: RunConfig, mesh: Any) -> Program:
    """The program of a resolved config on a mesh."""
    return make_program(
        mesh=mesh,
        zero=config.mesh.zero,
        stage_repeats=config.mesh.stage_repeats,
        model=config.model,
        objective=config.objective,
        adapter=config.adapter,
        seed=config.seed,
        batch_size=config.train.batch_size,
        accumulation=config.train.accumulation,
        embedding_noise=config.train.embedding_noise,
    )


def merged(config: RunConfig, program: Program, params: dict[str, Any]) -> tuple[Program, Any]:
    """The program without its adapter, and the parameters that compute the same there."""
    if config.adapter is None:
        return program, params
    plain = program_of(config.replace(adapter=None), program.mesh)
    with jax.set_mesh(program.mesh):
        adapter = config.adapter
        merge = jax.jit(lambda tree: adapter.merge(tree), out_shardings=plain.param_shardings)
        return plain, merge(params)
