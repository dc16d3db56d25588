"""The program and the learner of a resolved config."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax

from jaxlm.core.config import UserError
from jaxlm.core.registry import import_class
from jaxlm.core.tree import flatten
from jaxlm.core.types import ModelConfig
from jaxlm.objectives.base import FrozenModel
from jaxlm.run import RunConfig, load_saved
from jaxlm.training.learner import Learner
from jaxlm.training.program import Program, Reference, make_program


def learner_of(config: RunConfig, mesh: Any) -> Learner:
    """The learner of a resolved config, on a mesh: the one that its objective names."""
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
    _check_reference(config, name, wanted.from_, other.model)
    other = other.replace(mesh=config.mesh, train=config.train, adapter=None)
    return Reference(program=_program_of(other, program.mesh), shared=frozenset())


def _check_reference(config: RunConfig, name: str, source: str, model: ModelConfig) -> None:
    """Raises `UserError` where the model of another run does not fit the objective or the data.

    It is called without a cache, so it has no state of the row before.
    """
    try:
        config.objective.check(model)
    except UserError as error:
        raise UserError(
            f"objective.{name}.from: {source} has a model that does not fit; name another run "
            f"({error})"
        ) from None
    if config.data is None:
        return
    length, limit = config.data.row_length, model.max_positions
    if limit is not None and length > limit:
        raise UserError(
            f"objective.{name}.from: the model of {source} has {limit} positions, and rows have "
            f"{length} tokens; set data.seq_len to at most {limit}, or name another run"
        )
    if model.carries_state and config.data.consecutive:
        raise UserError(
            f"objective.{name}.from: the model of {source} was trained with the state of the row "
            "before (model.carry_state), which a frozen model is not given; set data.order to "
            "shuffle, or name another run"
        )


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
