"""The weights of the frozen models beside the trained one: a reference, a teacher.

    reference: {run: runs/base, step: 400, sha256: "9f2c..."}       # as a checkpoint names it

They are the weights that the run starts from, or those of another run (`FrozenModel`), read on the
run's mesh by the model's own rules of sharding. What a reference has in common with the frozen base
of an adapter is not read a second time. A checkpoint does not have these weights: it names them,
and they are compared with the name by their SHA-256 (`param_sha256`) when the run is resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten, select, unflatten
from jaxlm.data.tokenizers.base import ids_sha256
from jaxlm.objectives.base import FrozenModel
from jaxlm.run import InitConfig, RunConfig, saved_config
from jaxlm.runs.folder import RunDir
from jaxlm.training import base as bases
from jaxlm.training.program import Program, Reference
from jaxlm.training.started import lacks_tokenizer, saved_tokenizer

log = logging.getLogger("jaxlm")

Origins = dict[str, dict[str, Any]]


def check_references(config: RunConfig, tokenizer: Any) -> None:
    """Raises `UserError` where the run of a frozen model is missing, or was trained with another
    tokenizer than this one: its ids would mean something else.
    """
    for name, wanted in config.objective.references.items():
        if wanted.from_ is None:
            continue
        source = RunDir(wanted.from_)
        try:
            saved_config(source.path)
        except UserError as error:
            raise UserError(f"objective.{name}.from: {error}") from None
        if lacks_tokenizer(source):
            log.info("%s has no tokenizer to compare with: its ids are taken as this one's", source)
        elif ids_sha256(saved_tokenizer(source)) != ids_sha256(tokenizer):
            raise UserError(
                f"objective.{name}.from: {source} was trained with another tokenizer, so its ids "
                "mean other texts; name a run with this run's tokenizer"
            )


def start_references(
    config: RunConfig, program: Program, params: dict[str, Any], source: Mapping[str, Any]
) -> tuple[dict[str, Any], Origins]:
    """(trees, origins) by name, of a run that starts from `params`, which `source` names."""
    trees: dict[str, Any] = {}
    origins: Origins = {}
    for name, reference in program.references.items():
        if config.objective.references[name].from_ is None:
            own = flatten(reference.own(reference.program.abstract_params))
            start = flatten(select(params, own.__contains__))
            # copies: the state is donated to the first step
            tree = unflatten({path: jnp.copy(value) for path, value in start.items()})
            named = dict(source)
        else:
            tree, named = _read(config, reference, name, None)
        if tree:
            trees[name] = tree
            origins[name] = named | {"sha256": param_sha256(tree)}
    return trees, origins


def read_references(
    config: RunConfig, program: Program, reader: CheckpointReader, step: int
) -> tuple[dict[str, Any], Origins]:
    """(trees, origins) by name, as a run's checkpoint names them.

    Raises `UserError` where a reference is missing, or is not the one that the checkpoint names.
    """
    trees: dict[str, Any] = {}
    origins: Origins = {}
    for name, reference in program.references.items():
        if name not in program.abstract_references:
            continue
        wanted = bases.origin(reader, step, name)
        trees[name], named = _read(config, reference, name, wanted)
        digest = param_sha256(trees[name])
        if wanted and digest != wanted.get("sha256"):
            where = (
                f"step {named.get('step')} of {named['run']}" if "run" in named else "the seed's"
            )
            raise UserError(
                f"objective.{name}.from: the {name} of checkpoint {step} has SHA-256 "
                f"{wanted.get('sha256', '?')[:12]}, but {where} has {digest[:12]}; give the folder "
                "of the run that it was read from"
            )
        origins[name] = named | {"sha256": digest}
    return trees, origins


def _read(
    config: RunConfig, reference: Reference, name: str, named: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the reference's own parameters, where they are from). named: as of a checkpoint, if any."""
    wanted: FrozenModel = config.objective.references[name]
    program = reference.program
    paths = flatten(reference.own(program.abstract_params))
    start = wanted.from_ is None
    init = config.init if start else InitConfig(from_=wanted.from_, use_ema=wanted.use_ema)
    key = "init" if start else f"objective.{name}"
    if init.from_ is None:
        return select(program.draw(), paths.__contains__), {"seed": config.seed}
    reader = CheckpointReader(RunDir(init.from_).checkpoints, report=log.warning)
    chosen = named.get("step") if named else (init.step if start else wanted.step)
    step = reader.choose(chosen)
    if step is None:
        raise UserError(f"{key}.from: {init.from_} has no checkpoint; name a run that is trained")
    found = bases.read_pretrained(
        config.replace(init=init, adapter=None), program, paths.keys(), reader, step
    )
    log.info("%s <- step %d of %s, frozen", name, step, init.from_)
    jax.block_until_ready(found)
    return unflatten(found), {"run": init.from_, "step": step}
