"""A prompt format: how a text becomes the ids that a model reads, and where new ids are written.

    form = format_of(model)                          # `jaxlm.data.prompts`
    ids = form.encode(tokenizer, "To be", ends)      # of one prompt
    prompts = form.arrange(tokens, real, pad_id=0)   # of a batch, as the model reads it

Everything here is numpy, on the host. `Prompts.read` is the model's first call; the token that is
written as number i has the rows `Prompts.first` plus i times `PromptFormat.step`. So a generator
writes text with any model without a branch for its kind.

A format is a part: a file of this folder, or a class of a package or of one's own. A model's config
names one as `prompt`, where the kind of model does not say it already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from jaxlm.core.config import Config, Kind
from jaxlm.data.reading.text import check_characters

if TYPE_CHECKING:
    from jaxlm.core.types import ModelConfig, Tokenizer


class Ends(NamedTuple):
    """Whether a model's documents begin with bos and end with eos, and how it is asked."""

    bos: bool
    eos: bool
    empty: bool = False  # whether an empty prompt is bos alone, as in transformers
    format: PromptFormat | None = None  # of prompts, where the data has one; None: the model's


class Prompts(NamedTuple):
    """A batch of B prompts as a model reads them."""

    read: dict[str, np.ndarray]  # what it is called with first: tokens [B, P], positions, ...
    first: dict[str, np.ndarray]  # rows of the first new token, without its id: positions [B, 1]
    source: dict[str, np.ndarray] | None = None  # what its encoder reads: tokens [B, S], ...


@dataclass(frozen=True, kw_only=True)
class PromptFormat(Config):
    """The conversion of a prompt into ids."""

    kind: ClassVar = Kind("prompt_formats", "prompt_format", folder="jaxlm.data.prompt_formats")

    # What is added to `Prompts.first` for each more token.
    step: ClassVar[Mapping[str, Any]] = {"positions": 1}

    if TYPE_CHECKING:
        start_id: Any = (
            None  # int | None; where the format has one: the id that new text begins after
        )

    def check_model(self, model: ModelConfig) -> None:
        """Raises `UserError` for a model that cannot read prompts of this format."""

    def with_start(self, token: int) -> PromptFormat:
        """The format with an id that new text begins after, where it needs one and names none."""
        return self

    def reads(self, tokenizer: Tokenizer, text: str) -> bool:
        """Whether a prompt is of this format; else it is read in the model's own."""
        return True

    def encode(self, tokenizer: Tokenizer, text: str, ends: Ends) -> list[int]:
        """The ids of a prompt. Raises `UserError` for characters that no text has."""
        check_characters(text, "prompt")
        bos = tokenizer.bos_id
        start = [bos] if bos is not None and (ends.bos or (ends.empty and not text)) else []
        return start + tokenizer.encode(text)

    def opened(self, ids: list[int]) -> list[int]:
        """The ids of a prompt that another format wrote, such as a rendered conversation, as a
        model of this format is asked with them.
        """
        return ids

    def stops(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Ids that new text ends with, besides the tokenizer's eos."""
        return ()

    def check(self, prompts: Sequence[Sequence[int]], max_tokens: int, model: ModelConfig) -> None:
        """Raises `UserError` where prompts and `max_tokens` new ids do not fit the model."""
        raise NotImplementedError

    def longest(self, model: ModelConfig, max_tokens: int) -> int | None:
        """Ids that a prompt may have before `max_tokens` new ones; None: any number."""
        limit = model.max_positions
        return None if limit is None else limit - max_tokens

    def arrange(self, tokens: np.ndarray, real: np.ndarray, pad_id: int) -> Prompts:
        """Prompts [B, P] that are padded on the left; `real` [B, P] is 0 at padding."""
        raise NotImplementedError


def rows_of(tokens: np.ndarray, real: np.ndarray) -> dict[str, np.ndarray]:
    """Tokens [B, P] with the positions and the segments of one text a row."""
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    return {
        "tokens": tokens.astype(np.int32),
        "positions": positions.astype(np.int32),
        "segment_ids": real.astype(np.int32),
    }


def after(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """The position [B, 1] that follows the last one of each row."""
    return rows["positions"][:, -1:] + 1
