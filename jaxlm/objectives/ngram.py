"""An n-gram language model: it is counted, and then smoothed (`jaxlm.ngrams`).

    model: {type: ngram, order: 6}
    objective: {type: ngram, smoothing: {type: kneser_ney}}
    optimizer: null

The table that a run fills says which windows of the data were read, so no order of batches and no
number of devices or epochs changes what is counted. After the last step the n-grams of these
windows, as one text, are counted and smoothed on the host: in memory, or where that would take more
than `memory`, in a folder of the run, by all processes together and with the same result. Until
then the model is uniform: leave `eval.every_steps` at null.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import mesh as meshes
from jaxlm.core.config import UserError, field
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.data.rows.stream import WindowStream
from jaxlm.distributed.consensus import decide, processes
from jaxlm.models.ngram import NgramConfig, NgramLM, table, tables_of
from jaxlm.ngrams.binary import read_binary
from jaxlm.ngrams.counting import Counts, count
from jaxlm.ngrams.model import NgramModel
from jaxlm.ngrams.on_disk import build
from jaxlm.ngrams.smoothing.base import Smoothing
from jaxlm.ngrams.smoothing.kneser_ney import KneserNey
from jaxlm.objectives.base import LOSS, Loss, Transform
from jaxlm.objectives.causal_lm import BITS_PER_BYTE, BITS_PER_CHAR, CausalLM
from jaxlm.objectives.counting import Counting, Tables
from jaxlm.objectives.prediction import PERPLEXITY

log = logging.getLogger("jaxlm")
BYTES = 60  # of memory for each token and each order, at most; measured
FOLDER = "ngrams.work"  # of a run's folder, while it counts on disk
EVERY = 10.0  # seconds between two lines of progress
MATCHED = "matched_orders"  # the sums and the table of tokens by matched order
COLUMNS = ["order", "share", "bits a token"]

if TYPE_CHECKING:
    from flax import nnx

    from jaxlm.core.types import Batch, Cache, ModelConfig, Tokenizer
    from jaxlm.data.store.prepared import Prepared
    from jaxlm.run import RunConfig


@dataclass(frozen=True, kw_only=True)
class Ngram(Counting):
    """The frequency of each n-gram, smoothed."""

    displays: ClassVar[tuple[Measure, ...]] = (LOSS, BITS_PER_CHAR, BITS_PER_BYTE)
    counts_last: ClassVar[bool] = True
    marked_by: ClassVar[str] = "order of the longest stored n-gram that ends at a token"

    smoothing: Smoothing = field(KneserNey, "how counts become probabilities")
    memory: float = field(
        4.0,
        "GB for counts and smoothing; they are on disk, in the run's folder, where the text needs "
        "more. The finished tables are in memory",
        gt=0,
        affects="run",
    )
    bos: int | None = field(
        None, "id that begins a document; null: the tokenizer's, or one that no text has", ge=0
    )

    def why_silent(self, model: ModelConfig) -> str | None:
        return None

    def check_model(self, model: ModelConfig) -> None:
        if not isinstance(model, NgramConfig):
            raise UserError("objective: ngram counts n-grams; set model.type to ngram")
        try:
            self.smoothing.check(model.order)
        except UserError as error:
            raise UserError(f"objective.smoothing.{error}") from None

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
        # [rows, 1]: 1 for each window that was read. Earlier versions had its text, [rows, T + 1].
        module.text = table(jnp.zeros((1, 1), jnp.int32))
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
        """Marks each window as read."""
        text = tables["text"]
        place = jnp.where(batch["segment_ids"].any(-1), batch["row"], len(text))  # out: not written
        return {**tables, "text": text.at[place, 0].set(1, mode="drop")}

    def grow(self, tables: Tables, batch: Mapping[str, jax.Array]) -> Tables:
        rows, width = tables["text"].shape
        need = meshes.largest(batch["row"]) + 1
        if need <= rows:
            return tables
        room = 1 << (need - 1).bit_length()
        return {**tables, "text": meshes.padded(tables["text"], (room, width))}

    def finish_with(
        self,
        tables: Tables,
        config: RunConfig,
        prepared: Prepared,
        *,
        on_part: Callable[[], object] = lambda: None,
    ) -> Tables:
        assert self.bos is not None, "resolve"
        rows: Any = prepared.splits["train"]
        read = np.asarray(jax.device_get(tables["text"])).any(axis=1)
        text = WindowStream(rows.rows, np.flatnonzero(read), self.bos)
        if not len(text):
            return tables
        size = len(tables["level_1"]["log_prob"])  # with one id that no text has
        never = [] if self.bos == size - 1 else [size - 1]
        given: dict[str, Any] = {"vocab_size": size, "bos": self.bos, "never": never}
        given["order"] = sum(name.startswith("level_") for name in tables)
        if len(text) * given["order"] * BYTES <= self.memory * 1e9:
            counts = count(text.read(0, len(text)), **given)
            return {**tables_of(self._estimated(counts)), "text": tables["text"]}
        folder = Path(config.run_dir or ".") / FOLDER
        made = tables_of(self._on_disk(text, folder, on_part, **given))
        decide(f"n-grams read {text.fingerprint}", "", lambda _: "")
        if processes()[0] == 0:
            shutil.rmtree(folder)
        return {**made, "text": tables["text"]}

    def _estimated(self, counts: Counts) -> NgramModel:
        try:
            return self.smoothing.estimate(counts)
        except UserError as error:
            raise UserError(f"objective.smoothing.{error}") from None

    def _on_disk(
        self, text: WindowStream, folder: Path, on_part: Callable[[], object], **given: Any
    ) -> NgramModel:
        """The mapped model of a text, built in a folder, where a killed build continues."""
        index, number = processes()
        where = folder / f"{text.fingerprint[:16]}-{self.memory}"
        log.info("counting the n-grams of %s tokens on disk, in %s", f"{len(text):,}", folder)
        since = time.monotonic()

        def on_unit(name: str) -> None:
            nonlocal since
            on_part()
            if time.monotonic() - since > EVERY:
                since = time.monotonic()
                log.info("n-grams on disk: %s", name)

        build(
            text,
            where / "model.ngrams",
            folder=where,
            words=[],
            smoothing=self.smoothing,
            memory=int(self.memory * 1e9),
            process=index,
            processes=number,
            on_unit=on_unit,
            **given,
        )
        return read_binary(where / "model.ngrams")[0]

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

    def marks(self, model: Any, tokens: jax.Array) -> jax.Array:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        out = model(tokens, positions=positions, segment_ids=jnp.ones_like(tokens))
        _, order = model.matched(out.hidden[:, :-1], tokens[:, 1:])
        return jnp.pad(order, ((0, 0), (1, 0)), constant_values=1)  # the first has no context

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
