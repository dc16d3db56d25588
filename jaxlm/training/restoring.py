"""The state that a run starts from. The order in which it is looked for is fixed, and logged:

    1. resume   the newest good checkpoint of the run directory
    2. init     the weights of another run (`init.from`), trained here or imported; or drawn from
                the seed with an embedding of word vectors (`init.vectors`)
    3. scratch  drawn from the seed

A run directory that has checkpoints but no good one is an error; nothing falls through to a later
line.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.checkpoint.state_io import StateMetadata
from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten, select, unflatten
from jaxlm.data.tokenizers.base import ids_sha256
from jaxlm.nn.heads.base import is_of_head
from jaxlm.run import RunConfig, load_saved
from jaxlm.runs.folder import RunDir
from jaxlm.training import base as bases
from jaxlm.training import references
from jaxlm.training.learner import Learner
from jaxlm.training.session import Session
from jaxlm.training.start_vectors import with_vectors
from jaxlm.training.started import lacks_tokenizer, saved_tokenizer
from jaxlm.training.state import State

log = logging.getLogger("jaxlm")


def find_state(
    session: Session, reader: CheckpointReader, latest: int | None = None
) -> tuple[State, int]:
    """The state to train from and its step, in the order that the module's docstring gives.

    `latest` is the reader's newest good step, where the caller has asked for it already.
    """
    learner, config = session.learner, session.config
    assert learner is not None
    step = reader.latest() if latest is None else latest
    if step is not None:
        log.info("restore order: resume <- checkpoint %d of %s", step, config.run_dir)
        if not learner.frozen:  # a rollback finds them there
            _restore_base(learner, config, reader, step)
            trees, origins = references.read_references(config, learner.program, reader, step)
            learner.frozen |= trees
            learner.origins |= origins
        return reader.restore(step, learner.abstract_state(reader.read_metadata(step).arrays)), step
    source: dict[str, Any] = {"seed": config.seed}
    params: dict[str, Any] | None
    if config.init.from_ is not None:
        params, at = read_pretrained(session)
        source = {"run": config.init.from_, "step": at}
    elif config.init.vectors is not None:
        log.info("restore order: no checkpoint, no init.from: init.vectors, seed %d", config.seed)
        params = with_vectors(
            config, learner.program, session.prepared.tokenizer, learner.program.draw()
        )
        source["vectors"] = config.init.vectors
    else:
        log.info("restore order: no checkpoint, no init.from: scratch, seed %d", config.seed)
        params = learner.program.draw() if learner.program.references else None
    trees, origins = {}, {}
    if params is not None:
        trees, origins = references.start_references(config, learner.program, params, source)
    state = learner.create(params)
    if "base" in learner.frozen:
        origins["base"] = source | {"sha256": param_sha256(learner.frozen["base"])}
    learner.frozen |= trees
    learner.origins = origins
    return state, 0


def read_pretrained(session: Session) -> tuple[dict[str, Any], int]:
    """(parameters, step) from the run that `init.from` names.

    A head is taken where that run has one of the same shape and labels, else it starts fresh.
    Raises `UserError` that lists parameters the source lacks or has in another shape, and where the
    source's tokenizer is not this run's: its ids would mean something else.
    """
    program, config = session.program, session.config
    source = RunDir(config.init.from_ or "")
    own = ids_sha256(session.prepared.tokenizer)
    if lacks_tokenizer(source):
        log.info("%s has no tokenizer to compare with: its ids are taken as this one's", source)
    elif ids_sha256(saved_tokenizer(source)) != own:
        raise UserError(
            f"tokenizer: is not the one that {source} (init.from) was trained with; leave "
            "tokenizer out of the config, and that one is used"
        )
    reader = CheckpointReader(source.checkpoints, report=log.warning)
    step = reader.choose(config.init.step)
    if step is None:
        raise UserError(f"init.from: {source} has no checkpoint; name a run that has been trained")
    part = bases.params_part(reader, step, config.init.use_ema)
    leaves = flatten(program.abstract_params)
    head = {path: leaf.shape for path, leaf in leaves.items() if is_of_head(path)}
    found = _has_head(source, reader.read_metadata(step), part, head, config)
    fresh = sorted({*program.added, *(() if found else head)})
    taken = [path for path in leaves if path not in fresh]
    # before the others are read: a draw has all of them
    drawn = flatten(select(program.draw(), fresh.__contains__)) if fresh else {}
    params = bases.read_pretrained(config, program, taken, reader, step) | drawn
    log.info(
        "restore order: no checkpoint; init <- %s of step %d of %s: %d parameters taken, fresh: %s",
        part, step, source, len(taken), ", ".join(fresh) or "none",
    )  # fmt: skip
    return unflatten(params), step


def _restore_base(learner: Learner, config: RunConfig, reader: CheckpointReader, step: int) -> None:
    """Sets the frozen parameters of a learner to those that a checkpoint names, if it has any."""
    if base := bases.read_base(config, learner.program, reader, step):
        named = dict(bases.origin(reader, step))
        if "run" in named:
            named["run"] = config.init.from_  # where it is now
        if "vectors" in named:
            named["vectors"] = config.init.vectors
        learner.frozen, learner.origins = {"base": base}, {"base": named}


def _has_head(
    source: RunDir, metadata: StateMetadata, part: str, head: Mapping[str, Any], config: RunConfig
) -> bool:
    """Whether a run has a head of these shapes, {path: shape}, for the same labels."""
    stored = {path: metadata.arrays.get(f"{part}/{path}") for path in head}
    if any(info is None or info.shape != head[path] for path, info in stored.items()):
        return False
    return load_saved(source.path).config.objective.labels == config.objective.labels
