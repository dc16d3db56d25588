"""Prompts as ids, and what a model can make of them.

How a text becomes ids is a matter of the model's format (`jaxlm.data.prompt_formats`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxlm.core.config import UserError, parse
from jaxlm.core.types import ModelConfig, Tokenizer
from jaxlm.data.prompt_formats.base import Ends, PromptFormat
from jaxlm.data.prompt_formats.continuation import Continuation
from jaxlm.data.store.prepared import DataConfig


def format_of(model: ModelConfig) -> PromptFormat:
    """The prompt format of a model: its own, or that a prompt is continued."""
    own = model.prompt_format
    assert own is None or isinstance(own, PromptFormat), own
    return own or Continuation()


def ends_of(data: DataConfig | None, manifest: Mapping[str, Any], tokenizer: Tokenizer) -> Ends:
    """As in training; for a run without data, as the tokenizer's own files say."""
    if data is None:
        return Ends(tokenizer.adds_bos, tokenizer.adds_eos, empty=True)
    task = getattr(data, "task", None)
    form = None
    if task is not None and task.prompt_format is not None:
        task = task.fitted(data.row_length)
        form = named_format(task.prompt_format, **task.prompt_options)
    return Ends(*data.marks(manifest), format=form)


def named_format(name: str, **options: Any) -> PromptFormat:
    """The prompt format of a type, with these options and its defaults."""
    return parse(PromptFormat, {"type": name, **options})


def asked_as(ends: Ends, chat: bool | None, system: str | None = None) -> Ends:
    """Prompts as conversations (true), as running text (false), or as the data says (None).

    system: a system message for prompts that have none; None: that of the data's task.
    """
    if chat is None and system is None:
        return ends
    if chat is False:
        return ends._replace(format=None)
    asked = named_format("chat")
    if type(ends.format) is type(asked):
        asked = ends.format  # with the options that the data's task gives
    changes = {"texts": True} | ({} if system is None else {"system": system})
    return ends._replace(format=asked.replace(**changes))


class TextIds(NamedTuple):
    """The ids of a tokenizer that a generator needs."""

    eos_ids: tuple[int, ...]  # each ends a text
    pad_id: int


def ids_of(
    tokenizer: Tokenizer,
    eos_ids: Sequence[int] = (),
    trained: bool = True,
    ends: Ends | None = None,
) -> TextIds:
    """The ids that end a text, and the id of padding.

    eos_ids: what the run's config lists. A run that was trained stops at the tokenizer's eos too.
    ends: how prompts are encoded, whose format may know more ids.
    """
    own = () if tokenizer.eos_id is None or (eos_ids and not trained) else (tokenizer.eos_id,)
    form = () if ends is None or ends.format is None else ends.format.stops(tokenizer)
    return TextIds(tuple(dict.fromkeys((*eos_ids, *own, *form))), tokenizer.pad_id)


def encode_prompt(tokenizer: Tokenizer, text: str, model: ModelConfig, ends: Ends) -> list[int]:
    """The ids that the model reads for a prompt. Raises `UserError` where no text is like it."""
    own, form = format_of(model), ends.format
    if form is None or not form.reads(tokenizer, text):
        return own.encode(tokenizer, text, ends)
    return own.opened(form.encode(tokenizer, text, ends))


def check_prompts(prompts: Sequence[Sequence[int]], max_tokens: int, model: ModelConfig) -> None:
    """Raises `UserError` for an empty prompt, or a text that passes the model's positions."""
    if any(not prompt for prompt in prompts):
        raise UserError(
            "prompt: has no tokens, and texts do not begin with a start token; give some text"
        )
    format_of(model).check(prompts, max_tokens, model)
