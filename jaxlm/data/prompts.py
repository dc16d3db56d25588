"""Prompts as ids, and what a model can make of them: text in, text out is `Writer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxlm.core.config import UserError
from jaxlm.core.types import ModelConfig, Tokenizer
from jaxlm.data.sources.formats import check_characters
from jaxlm.data.store.prepared import DataConfig

if TYPE_CHECKING:
    from jaxlm.generate.generator import Generator


class Writer:
    """Text to text: what a generator's model writes after each prompt."""

    def __init__(self, tokenizer: Tokenizer, generator: Generator, ends: Ends):
        self.tokenizer, self.generator, self.ends = tokenizer, generator, ends

    def __call__(self, params: Any, prompts: Sequence[str], **how: Any) -> list[str]:
        """The new text of each prompt; `how` and what it raises are those of `Generator`."""
        model = self.generator.program.model
        ids = [encode_prompt(self.tokenizer, text, model, self.ends) for text in prompts]
        size = self.tokenizer.vocab_size  # ids behind it, such as sentinels, add nothing to a text
        rows = self.generator(params, ids, **how)
        return [self.tokenizer.decode([i for i in row if i < size]) for row in rows]


class Ends(NamedTuple):
    """Whether a model's documents begin with bos and end with eos."""

    bos: bool
    eos: bool
    empty: bool = False  # whether an empty prompt is bos alone, as in transformers


def ends_of(data: DataConfig | None, manifest: Mapping[str, Any], tokenizer: Tokenizer) -> Ends:
    """As in training; for a run without data, as the tokenizer's own files say."""
    if data is None:
        return Ends(tokenizer.adds_bos, tokenizer.adds_eos, empty=True)
    return Ends(*data.marks(manifest))


def ids_of(
    tokenizer: Tokenizer, eos_ids: Sequence[int] = (), trained: bool = True
) -> dict[str, Any]:
    """The ids that a generator asks for: what ends a text, and padding.

    eos_ids: what the run's config lists. A run that was trained stops at the tokenizer's eos too.
    """
    own = () if tokenizer.eos_id is None or (eos_ids and not trained) else (tokenizer.eos_id,)
    return {"eos_id": tuple(dict.fromkeys((*eos_ids, *own))), "pad_id": tokenizer.pad_id}


def encode_prompt(tokenizer: Tokenizer, text: str, model: ModelConfig, ends: Ends) -> list[int]:
    """The ids that a document starting with `text` starts with; for an encoder, all of its ids.

    A text without a blank is to be continued, by a model that fills blanks: it gets one at its end.
    """
    check_characters(text, "prompt")
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    start = [bos] if bos is not None and (ends.bos or (ends.empty and not text)) else []
    end = [eos] if eos is not None and model.encodes and ends.eos else []
    ids = start + tokenizer.encode(text) + end
    blanks = model.blank_ids if model.fills_blanks else ()
    return ids if set(blanks) & set(ids) else [*ids, *blanks[-1:]]


def check_prompts(prompts: Sequence[Sequence[int]], max_tokens: int, model: ModelConfig) -> None:
    """Raises `UserError` for an empty prompt, or a text that passes the model's positions."""
    if any(not prompt for prompt in prompts):
        raise UserError(
            "prompt: has no tokens, and texts do not begin with a start token; give some text"
        )
    longest, limit = max(map(len, prompts), default=0), model.max_positions
    if model.encodes:
        source_limit = model.max_source_positions
        if source_limit is not None and longest > source_limit:
            raise UserError(
                f"prompt: {longest} tokens pass the encoder's {source_limit} positions; shorten it"
            )
        if limit is not None and max_tokens > limit:
            raise UserError(
                f"max_tokens: {max_tokens} pass the decoder's {limit} positions; "
                f"ask for at most {limit}"
            )
    elif model.fills_blanks:
        blanks = set(model.blank_ids)
        if not blanks:
            raise UserError(
                "model.blank_ids: names no tokens that stand for a blank; set it and model.start_id"
            )
        if any(blanks.isdisjoint(prompt) for prompt in prompts):
            raise UserError(
                "prompt: has no blank to fill; write one of the tokens that model.blank_ids names"
            )
        if limit is not None and max(longest, max_tokens + 1) >= limit:
            raise UserError(
                f"prompt: {longest} tokens, or {max_tokens} new ones, pass the model's "
                f"{limit - 1} positions; shorten them"
            )
    elif limit is not None and longest + max_tokens > limit:
        room = limit - longest
        mend = f"ask for at most {room} tokens" if room > 0 else "shorten the prompt"
        raise UserError(
            f"prompt: {longest} tokens and {max_tokens} new ones pass the model's "
            f"{limit} positions; {mend}"
        )
