"""The shapes of a run's batches, from its config alone: a plan reads no corpus.

    config = planned(config, seq_len=None)       # or a UserError that says what to write down
    spec = batch_spec_of(config, mesh)

The objective gives the keys, shapes and dtypes of the loader's batches. What otherwise comes from
the data must be in the config: the vocabulary size, the length of rows, the classes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxlm.core.config import UserError
from jaxlm.objectives.base import Shapes
from jaxlm.run import RunConfig
from jaxlm.training.feed import batch_spec

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
    objective = config.objective
    objective.check_model(config.model)
    if objective.row_kind == "examples" and not getattr(objective, "classes", ()):
        raise UserError(
            "objective.classes: empty, and a plan reads no data; write them down, such as "
            "objective.classes='[negative, positive]'"
        )
    seq_len_of(config)
    # whatever computes the plan, what is planned for is an accelerator
    config = config.replace(model=config.model.computing_on("tpu"))
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


def row_of(config: RunConfig) -> Shapes:
    """Shapes and dtypes of one row of a batch, by key: the objective's, which may make rows longer
    than the data's `seq_len`.
    """
    shapes = config.objective.batch_shapes(1, seq_len_of(config))
    return {key: (shape[1:], dtype) for key, (shape, dtype) in shapes.items()}


def tokens_of(row: Shapes) -> int:
    """Tokens of a row, as objectives count them (`Objective.flops_per_token`)."""
    return row["segment_ids"][0][0]


def source_of(row: Shapes) -> int | None:
    """Tokens of the encoder's text in a row; None without an encoder."""
    return row["source_segment_ids"][0][0] if "source_segment_ids" in row else None


def batch_spec_of(config: RunConfig, mesh: Mesh) -> dict[str, Any]:
    """Shapes, dtypes and shardings of a global batch."""
    size = config.train.batch_size
    row = {"id": np.int64(0)} | {
        key: np.zeros(shape, dtype) for key, (shape, dtype) in row_of(config).items()
    }
    loader: Any = SimpleNamespace(row=lambda _: dict(row))
    return batch_spec(loader, size, mesh)
