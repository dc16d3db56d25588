"""Conversations, of which the answers are learnt.

    data:
      type: records
      source: {type: jsonl, files: chats.jsonl}       # {"messages": [{"role", "content"}, ...]}
      task: {type: chat, template: chatml}            # null: the tokenizer's own template
      packing: whole

A message's content is a text or a list of parts of text. What is trained are the messages of
`roles`, all or the last one of a conversation; `weight` and `train` of a message or of a part say
otherwise (`jaxlm.chat.rendering`). Conversations that begin with equal questions are in one split.

The tools that a model may call are in a column of the records, or the same for all of them:

    task:
      type: chat
      functions:
        - type: function
          function: {name: weather, description: "...", parameters: {type: object, ...}}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxlm.chat.rendering import Rendering, Turns
from jaxlm.core.config import UserError, field
from jaxlm.core.errors import shown
from jaxlm.tasks.base import Record
from jaxlm.tasks.conversations import (
    Conversations,
    Message,
    as_prompt,
    check_functions,
    conversation_of,
    name_of,
    renderer_of,
    text_of,
)

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Chat(Conversations):
    """Conversations: answers are learnt."""

    identified_by: ClassVar[str] = "messages before the first answer"

    messages: str = field("messages", "the column of the messages")
    tools: str | None = field(None, "the column of the tools' JSON schemas; null: no tools")
    functions: tuple[dict[str, Any], ...] = field(
        (), "JSON schemas of the tools that are offered where a record has none of its own"
    )
    roles: tuple[str, ...] = field(("assistant",), "the roles whose messages are trained")
    turns: Turns = field("all", "all: each message of these roles is trained; last: the last one")
    system: str | None = field(
        None, "a system message for conversations that begin without one; null: none"
    )

    def validate(self) -> None:
        super().validate()
        if not self.roles:
            raise UserError("roles is empty, so nothing is trained; name some, such as assistant")
        check_functions(self.functions)

    def fingerprint(self, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
        """Without `functions` where it is empty: the records are then those of versions without
        it.
        """
        options = super().fingerprint(tokenizer)
        return {name: value for name, value in options.items() if name != "functions" or value}

    def equipped(self, tokenizer: Tokenizer) -> Tokenizer:
        """Raises `UserError` for a template that leaves `functions` out."""
        found = super().equipped(tokenizer)
        if self.functions and getattr(found, "chat_template", None) is not None:
            renderer = renderer_of(found)
            text = renderer.prompt([{"role": "user", "content": "a"}], self.functions).text
            if missing := [n for n in map(name_of, self.functions) if n not in text]:
                raise UserError(
                    f"data.task.functions: chat template {renderer.template.origin} does not write "
                    f"{shown(missing[0])}; choose a template with tools, such as qwen"
                )
        return found

    # ------------------------------------------------------------------------- at preparation

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.messages,) if self.tools is None else (self.messages, self.tools)

    def expand(self, record: Record) -> list[Record]:
        messages = self._messages(record)
        return [{**self._tools(record), self.messages: messages}]

    def _messages(self, record: Record) -> list[Message]:
        value = record[self.messages]
        messages = conversation_of(_parsed(value), self.messages)
        if self.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        return messages

    def _tools(self, record: Record) -> Record:
        if self.tools is None:
            return {}
        tools = _parsed(record[self.tools])
        if tools is not None and not isinstance(tools, list):
            raise UserError(f"column {shown(self.tools)} holds no list of tools; give JSON schemas")
        return {self.tools: tools}

    def _offered(self, record: Record) -> Sequence[Any] | None:
        """The tools of a record, or else those of the config; None: neither has one."""
        own = self._tools(record).get(self.tools) if self.tools is not None else None
        return own if own is not None else self.functions or None

    def identity(self, record: Record) -> str:
        """The messages before the first answer."""
        messages = self._messages(record)
        roles = [message["role"] for message in messages]
        asked = roles.index("assistant") if "assistant" in roles else len(roles)
        return as_prompt(messages[:asked] or messages)

    def texts(self, record: Record) -> Iterable[str]:
        return [text_of(message) for message in self._messages(record)]

    # ----------------------------------------------------------------------------------- rows

    @property
    def prompt_options(self) -> Mapping[str, Any]:
        return {"system": self.system, "functions": self.functions}

    def rendering(self, record: Record, tokenizer: Tokenizer) -> Rendering:
        return renderer_of(tokenizer).render(
            record[self.messages],
            self._offered(record),
            roles=self.roles,
            turns=self.turns,
        )

    def _untrained(self, record: Record) -> str:
        roles = sorted({message["role"] for message in record[self.messages]})
        return (
            f"its roles are {', '.join(roles)}, and task.roles {', '.join(self.roles)}: give a "
            "message of these some content and a weight above 0"
        )

    # ---------------------------------------------------------------------- predicted, measured

    @property
    def asked(self) -> tuple[str, ...]:
        return self.columns

    def unanswered(self, record: Record) -> Record:
        return {**self._tools(record), self.messages: self._messages(record)}

    def prompt(self, record: Record) -> str:
        """The messages before the last answer, and the tools, as JSON."""
        return as_prompt(self._asked(record), self._offered(record))

    def _asked(self, record: Record) -> list[Message]:
        messages = self._messages(record)
        return messages[:-1] if messages[-1]["role"] == "assistant" else messages

    def reference(self, record: Record) -> str:
        last = self._messages(record)[-1]
        return text_of(last) if last["role"] == "assistant" else ""


def _parsed(value: Any) -> Any:
    """A value as it is, or of its JSON text, as in a column of a table."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
