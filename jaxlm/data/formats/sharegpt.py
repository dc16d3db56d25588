"""{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}.

The other roles are system, observation (what a tool returned) and function_call, whose value is
JSON: {"name": ..., "arguments": {...}}. A row may have `system` and, as JSON, `tools`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxlm.chat.template import OWN
from jaxlm.core.config import UserError
from jaxlm.data.formats.alpaca import said
from jaxlm.data.formats.base import Record, Row, RowFormat, Sample, column, text_of
from jaxlm.data.formats.messages import (
    Message,
    as_json,
    call_of,
    checked,
    loss_keys,
    parsed,
    role_of,
    tools_of,
)
from jaxlm.data.formats.openai import COLUMNS

NAMES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


@dataclass(frozen=True, kw_only=True)
class ShareGPT(RowFormat):
    """`conversations` of `from` (human, gpt, ...) and `value`, maybe `system` and `tools`"""

    task = "chat"
    needs = ("|".join(("conversations", *(name for name in COLUMNS if name != "conversations"))),)
    keeps = ("tools",)
    takes = ("system", "tools")
    version = 2

    def wrong(self, names: Mapping[str, str], sample: Sample) -> list[str]:
        rows = [row[name] for name in names.values() for _, row in sample.rows if name in row]
        return [] if any(map(has_speakers, rows)) else ["messages with from and value"]

    def record(self, row: Row, sample: Sample) -> Record:
        messages = turns_of(column(row, *COLUMNS))
        if column(row, "system"):
            messages.insert(0, said("system", text_of(row, "system")))
        return {"messages": checked(messages), "tools": tools_of(row.get("tools"))}

    def row(self, record: Record) -> dict[str, Any]:
        row: dict[str, Any] = {"conversations": [_written(m) for m in record["messages"]]}
        tools = [tool["function"] for tool in record.get("tools") or []]
        return row | ({"tools": as_json(tools)} if tools else {})


def has_speakers(messages: Any) -> bool:
    """Whether a value looks like messages of from and value."""
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, Mapping) and "from" in first


def turns_of(values: Any) -> list[Message]:
    """Messages of from and value, not yet in a checked order. Raises `UserError`."""
    if not isinstance(values, list):
        raise UserError(f"conversations are a {type(values).__name__}, not a list; correct them")
    messages = []
    for number, value in enumerate(values, start=1):
        try:
            messages.append(turn_of(value))
        except UserError as error:
            raise UserError(f"message {number} {error}") from None
    return messages


def turn_of(value: Any) -> Message:
    """One message of from and value. Raises `UserError`."""
    if not isinstance(value, Mapping) or not isinstance(value.get("value"), str):
        raise UserError("has no text; write from and value")
    role = role_of(value.get("from"))
    if value["from"] != "function_call":
        return said(role, value["value"]) | loss_keys(value)
    calls = parsed(value["value"], "is a function_call that")
    made = [call_of(call) for call in (calls if isinstance(calls, list) else [calls])]
    return {"role": role, "content": "", "tool_calls": made, **loss_keys(value)}


def _written(message: Message) -> dict[str, Any]:
    extra = {key: value for key, value in message.items() if key in OWN}
    if lost := sorted(message.keys() - {"role", "content", "tool_calls", *OWN}):
        raise UserError(f"sharegpt has no place for {lost[0]} of a message; choose openai")
    if calls := message.get("tool_calls"):
        if any("id" in call for call in calls) or message["content"]:
            raise UserError("sharegpt has no place for ids or texts of tool calls; choose openai")
        functions = [call["function"] for call in calls]
        value = as_json(functions[0] if len(functions) == 1 else functions)
        return {"from": "function_call", "value": value, **extra}
    if not isinstance(message["content"], str):
        raise UserError("sharegpt has no place for parts of a message; choose openai")
    return {"from": NAMES[message["role"]], "value": message["content"], **extra}
