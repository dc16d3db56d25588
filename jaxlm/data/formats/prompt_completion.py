"""{"prompt": "The sky is", "completion": " blue."}: texts, or lists of messages.

Columns that are named otherwise, as question and answer, are read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.data.formats.base import Record, Row, RowFormat, Sample, column, text_of
from jaxlm.data.formats.messages import checked
from jaxlm.data.formats.openai import messages_of

PROMPT = ("prompt", "question", "input")
COMPLETION = ("completion", "response", "answer", "output")


@dataclass(frozen=True, kw_only=True)
class PromptCompletion(RowFormat):
    """`prompt` and `completion`: texts, or lists of messages"""

    task = "prompt_completion"
    version = 2
    needs = ("|".join(PROMPT), "|".join(COMPLETION))
    answers = ("|".join(COMPLETION),)

    def wrong(self, names: Mapping[str, str], sample: Sample) -> list[str]:
        for name in names.values():
            values = [row[name] for _, row in sample.rows if row.get(name) is not None]
            if not all(isinstance(value, str | list) for value in values):
                return [f"{name} as text or messages"]
        return []

    def record(self, row: Row, sample: Sample) -> Record:
        prompt = prompt_of(row, *PROMPT)
        if not sample.answered:
            return {"prompt": prompt}
        return {"prompt": prompt, "completion": continuation(row, prompt, *COMPLETION)}

    def row(self, record: Record) -> dict[str, Any]:
        return {"prompt": record["prompt"], "completion": record["completion"]}


def prompt_of(row: Row, *names: str) -> Any:
    """A prompt: a text, or messages in order. Raises `UserError`."""
    value = column(row, *names)
    if isinstance(value, list):
        return checked(messages_of(value))
    return text_of(row, *names)


def continuation(row: Row, prompt: Any, *names: str) -> Any:
    """The continuation of a prompt: a text, or messages that may follow it. Raises `UserError`."""
    value = column(row, *names)
    if isinstance(prompt, str):
        return text_of(row, *names)
    name = next((name for name in names if row.get(name) is not None), names[0])
    if isinstance(value, str):
        if not value.strip():
            raise UserError(f"column {name!r} is empty; fill it in or remove the row")
        value = [{"role": "assistant", "content": value}]
    try:
        messages = messages_of(value)
        if not messages:
            raise UserError("is empty; fill it in or remove the row")
        checked([*prompt, *messages])
    except UserError as error:
        raise UserError(f"column {name!r} after the prompt: {error}") from None
    return messages
