"""A prompt is a conversation, and what is written is the assistant's answer.

    prompt      "What is 2 + 2?", which is a user's message; or as JSON a list of messages, or
                {"messages": [...], "tools": [...]}
    read        <|im_start|>user\\nWhat is 2 + 2?<|im_end|>\\n<|im_start|>assistant\\n
    new text                                                                       4<|im_end|>

The tokenizer's chat template writes what is read, with add_generation_prompt. New text ends with
the token that ends an assistant's turn in the template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxlm.chat.tokens import tokenise
from jaxlm.core.config import field
from jaxlm.core.errors import UserError
from jaxlm.data.prompt_formats.base import Ends
from jaxlm.data.prompt_formats.continuation import Continuation
from jaxlm.data.reading.text import check_characters
from jaxlm.tasks.conversations import conversation_of, renderer_of

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Chat(Continuation):
    """The prompt is a user's message, or messages as JSON, and new text is the answer."""

    system: str | None = field(
        None, "a system message for prompts that have none; null: none", affects="host"
    )

    functions: tuple[dict[str, Any], ...] = field(
        (), "JSON schemas of the tools that are offered in prompts that have none", affects="host"
    )
    texts: bool = field(
        True,
        "whether a prompt that is a text is a user's message; false: it is continued",
        affects="host",
    )

    def reads(self, tokenizer: Tokenizer, text: str) -> bool:
        return self.texts or (_has_template(tokenizer) and conversation_in(text) is not None)

    def encode(self, tokenizer: Tokenizer, text: str, ends: Ends) -> list[int]:
        check_characters(text, "prompt")
        messages, tools = conversation_in(text) or ([{"role": "user", "content": text}], None)
        if self.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        offered = self.functions if tools is None else tools
        rendering = renderer_of(tokenizer).prompt(messages, offered or None)
        return tokenise(tokenizer, rendering.text, rendering.written)[0]

    def stops(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        if not self.texts and not _has_template(tokenizer):
            return ()
        renderer = renderer_of(tokenizer)
        talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            rendering = renderer.render(talk)
        except UserError:
            return ()
        ids, spans = tokenise(tokenizer, rendering.text, rendering.written)
        special = {*tokenizer.special_tokens.values()}
        answered = max((end for _, end in rendering.written), default=0)
        after = zip(ids, spans, strict=True)
        found = [
            i
            for i, (start, _) in after
            if start >= answered and i in special and rendering.weights[start] > 0
        ]
        return tuple(found[:1])


def conversation_in(text: str) -> tuple[list[dict[str, Any]], list[Any] | None] | None:
    """(messages, tools) of a prompt that is JSON; None: it is a text. Raises `UserError`."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    tools = None
    if isinstance(value, Mapping) and {"messages"} <= value.keys() <= {"messages", "tools"}:
        value, tools = value["messages"], value.get("tools")
    listed = isinstance(value, list) and all(isinstance(m, Mapping) and "role" in m for m in value)
    if not listed or not value or not isinstance(tools, list | None):
        return None
    return conversation_of(value, "prompt"), tools


def _has_template(tokenizer: Tokenizer) -> bool:
    return getattr(tokenizer, "chat_template", None) is not None
