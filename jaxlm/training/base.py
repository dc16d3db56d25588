"""The base of an adapter: the parameters that a run keeps frozen, which its checkpoints only name.

    {"run": "runs/base", "step": 400, "sha256": "9f2c..."}      # weights of another run
    {"seed": 1, "sha256": "41d0..."}                            # drawn from the run's seed
    {"seed": 1, "vectors": "glove.txt", "sha256": "7c3b..."}    # the same, with word vectors

The base is read from the run that `init.from` names, or drawn again, and its SHA-256
(`param_sha256` of the frozen parameters) is compared with the one that the checkpoint names. The
base may have been trained with an adapter itself: it is merged first.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax

from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten, join, select, unflatten
from jaxlm.nn.stored_kernel import as_stored, plain_leaves
from jaxlm.run import RunConfig, load_saved, own_config
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import IDENTITY
from jaxlm.training.build import learner_class, merged, program_of
from jaxlm.training.program import Program
from jaxlm.training.start_vectors import with_vectors
from jaxlm.training.started import saved_tokenizer

log = logging.getLogger("jaxlm")
Report = Callable[[str], None]


def params_part(reader: CheckpointReader, step: int, use_ema: bool = True) -> str:
    """The subtree of a checkpoint's state that is used: "ema" where it was kept, else "params"."""
    return "ema" if use_ema and reader.read_metadata(step).count("ema/") else "params"


def read_weights(
    config: RunConfig,
    program: Program,
    reader: CheckpointReader,
    step: int,
    *,
    use_ema: bool = True,
    report: Report = log.info,
) -> dict[str, Any]:
    """All parameters of a run's checkpoint: those that it holds, joined with its base."""
    part = params_part(reader, step, use_ema)
    base = read_base(config, program, reader, step, report=report)  # first: a draw has all of them
    stored = reader.read_metadata(step).arrays
    trained = program.trained(program.abstract_params)
    trained = learner_class(config).as_stored(trained, stored, part)
    params = reader.restore_partial(step, {part: trained})[part] if trained else {}
    return join(params, base)


def read_base(
    config: RunConfig,
    program: Program,
    reader: CheckpointReader,
    step: int,
    *,
    report: Report = log.info,
) -> dict[str, Any]:
    """The frozen parameters of a run's checkpoint; {} where all are trained.

    Raises `UserError` where the base is missing, or is not the one that the checkpoint names.
    """
    shapes = program.base(program.abstract_params)
    if not shapes:
        return {}
    wanted = origin(reader, step)
    named = wanted.get("run")
    need = (
        f"step {wanted.get('step')} of {named}"
        if named
        else f"drawn from seed {wanted.get('seed')}"
    )
    need = f"the base of checkpoint {step} is {need} (SHA-256 {wanted.get('sha256', '?')[:12]})"
    fix = (
        "give the folder of that run by init.from=DIR"
        if named
        else "start it with the seed, jax, XLA_FLAGS and kind of device that drew it"
    )
    key = "init.from"
    where = f"step {wanted.get('step')} of {config.init.from_}" if named else "the seed's"
    if wanted.get("vectors") is not None:
        key, where = "init.vectors", f"that of {config.init.vectors}"
        need += f" with the vectors of {wanted['vectors']}"
        fix = "give the file of those vectors by init.vectors=FILE"
        if config.init.vectors is None:
            raise UserError(f"{key}: {need}; {fix}")
        tokenizer = saved_tokenizer(RunDir(config.run_dir or ""))
        base = program.base(with_vectors(config, program, tokenizer, program.draw()))
    elif named is None or config.init.from_ is None:
        base = program.base(program.draw())
    else:
        own = program.added & flatten(shapes).keys()  # of the adapter, which its base lacks
        drawn = select(program.draw(), own.__contains__) if own else {}
        try:
            source = CheckpointReader(RunDir(config.init.from_).checkpoints, report=report)
            own_config(config.init.from_)  # names a folder that is not a run
            at = source.choose(wanted["step"])
            assert at is not None, "a step was asked for"
            taken = flatten(shapes).keys() - own
            found = read_pretrained(config, program, taken, source, at, report=report)
        except UserError as error:
            raise UserError(f"init.from: {need}; {str(error).partition(';')[0]}; {fix}") from None
        base = join(unflatten(found), drawn)
    digest = param_sha256(base)
    if digest != wanted.get("sha256"):
        raise UserError(f"{key}: {need}, but {where} has SHA-256 {digest[:12]}; {fix}")
    return base


def origin(reader: CheckpointReader, step: int, name: str = "base") -> Mapping[str, Any]:
    """The origin of a frozen tree of a checkpoint, as the module's docstring shows it; {}: it does
    not say.
    """
    try:
        identity = json.loads(reader.read_file(step, IDENTITY))
    except UserError:  # of an earlier version, or imported
        identity = {}
    return identity.get("frozen", {}).get(name, {})


def read_pretrained(
    config: RunConfig,
    program: Program,
    paths: Collection[str],
    reader: CheckpointReader,
    step: int,
    *,
    report: Report = log.info,
) -> dict[str, Any]:
    """{path: array} of the parameters at these paths, of a checkpoint of the run that `init.from`
    names: those of its model, with its adapter merged, as this program stores them.

    Raises `UserError` that lists parameters that the run lacks or has in another shape.
    """
    source, use_ema = RunDir(config.init.from_ or ""), config.init.use_ema
    wanted = {path: x for path, x in flatten(program.abstract_params).items() if path in paths}
    leaves = plain_leaves(wanted)
    if own_config(source.path).values.get("adapter") is None:
        part = params_part(reader, step, use_ema)
        found = flatten(reader.restore_partial(step, {part: unflatten(leaves)})[part])
        return as_stored(found, wanted)
    other = load_saved(source.path).config.replace(mesh=config.mesh, train=config.train)
    own = program_of(other, program.mesh)
    params = read_weights(other, own, reader, step, use_ema=use_ema, report=report)
    return as_stored(_placed(flatten(merged(other, own, params)[1]), leaves, source), wanted)


def _placed(merged: Mapping[str, Any], leaves: Mapping[str, Any], source: RunDir) -> dict[str, Any]:
    """The merged parameters of a source, where this program has them."""
    found = {}
    for path, leaf in leaves.items():
        value = merged.get(path)
        if value is None or value.shape != leaf.shape:
            have = "is missing" if value is None else f"has the shape {list(value.shape)}"
            raise UserError(
                f"init.from: {source}: {path} {have}, wanted {list(leaf.shape)}; name a run of "
                "this model"
            )
        found[path] = jax.device_put(value, leaf.sharding)
    return found
