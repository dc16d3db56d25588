"""The shapes of a run's batches, from its config alone: a plan reads no corpus.

    config = planned(config, seq_len=None)       # or a UserError that says what to write down
    spec = batch_spec_of(config, mesh)

The data's row spec and the objective give the keys, shapes and dtypes of the batches. What only
data can tell must be in the config: the vocabulary, the length of rows, the classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jax.sharding import Mesh

from jaxlm.core.config import UserError
from jaxlm.core.rows import RowSpec
from jaxlm.data.tokenizers.base import load_tokenizer
from jaxlm.run import RunConfig
from jaxlm.runs.folder import RunDir
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
    objective.check(config.model)
    objective.check_resolved()
    seq_len_of(config)
    # whatever computes the plan, what is planned for is an accelerator
    config = config.replace(model=config.model.computing_on("tpu"))
    if config.train.steps is None:
        config = config.replace(train=config.train.replace(steps=1, epochs=None))
    return config


def config_file(path: Path) -> Path:
    """The config at `path`, or that of the run whose folder it is."""
    own = RunDir(path).config
    return own if path.is_dir() and own.is_file() else path


def with_vocabulary(config: RunConfig, path: Path) -> RunConfig:
    """The config with its tokenizer's number of ids where `model.vocab_size` is null.

    The tokenizer is that of the run whose config `path` is, or one that needs no training. Where
    there is neither, the config is returned as it is.
    """
    if config.model.vocab_size is not None:
        return config
    run = RunDir(path.parent)
    if path == run.config and run.tokenizer.is_dir():
        found = load_tokenizer(run.tokenizer)
    elif config.tokenizer is None:
        return config
    else:
        try:
            with TemporaryDirectory() as cache:
                found = config.tokenizer.build(_no_texts, "", Path(cache))
        except _NoTexts:
            return config
    return config.replace(model=config.model.replace(vocab_size=found.vocab_size))


class _NoTexts(Exception):
    """A tokenizer is trained, and a plan has no texts."""


def _no_texts() -> Iterator[str]:
    raise _NoTexts


def seq_len_of(config: RunConfig) -> int:
    """Tokens of a row: the data's seq_len, of a mixture that of its parts."""
    if config.data is None:
        raise UserError(
            "data: null, so rows have no length; name the data, such as "
            "data='{type: tokens, seq_len: 4096, ...}'"
        )
    return config.data.row_length


def row_of(config: RunConfig) -> RowSpec:
    """The entries of a row of a batch: the objective may make rows longer than the data's
    `seq_len`."""
    seq_len_of(config)
    assert config.data is not None
    return config.objective.transform_spec(config.data.row_spec())


def tokens_of(row: RowSpec) -> int:
    """Tokens of a row, as objectives count them (`Objective.flops_per_token`)."""
    return row.shape("segment_ids")[0]


def source_of(row: RowSpec) -> int | None:
    """Tokens of the text that an encoder reads, in a row; None without an encoder."""
    return row.shape("source_segment_ids")[0] if "source_segment_ids" in row else None


def batch_spec_of(config: RunConfig, mesh: Mesh) -> dict[str, Any]:
    """Shapes, dtypes and shardings of a global batch."""
    return batch_spec(row_of(config), config.train.batch_size, mesh)
