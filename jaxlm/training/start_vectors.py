"""The start of an embedding from word vectors: a file, or a run that learned some.

    init: {vectors: glove.6B.50d.txt, frozen: true}

Tokens whose word has a vector start from it, all others as the model draws them. With `frozen` the
embedding is a frozen tree of the run: it has no moments and no copy in checkpoints, which name it
by its SHA-256, and the file is read again when the run is opened.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import mesh as meshes
from jaxlm.adapters.freeze import Freeze
from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core.config import UserError, type_name
from jaxlm.core.tree import flatten, unflatten
from jaxlm.core.types import Tokenizer
from jaxlm.run import RunConfig, load_saved
from jaxlm.runs.folder import RunDir
from jaxlm.training.build import program_of
from jaxlm.training.program import Program
from jaxlm.training.started import saved_tokenizer
from jaxlm.vectors.files import read_vectors
from jaxlm.vectors.table import WordVectors

log = logging.getLogger("jaxlm")
EMBEDDING = "embed/table"
FROZEN = Freeze(train=(f"^(?!{EMBEDDING}$)",))


def with_frozen(config: RunConfig) -> RunConfig:
    """The config whose adapter freezes the embedding, where `init.frozen` asks for that."""
    if not config.init.frozen:
        return config
    if config.adapter is None:
        return config.replace(adapter=FROZEN)
    if config.adapter.trains(EMBEDDING):
        raise UserError(
            f"init.frozen: adapter {type_name(type(config.adapter))} trains {EMBEDDING}; set "
            "init.frozen to false, or change adapter.train"
        )
    return config


def with_vectors(
    config: RunConfig, program: Program, tokenizer: Tokenizer, params: dict[str, Any]
) -> dict[str, Any]:
    """The parameters with the vectors of `init.vectors` in their embedding; logs how many.

    Raises `UserError` where model and vectors do not fit, and where no word of the tokenizer has a
    vector.
    """
    path, flat = config.init.vectors, flatten(params)
    assert path is not None
    if EMBEDDING not in flat:
        raise UserError(
            f"init.vectors: model.type {type_name(type(config.model))} has no {EMBEDDING}; use an "
            "rnn or a transformer, or leave it out"
        )
    table = _table(config, program, path)
    rows, wide = flat[EMBEDDING].shape
    if table.size != wide:
        key = "embedding_size" if hasattr(config.model, "embedding_size") else "hidden_size"
        raise UserError(
            f"init.vectors: {path} has {table.size} dimensions and the embedding {wide}; set "
            f"model.{key} to {table.size}"
        )
    own, found = matched(table, tokenizer, rows)
    words = sum(1 for spelled in tokenizer.token_bytes if spelled.strip())
    if not found.any():
        raise UserError(
            f"init.vectors: none of the tokenizer's {words:,} words has a vector in {path}; use a "
            "tokenizer of words, such as tokenizer.type words"
        )
    log.info(
        "init.vectors: %d of %d words (%.1f%%) have a vector in %s; the others start as the model "
        "draws them",
        found.sum(), words, 100 * found.sum() / words, path,
    )  # fmt: skip
    sharding = flat[EMBEDDING].sharding
    start = jax.jit(lambda drawn: jnp.where(found[:, None], own, drawn), out_shardings=sharding)
    return unflatten({**flat, EMBEDDING: start(flat[EMBEDDING])})


def matched(table: WordVectors, tokenizer: Tokenizer, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(vectors [rows, D], whether each id has one [rows]): by the spelling of an id, or else by its
    spelling in lower case.
    """
    own, found = np.zeros((rows, table.size), np.float32), np.zeros(rows, bool)
    for i, spelled in enumerate(tokenizer.token_bytes[:rows]):
        word = spelled.decode("utf-8", "replace").strip()
        row = table.index.get(word, table.index.get(word.lower())) if word else None
        if row is not None:
            own[i], found[i] = table.vectors[row], True
    return own, found


def _table(config: RunConfig, program: Program, path: str) -> WordVectors:
    try:
        if not Path(path).is_dir():
            return read_vectors(path, report=log.info)
        return _table_of_run(config, program, path)
    except UserError as error:
        raise UserError(f"init.vectors: {error}") from None


def _table_of_run(config: RunConfig, program: Program, path: str) -> WordVectors:
    """The vectors of another run's newest checkpoint, which every device reads whole."""
    other = load_saved(path).config.replace(mesh=config.mesh, train=config.train)
    if not other.model.has_word_vectors:
        kind = type_name(type(other.model))
        raise UserError(f"{path}: model.type {kind} has no vectors of words; name another run")
    run = RunDir(path)
    tokenizer, reader = saved_tokenizer(run), CheckpointReader(run.checkpoints, report=log.info)
    step = reader.choose(None)
    if step is None:
        raise UserError(f"{path} has no checkpoint; name a run that is trained")
    whole = meshes.replicated(program.mesh)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
        program_of(other, program.mesh).abstract_params,
    )
    params = reader.restore_partial(step, {"params": shapes})["params"]
    rows = other.model.word_vectors(params, tokenizer)
    assert rows is not None, "has_word_vectors"
    return WordVectors.of_tokenizer(tokenizer, rows)
