"""A conversation as one text, in which each character has its message and its weight in the loss.

    rendering = Renderer(template, tokenizer).render(messages, roles=("assistant",))
    rendering.text            # "User: Hi\nAssistant: Hello</s>\n"
    rendering.weights         # [characters] float32: 1 at " Hello</s>"

What is trained of a message follows from the same rendering, in this order:

    the template's own {% generation %} tags, for the assistant
    prefixes: it is what the text of messages[: k + 1] has more than that of messages[:k] with
        add_generation_prompt, where both are beginnings of the whole text
    contents: else from the content of the message, or the header before it, to the special token
        that ends it

The end of a turn is trained with it, as far as its last special token ("<|im_end|>"), without
white space after it. A message has the weight `weight` (1 by default); `train: true` trains a
message of another role and `train: false` nothing of a message; parts of a content may have both
as well.
"""  # fmt: skip

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from jaxlm.chat.contents import Leaf, find, leaves_of
from jaxlm.chat.template import OWN, ChatTemplate, Message, Span, variables_of
from jaxlm.core.errors import UserError

Turns = Literal["all", "last"]


@dataclass(frozen=True)
class Rendering:
    """messages, contents, weights [characters]: the message that each is of (-1: none), whether
    the message's author wrote it, and its weight in the loss.
    """

    text: str
    roles: tuple[str, ...]
    messages: np.ndarray
    contents: np.ndarray
    weights: np.ndarray
    written: list[Span] = field(default_factory=list)  # the contents, in order

    def author(self, start: int, end: int) -> str:
        """The role whose message has one of these characters; "template": they are its own."""
        own = np.flatnonzero(self.contents[start:end])
        return self.roles[self.messages[start + own[0]]] if len(own) else "template"


class Renderer:
    """A template with the special tokens of a tokenizer."""

    def __init__(self, template: ChatTemplate, tokenizer: Any) -> None:
        self.template = template
        self.variables = variables_of(tokenizer)
        names = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names)) or "(?!)")

    def prompt(self, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> Rendering:
        """The text that a model answers to; no character has a weight."""
        given = _without_own(messages)
        text = self._text(given, tools, True)
        leaves = leaves_of(given)
        places = find(text, given, leaves, lambda m: self._try(m, tools, True))
        return _filled(text, given, leaves, places, [])

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        *,
        roles: Sequence[str] = ("assistant",),
        turns: Turns = "all",
    ) -> Rendering:
        """Raises `UserError` where the template refuses the messages, and where the place of what
        is trained cannot be told.
        """
        weights = weights_of(messages, roles, turns)
        given = _without_own(messages)
        flat = self._flat(given)
        text, spans = self.template.rendered(flat, tools=tools, variables=self.variables)
        leaves = leaves_of(given)
        places = find(text, given, leaves, lambda m: self._try(m, tools))
        answers: list[tuple[Span, int, float]] = []
        owners = _owners(spans, leaves, places)
        for number, weight in enumerate(weights):
            parts = part_weights(messages[number])
            if weight is None or (weight <= 0 and not any(parts.values())):
                continue
            self._check_calls(text, given[number], number)
            own = [span for span, owner in zip(spans, owners, strict=True) if owner == number]
            if given[number]["role"] != "assistant" or not own:
                own = [self._answer(text, given, number, tools, leaves, places)]
            answers += [(span, number, weight) for span in own]
            answers += _of_parts(number, parts, leaves, places)
        return _filled(text, given, leaves, places, answers)

    # ------------------------------------------------------------------------------------- texts

    def _flat(self, given: Sequence[Message]) -> list[Message]:
        """The messages with contents as the template takes them: lists of parts, or texts."""
        flat = []
        for message in given:
            parts = message.get("content")
            if isinstance(parts, list | tuple) and not self.template.takes_parts:
                message = {**message, "content": "".join(part["text"] for part in parts)}
            flat.append(message)
        return flat

    def _text(
        self, given: Sequence[Message], tools: Sequence[Any] | None, asks: bool = False
    ) -> str:
        return self.template.text(
            self._flat(given), tools=tools, variables=self.variables, add_generation_prompt=asks
        )

    def _try(
        self, given: Sequence[Message], tools: Sequence[Any] | None, asks: bool = False
    ) -> str | None:
        try:
            return self._text(given, tools, asks)
        except UserError:
            return None

    def _check_calls(self, text: str, message: Message, number: int) -> None:
        """Raises `UserError` where a template leaves the calls of tools out."""
        for call in message.get("tool_calls") or ():
            name = (call.get("function") or call).get("name", "")
            if name not in text:
                raise UserError(
                    f"chat template {self.template.origin}: does not write the call of {name!r} in "
                    f"message {number}; choose a template with tools, such as qwen"
                )

    # ----------------------------------------------------------------------------------- answers

    def _answer(
        self,
        text: str,
        given: Sequence[Message],
        number: int,
        tools: Sequence[Any] | None,
        leaves: Sequence[Leaf],
        places: Sequence[Span | None],
    ) -> Span:
        """The characters of message `number` that are trained, without tags of the template."""
        known = [
            (leaf.message, place)
            for leaf, place in zip(leaves, places, strict=True)
            if place is not None
        ]
        own = [place for message, place in known if message == number]
        after_content = max((end for _, end in own), default=None)
        if given[number]["role"] == "assistant":
            begin = self._try(given[:number], tools, True)
            last = number + 1 == len(given)
            end = text if last else self._try(given[: number + 1], tools)
            if begin and end and end.startswith(begin) and text.startswith(end):
                start = len(begin)
                return start, self._turn_end(text, after_content or start, len(end), last=True)
        if after_content is None:
            raise UserError(
                f"chat template {self.template.origin}: cannot tell which text is that of message "
                f"{number} ({given[number]['role']}); mark what is trained in the template by "
                "{% generation %}, or choose another template"
            )
        start = min(begin for begin, _ in own)
        before = max((end for message, (_, end) in known if message < number), default=0)
        header = self._header(tools) if given[number]["role"] == "assistant" else ""
        found = text.rfind(header, before, start + len(header)) if header else -1
        after = min((begin for m, (begin, _) in known if m > number), default=len(text))
        start = found + len(header) if found >= 0 else start
        return start, self._turn_end(text, after_content, after, last=False)

    def _header(self, tools: Sequence[Any] | None) -> str:
        """The text that add_generation_prompt adds, "<|im_start|>assistant\\n"; "": nothing."""
        probe = [{"role": "user", "content": "probe"}]
        plain, asked = self._try(probe, tools), self._try(probe, tools, True)
        return asked[len(plain) :] if plain and asked and asked.startswith(plain) else ""

    def _turn_end(self, text: str, start: int, stop: int, *, last: bool) -> int:
        """The end of a turn whose content ends at `start`: after a special token before `stop`,
        the last or the first one; else where white space begins.
        """
        ends = [match.end() for match in self._special.finditer(text, start, stop)]
        if ends:
            return ends[-1 if last else 0]
        return start + len(text[start:stop].rstrip()) if last else start


