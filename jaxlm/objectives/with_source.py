"""Shared code of objectives with an encoder: it reads a source, and the decoder predicts a text.

Segment i of a row's text belongs to segment i of its source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxlm.core.config import UserError, type_name
from jaxlm.core.rows import Entry
from jaxlm.nn.dropout import split_key
from jaxlm.objectives.ids import choose_ids
from jaxlm.objectives.prediction import TokenPrediction

if TYPE_CHECKING:
    import jax

    from jaxlm.core.types import Batch, Cache, LanguageModel, ModelConfig, Output, Tokenizer

SOURCE = {f"source_{key}": Entry(("S",)) for key in ("tokens", "segment_ids", "positions")}


@dataclass(frozen=True, kw_only=True)
class WithSource(TokenPrediction, abstract=True):
    """The base of objectives whose model has an encoder."""

    def check_model(self, model: ModelConfig) -> None:
        if not model.is_encoder_decoder:
            raise UserError(
                f"objective: {type_name(type(self))} needs an encoder that reads the source; set "
                "model.encoder, or use masked_lm or causal_lm"
            )

    def read(
        self, model: LanguageModel, batch: Batch, key: jax.Array | None, cache: Cache | None
    ) -> Output:
        keys = split_key(key, 2)
        encoded = model.encode(
            batch["source_tokens"],
            positions=batch["source_positions"],
            segment_ids=batch["source_segment_ids"],
            key=keys[0],
        )
        return model(
            batch["tokens"],
            positions=batch["positions"],
            segment_ids=batch["segment_ids"],
            encoded=encoded,
            key=keys[1],
        )


def start_id(start: int | str | None, tokenizer: Tokenizer, model: ModelConfig) -> int:
    """The id that a target begins after: the given one, or else `model.prompt.start_id`, or
    padding.
    """
    if start is None:
        start = getattr(model.prompt_format, "start_id", None)
        start = tokenizer.pad_id if start is None else start
    return choose_ids({"start": (start, ())}, tokenizer, model)["start"]
