"""Records of one task's columns as those of another, where nothing is lost or guessed."""

from __future__ import annotations

from collections.abc import Callable

from jaxlm.core.config import UserError
from jaxlm.data.formats.base import Record
from jaxlm.data.formats.messages import Message

Bridge = Callable[[Record], list[Record]]


def last_turn(record: Record) -> list[Record]:
    """A chat as its last answer and the messages before it."""
    *prompt, last = record["messages"]
    if not prompt or last["role"] != "assistant":
        raise UserError("the chat does not end with an answer; add one or remove the row")
    return [{"prompt": prompt, "completion": [last]}]


def one_turn(record: Record) -> list[Record]:
    """A prompt and its completion as a chat."""
    said = [("user", record["prompt"]), ("assistant", record["completion"])]
    messages: list[Message] = []
    for role, text in said:
        messages += [{"role": role, "content": text}] if isinstance(text, str) else text
    return [{"messages": messages}]


def two_labels(record: Record) -> list[Record]:
    """A pair as a desirable and an undesirable completion."""
    sides = [("chosen", True), ("rejected", False)]
    return [
        {"prompt": record["prompt"], "completion": record[side], "label": label}
        for side, label in sides
    ]


BRIDGES: dict[tuple[str, str], Bridge] = {
    ("chat", "prompt_completion"): last_turn,
    ("prompt_completion", "chat"): one_turn,
    ("preference", "kto"): two_labels,
}
