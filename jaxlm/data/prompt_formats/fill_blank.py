"""A prompt has a blank, and what fills it is written after the prompt (GLM, arXiv:2103.10360).

    tokens          x1 x2 [M] x4   [S] y1 y2 ...     the first blank of the prompt is filled
    places[..., 0]   0  1  2  3     2   2  2         where the blank is
    places[..., 1]   0  0  0  0     1   2  3         the place within it
    prefix           1  1  1  1     0   0  0         seen by all tokens

A prompt without a blank is to be continued: it gets the last of `blank_ids` at its end.

    model: {prompt: {type: fill_blank, start_id: 261, blank_ids: [263, 262]}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxlm.core.config import field
from jaxlm.core.errors import UserError
from jaxlm.data.prompt_formats.base import Ends, PromptFormat, Prompts, after, rows_of

if TYPE_CHECKING:
    from jaxlm.core.types import ModelConfig, Tokenizer


@dataclass(frozen=True, kw_only=True)
class FillBlank(PromptFormat):
    """The text for the prompt's first blank is written after the prompt."""

    step: ClassVar[Mapping[str, Any]] = {"positions": 1, "places": (0, 1)}

    start_id: int | None = field(
        None, "id that the text of a blank begins after", ge=0, affects="host"
    )
    blank_ids: tuple[int, ...] = field(
        (), "ids of blanks; a prompt without one gets the last of them", ge=0, affects="host"
    )

    def validate(self) -> None:
        if self.blank_ids and self.start_id is None:
            raise UserError("start_id: null, but text is written into blanks after it; set its id")

    def check_model(self, model: ModelConfig) -> None:
        if "places" not in model.row_keys:
            raise UserError(
                "prompt: this model fills no blanks; leave it out, or set "
                "model.position to {type: learned_blocks}"
            )

    def encode(self, tokenizer: Tokenizer, text: str, ends: Ends) -> list[int]:
        return self.opened(super().encode(tokenizer, text, ends))

    def opened(self, ids: list[int]) -> list[int]:
        """With a blank at the end, unless it has one: a conversation's answer fills it."""
        return ids if {*self.blank_ids} & {*ids} else [*ids, *self.blank_ids[-1:]]

    def check(self, prompts: Sequence[Sequence[int]], max_tokens: int, model: ModelConfig) -> None:
        blanks = {*self.blank_ids}
        if not blanks:
            raise UserError(
                "model.prompt.blank_ids: names no ids of blanks; set it and model.prompt.start_id"
            )
        if any(blanks.isdisjoint(prompt) for prompt in prompts):
            raise UserError(
                "prompt: has no blank to fill; write one of the tokens that model.prompt.blank_ids "
                "names"
            )
        longest, limit = max(map(len, prompts), default=0), model.max_positions
        if limit is not None and max(longest, max_tokens + 1) >= limit:
            raise UserError(
                f"prompt: {longest} tokens, or {max_tokens} new ones, pass the model's "
                f"{limit - 1} positions; shorten them"
            )

    def arrange(self, tokens: np.ndarray, real: np.ndarray, pad_id: int) -> Prompts:
        rows = rows_of(tokens, real)
        positions = rows["positions"]
        is_blank = np.isin(tokens, np.array(self.blank_ids, np.int32)) & (real > 0)
        blank = np.take_along_axis(positions, is_blank.argmax(axis=1)[:, None], axis=1)  # [B, 1]
        one = np.ones_like(blank)
        start = pad_id if self.start_id is None else self.start_id
        begin = {
            "tokens": one * start,
            "positions": after(rows),
            "segment_ids": one,
            "places": np.stack([blank, one], axis=-1),
            "prefix": np.zeros_like(one, bool),
        }
        rows["places"] = np.stack([positions, np.zeros_like(positions)], axis=-1)
        rows["prefix"] = real > 0
        read = {name: np.concatenate([rows[name], begin[name]], axis=1) for name in begin}
        first = {"positions": after(read), "places": begin["places"] + np.array([0, 1], np.int32)}
        return Prompts(read, first)
