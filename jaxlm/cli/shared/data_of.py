"""What a run's config says about its data, read without jax.

    run = data_of("configs/quickstart.yaml", ("seed=3",))
    run.data, run.tokenizer, run.cache_dir

The whole config is read and checked (see `jaxlm.core.without_jax`); the data's own parts, which
import no jax, are then built from its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxlm.core.types import TokenizerConfig
from jaxlm.core.without_jax import reading
from jaxlm.data.store.prepared import DataConfig


class DataOf(NamedTuple):
    """The data of a run, and the order in which it is read."""

    data: DataConfig | None
    tokenizer: TokenizerConfig | None
    cache_dir: Path
    seed: int
    batch_size: int
    workers: int


def data_of(config: str, overrides: Sequence[str] = ()) -> DataOf:
    """Reads a config file under dotted overrides. Raises `UserError`."""
    values = reading(lambda: _values(config, overrides))

    from jaxlm.core.config import parse
    from jaxlm.data.reading.fetch import default_cache_dir

    data, tokenizer, cache = values["data"], values["tokenizer"], values["cache_dir"]
    return DataOf(
        None if data is None else parse(DataConfig, data),
        None if tokenizer is None else parse(TokenizerConfig, tokenizer),
        Path(cache) if cache else default_cache_dir(),
        values["seed"],
        values["train"]["batch_size"],
        values["train"]["data_workers"],
    )


def _values(config: str, overrides: Sequence[str]) -> dict[str, Any]:
    from jaxlm.core.config import to_dict
    from jaxlm.hf.opened import run_of
    from jaxlm.run import load_run

    return to_dict(load_run(config, overrides, run_of).config)
