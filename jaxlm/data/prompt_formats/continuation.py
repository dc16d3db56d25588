"""A prompt is the beginning of a text, and what is written continues it (GPT, Llama, LSTM).

prompt      x1 x2 x3
new text             x4 x5 ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.data.prompt_formats.base import PromptFormat, Prompts, after, rows_of

if TYPE_CHECKING:
    from jaxlm.core.types import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Continuation(PromptFormat, type="continue"):
    """New text continues the prompt."""

    def check(self, prompts: Sequence[Sequence[int]], max_tokens: int, model: ModelConfig) -> None:
        longest, limit = max(map(len, prompts), default=0), model.max_positions
        if limit is not None and longest + max_tokens > limit:
            room = limit - longest
            fix = f"ask for at most {room} tokens" if room > 0 else "shorten the prompt"
            raise UserError(
                f"prompt: {longest} tokens and {max_tokens} new ones pass the model's "
                f"{limit} positions; {fix}"
            )

    def arrange(self, tokens: np.ndarray, real: np.ndarray, pad_id: int) -> Prompts:
        rows = rows_of(tokens, real)
        return Prompts(rows, {"positions": after(rows)})
