"""Messages of a chat, as every format of chats makes them, and the checks that they share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxlm.chat.template import OWN
from jaxlm.core.config import UserError
from jaxlm.core.errors import few, shown

Message = dict[str, Any]

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "ipython"), "tool"),
}
AFTER = {  # the roles that each may follow; "" is the beginning
    "system": ("",),
    "user": ("", "system", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


def role_of(name: Any) -> str:
    """The canonical role. Raises `UserError`."""
    if not isinstance(name, str) or name not in ROLES:
        raise UserError(f"has the role {shown(name)}; choose one of {few(ROLES, 20)}")
    return ROLES[name]


def checked(messages: Sequence[Message]) -> list[Message]:
    """The messages, where each may follow the one before it and no answer is empty. Raises
    `UserError`.
    """
    if not messages:
        raise UserError("has no messages; remove the row")
    before = ""
    for number, message in enumerate(messages, start=1):
        role = message["role"]
        if before not in AFTER[role]:
            place = f"after {before!r}" if before else "at the beginning"
            fix = (
                "user is first, or follows system; user and assistant must take turns, and tool "
                "follows assistant"
            )
            raise UserError(
                f"message {number} has the role {role!r} {place}, which is out of order; {fix}"
            )
        if role == "assistant" and not message.get("tool_calls") and is_empty(message["content"]):
            raise UserError(
                f"message {number}, an answer of the assistant, is empty; fill it in or remove it"
            )
        before = role
    return list(messages)


def is_empty(content: Any) -> bool:
    parts = [content] if isinstance(content, str) else [part["text"] for part in content]
    return not "".join(parts).strip()


def loss_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a message or part about its loss: `weight`, a number >= 0, and `train`, whether
    it is trained ("training" is read as "train"). Raises `UserError`.
    """
    found: dict[str, Any] = {}
    weight = values.get("weight")
    if weight is not None:
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise UserError(f"weight is {shown(weight)}; use true, false or a number >= 0")
        found["weight"] = int(weight) if isinstance(weight, bool) else weight
    key = "train" if values.get("train") is not None else "training"
    train = values.get(key)
    if train is not None:
        if not isinstance(train, int | float) or train not in (0, 1):
            raise UserError(f"{key} is {shown(train)}; use true or false, or weight for a number")
        found["train"] = bool(train)
    return found


def content_of(value: Any) -> str | list[dict[str, Any]]:
    """A message's content: a text, or parts that have weights. Raises `UserError`."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        raise UserError(f"has a content that is a {type(value).__name__}, not text; correct it")
    parts = [_part(part) for part in value]
    if all({*OWN}.isdisjoint(part) for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        raise UserError(f"has a part that is a {type(part).__name__}, not text; correct it")
    if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
        raise UserError(f"has a part of type {shown(part.get('type'))}; only texts can be read")
    return {"type": "text", "text": part["text"], **loss_keys(part)}


def call_of(call: Any) -> dict[str, Any]:
    """{"name", "arguments"} as a tool call. Raises `UserError`."""
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        raise UserError("has a tool call without a name; write name and arguments")
    arguments = parsed(call.get("arguments", {}), "the arguments of a tool call")
    return {"type": "function", "function": {"name": call["name"], "arguments": arguments}}


def tools_of(value: Any) -> list[Any] | None:
    """The column of tools, a list or its JSON. Raises `UserError`."""
    if value is None or value == "":
        return None
    tools = parsed(value, "column 'tools'")
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise UserError("column 'tools' is not a list of functions; correct it")
    return [
        tool if "function" in tool else {"type": "function", "function": {**tool}} for tool in tools
    ] or None


def parsed(value: Any, what: str) -> Any:
    """A value that may be written as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise UserError(f"{what} is not JSON: {shown(value)}; correct it") from None


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def plain(messages: Sequence[Message], name: str) -> list[Message]:
    """The messages, for a format that has texts alone. Raises `UserError` where more is in them."""
    for message in messages:
        if message.keys() - {"role", "content"} or not isinstance(message["content"], str):
            extra = [*message.keys() - {"role", "content"}] or ["parts"]
            raise UserError(f"{name} has no place for {few(extra)} of a message; choose openai")
    return list(messages)
