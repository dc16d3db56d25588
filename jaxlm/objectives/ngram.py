"""An n-gram language model: it is counted, and then smoothed (`jaxlm.ngrams`).

    model: {type: ngram, order: 6}
    objective: {type: ngram, smoothing: {type: kneser_ney}}
    optimizer: null

The table that a run fills is the text itself: each window of the data goes to its own place, so no
order of batches and no number of devices or epochs changes what is counted, and n-grams that cross
two windows count as well. After the last step the n-grams of all windows are counted and smoothed
on the host. Until then the model is uniform: leave `eval.every_steps` at null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import mesh as meshes
from jaxlm.core.config import UserError, field
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.models.ngram import NgramConfig, NgramLM, table, tables_of
from jaxlm.ngrams.counting import count
from jaxlm.ngrams.smoothing.base import Smoothing
from jaxlm.ngrams.smoothing.kneser_ney import KneserNey
from jaxlm.objectives.base import LOSS, Loss, Transform
from jaxlm.objectives.causal_lm import BITS_PER_BYTE, BITS_PER_CHAR, CausalLM
from jaxlm.objectives.counting import Counting, Tables
from jaxlm.objectives.prediction import PERPLEXITY

MATCHED = "matched_orders"  # the sums and the table of tokens by matched order
COLUMNS = ["order", "share", "bits a token"]

if TYPE_CHECKING:
    from flax import nnx

    from jaxlm.core.types import Batch, Cache, ModelConfig, Tokenizer


@dataclass(frozen=True, kw_only=True)
class Ngram(Counting):
    """The frequency of each n-gram, smoothed."""

    displays: ClassVar[tuple[Measure, ...]] = (LOSS, BITS_PER_CHAR, BITS_PER_BYTE)

    smoothing: Smoothing = field(KneserNey, "how counts become probabilities")
    bos: int | None = field(
        None, "id that begins a document; null: the tokenizer's, or one that no text has", ge=0
    )

    def why_silent(self, model: ModelConfig) -> str | None:
        return None

    def check_model(self, model: ModelConfig) -> None:
        if not isinstance(model, NgramConfig):
            raise UserError("objective: ngram counts n-grams; set model.type to ngram")

    def resolve(self, prepared: Any, model: ModelConfig) -> Ngram:
        if getattr(prepared.splits["train"], "packing", None) != "split":
            raise UserError(
                "objective: ngram counts windows of running text; use data.type text or tokens, "
                "with data.packing split"
            )
        if prepared.consecutive:
            raise UserError(
                "data.order: stream begins positions again in each row of the batch, which "
                "objective ngram would count as beginnings of documents; set it to shuffle"
            )
        bos, most = self.bos, model.vocab_size  # an id that no text has
        if bos is None:
            bos = prepared.tokenizer.bos_id
        elif bos > most:
            raise UserError(
                f"objective.bos: {bos}, but the model has ids up to {most - 1}; set it to one of "
                "them, or to null"
            )
        return self.replace(bos=most if bos is None else bos)

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> NgramLM:
        module = model.build(model.vocab_size, rngs=rngs)
        module.text = table(jnp.zeros((1, 1), jnp.int32))  # [rows, T + 1] cells, as `_cells` says
        return module

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        shared = CausalLM().host_transform(tokenizer, seed)

        def transform(row: Mapping[str, Any], index: int) -> dict[str, Any]:
            return {**shared(row, index), "row": np.int32(row["id"])}

        return transform

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        made = CausalLM().transform_spec(rows)
        return RowSpec({**dict(made.items()), "row": Entry(())}, **made.sizes)

    def flops_per_token(self, model: Any, seq_len: int) -> float:
        return 0.0

    # ------------------------------------------------------------------------------------- counts

    def count(self, tables: Tables, batch: Mapping[str, jax.Array]) -> Tables:
        """Writes each window to its row."""
        rows, width = tables["text"].shape
        cells = _cells(batch)[:, :width]
        place = jnp.where(batch["segment_ids"].any(-1), batch["row"], rows)  # out: not written
        return {**tables, "text": tables["text"].at[place].set(cells, mode="drop")}

    def grow(self, tables: Tables, batch: Mapping[str, jax.Array]) -> Tables:
        rows, width = tables["text"].shape
        need = meshes.largest(batch["row"]) + 1
        wide = batch["tokens"].shape[1] + 1
        if need <= rows and wide <= width:
            return tables
        shape = max(1 << (need - 1).bit_length(), rows), max(wide, width)
        return {**tables, "text": meshes.padded(tables["text"], shape)}

    def finish(self, tables: Tables) -> Tables:
        levels = sum(name.startswith("level_") for name in tables)
        size = len(tables["level_1"]["log_prob"])  # with one id that no text has
        assert self.bos is not None, "resolve"
        tokens = _stream(np.asarray(jax.device_get(tables["text"])), self.bos)
        if not len(tokens):
            return tables
        never = [] if self.bos == size - 1 else [size - 1]
        counts = count(tokens, order=levels, vocab_size=size, bos=self.bos, never=never)
        return {**tables_of(self.smoothing.estimate(counts)), "text": tables["text"]}

    def used_parameters(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: table for name, table in params.items() if name != "text"}

    # --------------------------------------------------------------------------------------- loss

    def loss(self, model: Any, batch: Batch, *, key: Any, cache: Cache | None) -> Loss:
        (log_p, order), weights = self._matched(model, batch), batch["loss_weights"]
        total, weight = -(log_p * weights).sum(), weights.sum()
        bits = total / math.log(2)
        metrics = {
            "loss": (total, weight),
            "bits_per_byte": (bits, batch["num_bytes"].astype(bits.dtype).sum()),
            "bits_per_char": (bits, batch["num_chars"].astype(bits.dtype).sum()),
        }
        for n in range(1, model.config.order + 1):
            own = jnp.where(order == n, weights, 0)
            metrics[f"{MATCHED}_{n}"] = (own.sum(), weight)
            metrics[f"{MATCHED}_{n}_loss"] = (-(log_p * own).sum(), own.sum())
        return Loss(total, weight, metrics, cache)

    def predict(self, model: Any, batch: Batch) -> Mapping[str, jax.Array]:
        """log_probs [B, T] of the targets, 0 where the target does not count."""
        log_p, _ = self._matched(model, batch)
        return {"log_probs": jnp.where(batch["loss_weights"] > 0, log_p, 0)}

    def measures(self, sums: Mapping[str, tuple[Any, Any]]) -> list[Measure]:
        own = {name: value for name, value in sums.items() if not name.startswith(MATCHED)}
        found = super().measures(own)
        loss = next(m.value for m in found if m.name == LOSS.name)
        found.append(PERPLEXITY.of(math.exp(min(loss, 700.0))))
        rows: list[list[Any]] = []
        while f"{MATCHED}_{(n := len(rows) + 1)}" in sums:
            share, nats = sums[f"{MATCHED}_{n}"], sums[f"{MATCHED}_{n}_loss"]
            tokens = float(share[0])
            bits = float(nats[0]) / math.log(2) / tokens if tokens else None
            rows.append([n, tokens / max(float(share[1]), 1.0), bits])
        return [*found, Measure(MATCHED, {"columns": COLUMNS, "rows": rows}, show="table")]

    def _matched(self, model: NgramLM, batch: Batch) -> tuple[jax.Array, jax.Array]:
        out = model(batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"])
        return model.matched(out.hidden, batch["targets"])


def _cells(batch: Mapping[str, jax.Array]) -> jax.Array:
    """[B, T + 1] the tokens of windows: 2 * token + 1, and 1 more where a document begins; 0: no
    token. The last one is the next window's first; it counts where no window follows.
    """
    tokens = 1 + 2 * batch["tokens"] + (batch["positions"] == 0)
    tokens = jnp.where(batch["segment_ids"] > 0, tokens, 0)
    weights = batch["loss_weights"]
    # a padded row ends before its last target
    last = jnp.where(weights[:, -1:] > 0, 1 + 2 * batch["targets"][:, -1:], 0)
    return jnp.concatenate([tokens, last], axis=1)


def _stream(text: np.ndarray, bos: int) -> np.ndarray:
    """The tokens of all windows in order, with `bos` before each document and after each gap."""
    read: np.ndarray = np.any(text[:, :-1] > 0, axis=1)
    follows = np.append(read[1:], False)
    kept = text.copy()
    kept[follows, -1] = 0  # the next window has it
    new = read & ~np.append(False, read[:-1])  # after a gap
    begins = np.asarray((kept > 0) & (kept % 2 == 0))
    begins[new, 0] = True
    cells, begins = kept[kept > 0], begins[kept > 0]
    tokens = (cells - 1) // 2
    marks = begins & (tokens != bos)
    return np.insert(tokens, np.flatnonzero(marks), bos)
