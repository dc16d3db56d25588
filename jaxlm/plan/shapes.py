"""The shapes of a run's batches, from its config alone: a plan reads no corpus.

    config = planned(config, seq_len=None)       # or a UserError that says what to write down
    spec = batch_spec_of(config, mesh, signals=False)

A row goes through the objective's own host transform, so the batch has the keys and dtypes that the
loader's would have. What only data can tell has to stand in the config: the vocabulary, the length
of rows, the classes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxlm.config import UserError
from jaxlm.run import RunConfig, objective_of
from jaxlm.train.feed import batch_spec

MULTIPLE = 256  # a vocabulary's suggested size: a multiple divides over any mesh


def planned(config: RunConfig) -> RunConfig:
    """The config with a number of steps, once it is sure that all that a plan needs is there."""
    if config.optimizer is None:
        raise UserError("optimizer: null trains nothing, so there is no step to plan; name one")
    if config.model.vocab_size is None:
        raise UserError(
            "model.vocab_size: null, and a plan reads no tokenizer; set it to the tokenizer's "
            f"size, best rounded up to a multiple of {MULTIPLE}, such as model.vocab_size=32768"
        )
    objective = objective_of(config)
    if objective.row_kind == "examples" and not getattr(objective, "classes", ()):
        raise UserError(
            "objective.classes: empty, and a plan reads no data; write them down, such as "
            "objective.classes='[negative, positive]'"
        )
    seq_len_of(config)
    if config.train.steps is None:
        config = config.replace(train=config.train.replace(steps=1, epochs=None))
    return config


def seq_len_of(config: RunConfig) -> int:
    """Tokens of a row: the data's seq_len, of a mixture that of its parts."""
    data: Any = config.data
    if data is None:
        raise UserError(
            "data: null, so rows have no length; name the data, such as "
            "data='{type: tokens, seq_len: 4096, ...}'"
        )
    parts = getattr(data, "parts", None)
    lengths = {p.data.seq_len for p in parts.values()} if parts else {data.seq_len}
    if len(lengths) > 1:
        raise UserError(f"data.parts: rows of {sorted(lengths)} tokens; give all one seq_len")
    return lengths.pop()


def batch_spec_of(config: RunConfig, mesh: Mesh, *, signals: bool) -> dict[str, Any]:
    """Shapes, dtypes and shardings of a global batch.

    `signals`: the run has several processes, each of which puts its signals beside its rows.
    """
    size = config.model.vocab_size or 1
    tokenizer: Any = SimpleNamespace(
        vocab_size=size, bos_id=0, eos_id=0, pad_id=0, token_bytes=[b"a"] * size
    )
    transform = objective_of(config).host_transform(tokenizer)
    row = {"id": np.int64(0), **transform(_raw_row(config))}
    loader: Any = SimpleNamespace(row=lambda _: dict(row))
    extra = lambda n: {"signal": np.zeros(n, np.int32)} if signals else {}  # noqa: E731
    return batch_spec(loader, config.train.batch_size, mesh, extra=extra)


def _raw_row(config: RunConfig) -> dict[str, Any]:
    """A row as the data gives it to an objective."""
    length = seq_len_of(config)
    if objective_of(config).row_kind == "examples":
        tokens = np.zeros(length, np.int32)
        extra = {"label": np.int32(0), "weight": np.float32(1)}
    else:
        tokens, extra = np.zeros(length + 1, np.int32), {}
    positions = np.arange(len(tokens), dtype=np.int32)
    return {"tokens": tokens, "segment_ids": tokens + 1, "positions": positions, **extra}