def _without_own(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages without the keys that are ours."""
    given = []
    for message in messages:
        own = {key: value for key, value in message.items() if key not in OWN}
        if isinstance(own.get("content"), list | tuple):
            parts = own["content"]
            own["content"] = [{k: v for k, v in p.items() if k not in OWN} for p in parts]
        given.append(own)
    return given


# ------------------------------------------------------------------------------------------ weights


def weights_of(
    messages: Sequence[Message], roles: Sequence[str], turns: Turns
) -> list[float | None]:
    """The weight of each message, which its parts may replace by their own; None: nothing of it is
    trained, because of `train: false`, or of turns "last" for all but the last trained one.
    """
    weights = [
        None if _silenced(message) else _weight(message, message["role"] in roles)
        for message in messages
    ]
    trained = [
        number
        for number, weight in enumerate(weights)
        if weight is not None and (weight > 0 or any(part_weights(messages[number]).values()))
    ]
    if turns == "last" and trained:
        weights = [w if number == trained[-1] else None for number, w in enumerate(weights)]
    return weights


def _silenced(message: Message) -> bool:
    train = message.get("train")
    return train is not None and not train


def part_weights(message: Message) -> dict[int, float]:
    """{number of a part: its own weight}, of the parts of a content that have one."""
    content = message.get("content")
    parts = enumerate(content) if isinstance(content, list | tuple) else ()
    return {i: _weight(part, True) for i, part in parts if not {*OWN}.isdisjoint(part)}


def _weight(own: Mapping[str, Any], trained: bool) -> float:
    train, weight = own.get("train"), own.get("weight")
    trained = trained if train is None else bool(train)
    return float(1 if weight is None else weight) if trained else 0.0


def _of_parts(
    number: int,
    parts: Mapping[int, float],
    leaves: Sequence[Leaf],
    places: Sequence[Span | None],
) -> list[tuple[Span, int, float]]:
    """The characters of parts that have a weight of their own."""
    found = {
        leaf.part: place
        for leaf, place in zip(leaves, places, strict=True)
        if leaf.message == number and leaf.part is not None and place is not None
    }
    return [(found[part], number, weight) for part, weight in parts.items() if part in found]


def _owners(
    spans: Sequence[Span], leaves: Sequence[Leaf], places: Sequence[Span | None]
) -> list[int]:
    """The message of each span of `{% generation %}`: whose content began last before its end."""
    known = [
        (place[0], leaf.message)
        for leaf, place in zip(leaves, places, strict=True)
        if place is not None
    ]
    return [max((own for own in known if own[0] < end), default=(0, -1))[1] for _, end in spans]


def _filled(
    text: str,
    given: Sequence[Message],
    leaves: Sequence[Leaf],
    places: Sequence[Span | None],
    answers: Sequence[tuple[Span, int, float]],
) -> Rendering:
    """The arrays of a rendering; later answers replace what earlier ones say of a character."""
    size = len(text)
    messages = np.full(size, -1, np.int32)
    contents = np.zeros(size, bool)
    weights = np.zeros(size, np.float32)
    written: list[Span] = []
    for (start, end), number, weight in answers:
        messages[start:end], weights[start:end] = number, weight
    for leaf, place in zip(leaves, places, strict=True):
        if place is not None:
            messages[slice(*place)], contents[slice(*place)] = leaf.message, True
            written.append(place)
    roles = tuple(str(message["role"]) for message in given)
    return Rendering(text, roles, messages, contents, weights, sorted(written))
