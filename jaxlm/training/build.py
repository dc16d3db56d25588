"""The program and the learner of a resolved config."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax

from jaxlm.core.config import UserError
from jaxlm.core.registry import import_class
from jaxlm.core.tree import flatten
from jaxlm.objectives.base import FrozenModel
from jaxlm.run import RunConfig, load_saved
from jaxlm.training.learner import Learner
from jaxlm.training.program import Program, Reference, make_program


def learner_of(config: RunConfig, mesh: Any) -> Learner:
    """How a resolved config learns, on a mesh: by the learner that its objective names."""
    return learner_class(config).of(config, program_of(config, mesh, references=True))


def learner_class(config: RunConfig) -> type[Learner]:
    """The learner that the config's objective names."""
    found: type[Learner] = import_class(config.objective.learner)
    return found


def program_of(config: RunConfig, mesh: Any, *, references: bool = False) -> Program:
    """The program of a resolved config on a mesh.

    references: with the frozen models that its loss needs. Raises `UserError` where the run of one
    is not there.
    """
    program = _program_of(config, mesh)
    wanted = config.objective.references if references else {}
    if not wanted:
        return program
    found = {name: _reference(config, program, name, one) for name, one in wanted.items()}
    return replace(program, references=found)


def _reference(config: RunConfig, program: Program, name: str, wanted: FrozenModel) -> Reference:
    """A frozen model beside a program, on its mesh: of the run's own model without its adapter, or
    of another run's.
    """
    if wanted.from_ is None:
        off = None if config.adapter is None else config.adapter.off
        plain = _program_of(config.replace(adapter=off), program.mesh)
        shared = program.frozen & flatten(plain.abstract_params).keys()
        return Reference(program=plain, shared=frozenset(shared))
    try:
        other = load_saved(wanted.from_).config
    except UserError as error:
        raise UserError(f"objective.{name}.from: {error}") from None
    own, size = config.model.vocab_size, other.model.vocab_size
    if own != size:
        raise UserError(
            f"objective.{name}.from: the model of {wanted.from_} has {size} ids and this run's has "
            f"{own}; set model.vocab_size to {size}"
        )
    other = other.replace(mesh=config.mesh, train=config.train, adapter=None)
    return Reference(program=_program_of(other, program.mesh), shared=frozenset())


def _program_of(config: RunConfig, mesh: Any) -> Program:
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
