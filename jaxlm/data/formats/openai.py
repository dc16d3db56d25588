"""{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}.

A message's content is a text or a list of parts {"type": "text", "text", "train"}. A message may
have `weight` and `train` for its loss, and an assistant's `tool_calls`; a row may have `tools`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxlm.chat.template import REASONING
from jaxlm.core.config import UserError
from jaxlm.data.formats.base import Record, Row, RowFormat, Sample, column
from jaxlm.data.formats.messages import (
    Message,
    as_json,
    call_of,
    checked,
    content_of,
    loss_keys,
    role_of,
    tools_of,
)

COLUMNS = ("messages", "conversations", "conversation", "dialog")
KEPT = ("name", "tool_call_id", *REASONING)  # of a message, as they are


@dataclass(frozen=True, kw_only=True)
class OpenAI(RowFormat):
    """`messages` of `role` and `content` (text, or parts), maybe `tools`"""

    task = "chat"
    needs = ("|".join(COLUMNS),)
    keeps = ("tools",)
    takes = ("tools",)
    version = 2

    def wrong(self, names: Mapping[str, str], sample: Sample) -> list[str]:
        rows = [row[name] for name in names.values() for _, row in sample.rows if name in row]
        return [] if any(map(has_roles, rows)) else ["messages with role and content"]

    def record(self, row: Row, sample: Sample) -> Record:
        messages = checked(messages_of(column(row, *COLUMNS)))
        return {"messages": messages, "tools": tools_of(row.get("tools"))}

    def row(self, record: Record) -> dict[str, Any]:
        row: dict[str, Any] = {"messages": [_written(m) for m in record["messages"]]}
        return row | ({"tools": record["tools"]} if record.get("tools") else {})


def has_roles(messages: Any) -> bool:
    """Whether a value looks like messages of role and content."""
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, Mapping) and "role" in first


def messages_of(values: Any) -> list[Message]:
    """Messages of role and content, not yet in a checked order. Raises `UserError`."""
    if not isinstance(values, list):
        raise UserError(f"messages are a {type(values).__name__}, not a list; correct them")
    messages = []
    for number, value in enumerate(values, start=1):
        try:
            messages.append(_message(value))
        except UserError as error:
            raise UserError(f"message {number} {error}") from None
    return messages


def _message(value: Any) -> Message:
    if not isinstance(value, Mapping) or "role" not in value:
        raise UserError("has no role; write role and content")
    message: Message = {
        "role": role_of(value["role"]),
        "content": content_of(value.get("content")),
        **loss_keys(value),
        **{key: value[key] for key in KEPT if value.get(key) is not None},
    }
    calls = value.get("tool_calls") or []
    if value.get("function_call"):  # of the first version of OpenAI's tools
        calls = [{"function": value["function_call"]}]
    if not isinstance(calls, list):
        raise UserError("has tool_calls that are not a list; correct them")
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    return message


def _call(call: Any) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise UserError("has a tool call without a name; write name and arguments")
    known = {"id": call["id"]} if call.get("id") is not None else {}
    return {**known, **call_of(call.get("function", call))}


def _written(message: Message) -> Message:
    """A message as OpenAI has it: a call's arguments are text."""
    out = dict(message)
    if "tool_calls" in out:
        out["tool_calls"] = [
            {**c, "function": {**c["function"], "arguments": as_json(c["function"]["arguments"])}}
            for c in out["tool_calls"]
        ]
    return out
