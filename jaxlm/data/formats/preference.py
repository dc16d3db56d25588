"""{"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"}: texts, or lists of messages.

Without a prompt it is what both begin with, as in TRL: their common messages, or of texts their
common beginning without the space at its end. LLaMA-Factory's `instruction` and `input`, and its
`conversations` with a `chosen` and a `rejected` message, are prompts too, and Argilla's
`chosen_response` and `rejected_response` are sides.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.data.formats.alpaca import before, question_of, said
from jaxlm.data.formats.base import Record, Row, RowFormat, Sample, column, text_of
from jaxlm.data.formats.messages import Message, checked, is_empty
from jaxlm.data.formats.openai import has_roles, messages_of
from jaxlm.data.formats.sharegpt import turn_of, turns_of

CHOSEN = ("chosen", "chosen_response")
REJECTED = ("rejected", "rejected_response")
PROMPT = ("prompt", "question")
TURNS = ("conversations", "messages")


@dataclass(frozen=True, kw_only=True)
class Preference(RowFormat):
    """`chosen` and `rejected` (or `..._response`), with `prompt`, `instruction`, turns or none"""

    task = "preference"
    version = 2
    needs = ("|".join(CHOSEN), "|".join(REJECTED))
    takes = ("prompt", "question", "conversations", "messages", "instruction", "input", "system")

    def record(self, row: Row, sample: Sample) -> Record:
        sides = [_side(row, *CHOSEN), _side(row, *REJECTED)]
        if isinstance(sides[0], str) != isinstance(sides[1], str):
            raise UserError("chosen and rejected are a text and a list of messages; make both one")
        if sides[0] == sides[1]:
            raise UserError(
                "chosen and rejected are equal, so nothing is preferred; remove the row"
            )
        prompt, sides = _prompt_of(row, sides)
        for name, side in zip(("chosen", "rejected"), sides, strict=True):
            if not side or (isinstance(side, str) and not side.strip()):
                raise UserError(f"column {name!r} is empty after the prompt; fill it in")
            if not isinstance(side, str):
                _check_side(name, prompt, side)
        return {"prompt": prompt, "chosen": sides[0], "rejected": sides[1]}

    def row(self, record: Record) -> dict[str, Any]:
        return {name: record[name] for name in ("prompt", "chosen", "rejected")}


def _side(row: Row, *names: str) -> Any:
    """A text, or messages: of a list, or of one message by itself."""
    value = column(row, *names)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        return text_of(row, *names)
    try:
        return messages_of(value) if has_roles(value) else [turn_of(one) for one in value]
    except UserError as error:
        raise UserError(f"column {names[0]!r}: {error}") from None


def _prompt_of(row: Row, sides: list[Any]) -> tuple[Any, list[Any]]:
    """The prompt, and what follows it on each side."""
    are_texts = isinstance(sides[0], str)
    turns = column(row, *TURNS)
    if isinstance(turns, list):
        said_before = messages_of(turns) if has_roles(turns) else turns_of(turns)
        if column(row, "system"):
            said_before.insert(0, said("system", text_of(row, "system")))
        prompt: Any = checked(said_before)
    elif isinstance(column(row, *PROMPT), list):
        prompt = checked(messages_of(column(row, *PROMPT)))
    elif not are_texts and len(sides[0]) > 1:
        return _common(sides)  # the messages of a prompt are in both, beside its text
    elif column(row, *PROMPT) is not None:
        prompt = text_of(row, *PROMPT)
        if column(row, "system"):
            prompt = [said("system", text_of(row, "system")), said("user", prompt)]
    elif column(row, "instruction") is not None:
        earlier = before(row)
        question = question_of(row)
        prompt = [*earlier, said("user", question)] if earlier else question
    else:
        return _common(sides)
    if isinstance(prompt, str) and not are_texts:
        prompt = [said("user", prompt)]
    if not isinstance(prompt, str) and are_texts:
        sides = [[said("assistant", side)] for side in sides]
    return prompt, sides


def _common(sides: list[Any]) -> tuple[Any, list[Any]]:
    """The common beginning of both sides, and the rest of each."""
    chosen, rejected = sides
    if isinstance(chosen, str):
        prompt: Any = os.path.commonprefix([chosen, rejected])
        prompt = prompt.removesuffix(" ")
        if not prompt.strip():
            raise UserError("chosen and rejected begin differently, and there is no prompt; add it")
    else:
        number = 0
        while number < min(map(len, sides)) and chosen[number] == rejected[number]:
            number += 1
        prompt = chosen[:number]
        if not prompt:
            raise UserError("chosen and rejected begin differently, and there is no prompt; add it")
        checked(prompt)
    return prompt, [side[len(prompt) :] for side in sides]


def _check_side(name: str, prompt: list[Message], side: list[Message]) -> None:
    try:
        checked([*prompt, *side])
    except UserError as error:
        raise UserError(f"column {name!r} after the prompt: {error}") from None
    if side[-1]["role"] != "assistant":
        raise UserError(f"column {name!r} does not end with an answer of the assistant; add it")
    if all(is_empty(m["content"]) and not m.get("tool_calls") for m in side):
        raise UserError(f"column {name!r} is empty; fill it in or remove the row")
