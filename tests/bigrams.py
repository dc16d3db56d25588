"""An objective that counts: an example for tests, and for the runs that `tools/chaos.py` kills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.mesh import largest, padded
from jaxlm.objectives.base import Loss
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.counting import Counting, Tables

FIRST_ROWS = 8


class Table(nnx.Module):
    """Counts [rows, V] of the token after each token; rows are added when a larger token comes."""

    def __init__(self, vocab_size: int) -> None:
        zeros = jnp.zeros((FIRST_ROWS, vocab_size), jnp.float32)
        self.counts = nnx.Param(zeros, axes=("pos", "vocab"))


@dataclass(frozen=True, kw_only=True)
class Bigrams(Counting):
    """How often each token follows each other token."""

    def build_model(self, model: Any, *, rngs: nnx.Rngs) -> Table:
        return Table(model.vocab_size)

    def host_transform(self, tokenizer: Any, seed: int) -> Any:
        return CausalLM().host_transform(tokenizer, seed)

    def transform_spec(self, rows: Any) -> Any:
        return CausalLM().transform_spec(rows)

    def flops_per_token(self, model: Any, seq_len: int) -> float:
        return 0.0

    def count(self, tables: Tables, batch: Mapping[str, jax.Array]) -> Tables:
        at = tables["counts"].at[batch["tokens"], batch["targets"]]
        return {"counts": at.add(batch["loss_weights"], mode="drop")}

    def grow(self, tables: Tables, batch: Mapping[str, jax.Array]) -> Tables:
        rows, top = len(tables["counts"]), largest(batch["tokens"])
        need = 1 << top.bit_length()
        if need <= rows:
            return tables
        return {"counts": padded(tables["counts"], (need, tables["counts"].shape[1]))}

    def loss(self, model: Any, batch: Any, *, key: Any, cache: Any) -> Loss:
        counts = model.counts.get_value()
        known = jnp.take(counts, batch["tokens"], axis=0, mode="fill", fill_value=0.0)
        found = jnp.take_along_axis(known, batch["targets"][..., None], -1)[..., 0]
        each = -jnp.log((found + 1) / (known.sum(-1) + counts.shape[1]))
        total, weight = (each * batch["loss_weights"]).sum(), batch["loss_weights"].sum()
        return Loss(total, weight, {"loss": (total, weight)}, None)
