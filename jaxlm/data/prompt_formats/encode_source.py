"""A prompt is a source that an encoder reads whole, and a decoder writes the answer (T5, seq2seq).

encoder     x1 x2 x3 </s>
decoder     [start] y1 y2 ...

model: {prompt: {type: encode_source, start_id: 0}}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxlm.core.config import field
from jaxlm.core.errors import UserError
from jaxlm.data.prompt_formats.base import Ends, PromptFormat, Prompts, after, rows_of

if TYPE_CHECKING:
    from jaxlm.core.types import ModelConfig, Tokenizer


@dataclass(frozen=True, kw_only=True)
class EncodeSource(PromptFormat):
    """An encoder reads the prompt, and a decoder writes after a start token."""

    start_id: int | None = field(
        None, "id of the decoder's first token; null: that of padding", ge=0, affects="host"
    )

    def check_model(self, model: ModelConfig) -> None:
        if not model.is_encoder_decoder:
            raise UserError(
                "prompt: encode_source is for a model with an encoder; leave prompt out"
            )

    def with_start(self, token: int) -> EncodeSource:
        return self if self.start_id is not None else self.replace(start_id=token)

    def encode(self, tokenizer: Tokenizer, text: str, ends: Ends) -> list[int]:
        ids = super().encode(tokenizer, text, ends)
        return [*ids, tokenizer.eos_id] if ends.eos and tokenizer.eos_id is not None else ids

    def check(self, prompts: Sequence[Sequence[int]], max_tokens: int, model: ModelConfig) -> None:
        longest, limit = max(map(len, prompts), default=0), model.max_source_positions
        if limit is not None and longest > limit:
            raise UserError(
                f"prompt: {longest} tokens pass the encoder's {limit} positions; shorten it"
            )
        limit = model.max_positions
        if limit is not None and max_tokens > limit:
            raise UserError(
                f"max_tokens: {max_tokens} pass the decoder's {limit} positions; "
                f"ask for at most {limit}"
            )

    def longest(self, model: ModelConfig, max_tokens: int) -> int | None:
        return model.max_source_positions

    def arrange(self, tokens: np.ndarray, real: np.ndarray, pad_id: int) -> Prompts:
        one = np.ones((len(tokens), 1), np.int32)
        start = pad_id if self.start_id is None else self.start_id
        rows = rows_of(one * start, one)
        return Prompts(rows, {"positions": after(rows)}, source=rows_of(tokens, real))
