"""Causal language modelling: predict each token from those before it in its document.

    loss = sum_t w_t (-log p(x_t | x_<t)) / sum_t w_t

with the terms of `jaxlm.objectives.prediction`. Validation reports the plain negative
log-likelihood, and the same in bits per UTF-8 byte and per character, which do not depend on the
tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.data.prompt_formats.continuation import Continuation
from jaxlm.data.prompt_formats.fill_blank import FillBlank
from jaxlm.data.rows.batched import Alike
from jaxlm.objectives.base import LOSS, Loss, Transform
from jaxlm.objectives.prediction import ACCURACY, PREDICTED, TokenPrediction, shifted

if TYPE_CHECKING:
    from jaxlm.core.types import Batch, LanguageModel, ModelConfig, Output, Tokenizer

BITS_PER_CHAR = Measure(
    "bits_per_char", better="lower", show="headline", label="bits per character", format=".3f"
)
BITS_PER_BYTE = Measure("bits_per_byte", better="lower", show="headline", format=".3f")


@dataclass(frozen=True, kw_only=True)
class CausalLM(TokenPrediction):
    """Predict the next token."""

    uses = ("loss_weights",)
    displays: ClassVar[tuple[Measure, ...]] = (LOSS, BITS_PER_CHAR, BITS_PER_BYTE, ACCURACY)

    def why_silent(self, model: ModelConfig) -> str | None:
        return None

    def check_model(self, model: ModelConfig) -> None:
        if model.sees_ahead:
            raise UserError(
                "objective: causal_lm asks for the next token, which this model sees; set "
                "model.attention.is_causal to true, or use masked_lm"
            )
        if model.is_encoder_decoder:
            raise UserError(
                "objective: causal_lm has no source text for the model's encoder; use "
                "span_corruption, or a model without an encoder"
            )

    def complete(self, model: ModelConfig) -> ModelConfig:
        """A model that fills blanks is asked as it is trained here: a text continues its prompt."""
        if not isinstance(model.prompt_format, FillBlank):
            return model
        return model.replace(prompt=Continuation())

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        """Raw token rows [T + 1] -> inputs, targets and weights [T], as `shifted` makes them, with
        the bytes and characters of the targets that count.
        """
        pieces = tokenizer.token_bytes
        num_bytes = np.array([len(piece) for piece in pieces], np.int64)
        num_chars = np.array([sum((b & 0xC0) != 0x80 for b in piece) for piece in pieces], np.int64)
        both = num_bytes << 32 | num_chars  # two sums in one pass over the targets

        def transform(row: Mapping[str, Any]) -> dict[str, Any]:
            made = shifted(row)
            counted = both.take(row["tokens"][..., 1:])
            counted *= made["loss_weights"] > 0
            sums = counted.sum(-1)
            return {
                **made,
                "num_bytes": (sums >> 32).astype(np.int32),
                "num_chars": (sums & 0xFFFFFFFF).astype(np.int32),
            }

        return Alike(transform)

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        entries = {**PREDICTED, "num_bytes": Entry(()), "num_chars": Entry(())}
        return RowSpec(entries, T=rows.sizes["T"] - 1)

    def predicted(self, model: LanguageModel, out: Output, batch: Batch) -> Loss:
        found = super().predicted(model, out, batch)
        bits = found.metrics["loss"][0] / math.log(2)
        rates = {
            "bits_per_byte": (bits, batch["num_bytes"].astype(bits.dtype).sum()),
            "bits_per_char": (bits, batch["num_chars"].astype(bits.dtype).sum()),
        }
        return found._replace(metrics={**found.metrics, **rates})
