"""Shared code of conversation tasks: a chat template, tokens with loss weights, cutting of rows.

A record is rendered as one text by the template, and its tokens get the weights of their characters
(`jaxlm.chat`). A row holds seq_len + 1 tokens. A longer conversation loses its end; one whose first
trained token would be cut off is left out and counted. A conversation in which nothing is trained
is an error.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxlm.chat.fitting import fitting
from jaxlm.chat.rendering import Renderer, Rendering
from jaxlm.chat.template import OWN, ChatTemplate, from_file, named, names
from jaxlm.chat.tokens import token_weights, tokenise
from jaxlm.core.config import UserError, field
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry, RowSpec, text_rows
from jaxlm.tasks.base import NO_LIMIT, Arrays, Asked, Extent, Record, Records
from jaxlm.tasks.written import WrittenTask

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer

AUTO = "auto"
ROLES = ("system", "user", "assistant", "tool")
Message = dict[str, Any]
CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Chinese characters and kana
WORD = re.compile(rf"[{CJK}]|[^\s{CJK}]+")


@dataclass(frozen=True, kw_only=True)
class Conversations(WrittenTask, abstract=True):
    """Records that a chat template makes one text of."""

    baseline_title: ClassVar[str] = "most frequent answer"

    template: str | None = field(
        None,
        "the chat template, one of jaxlm's by name; null: the tokenizer's own; auto: its own, else "
        "the one whose special tokens it has, else plain",
    )
    template_file: str | None = field(None, "a file with a jinja chat template", path=True)

    def validate(self) -> None:
        if self.template is not None and self.template_file is not None:
            raise UserError("template and template_file are both set; choose one")
        if self.template not in (None, AUTO):
            named(self.template)

    # -------------------------------------------------------------------------------- template

    def fingerprint(self, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
        """With the text of the template's file, which may be in another folder, not its path."""
        options = super().fingerprint(tokenizer)
        if self.template_file is None:
            return options
        own: ChatTemplate | None = getattr(tokenizer, "chat_template", None)
        text = None if own is None else [own.source, own.for_tools]
        return {**options, "template_file": text}

    def equipped(self, tokenizer: Tokenizer) -> Tokenizer:
        """The tokenizer with the template that the config names. One that it was equipped with
        before stays, so that a run does not depend on a file outside of it.
        """
        own: ChatTemplate | None = getattr(tokenizer, "chat_template", None)
        wanted = self.template
        if self.template_file is not None:
            wanted = str(Path(self.template_file).expanduser().absolute())
        if wanted is None or (own is not None and wanted in (own.origin, AUTO)):
            return tokenizer
        wanted = fitting(tokenizer) if wanted == AUTO else wanted
        path = self.template_file
        template = named(wanted) if path is None else from_file(Path(path).expanduser())
        return tokenizer.with_chat_template(template)  # type: ignore[attr-defined]

    def chosen(self, tokenizer: Tokenizer) -> str:
        template: ChatTemplate | None = getattr(tokenizer, "chat_template", None)
        return "" if template is None else f"chat template: {template.origin}"

    @property
    def prompt_format(self) -> str | None:
        return "chat"

    # ------------------------------------------------------------------------------------- rows

    def rendering(self, record: Record, tokenizer: Tokenizer) -> Rendering:
        """The text of a record with the weights of its characters."""
        raise NotImplementedError

    def row_spec(self, seq_len: int, pad_id: int = 0) -> RowSpec:
        weights = {"loss_weights": Entry(("T",), np.float32)}
        return RowSpec({**text_rows(seq_len + 1, pad_id), **weights}, T=seq_len + 1)

    def encode(
        self,
        record: Record,
        tokenizer: Tokenizer,
        room: int,
        rng: np.random.RandomState | None = None,
    ) -> Arrays:
        rendering = self.rendering(record, tokenizer)
        ids, spans = tokenise(tokenizer, rendering.text, rendering.written)
        weights = token_weights(rendering.weights, spans)
        return {"tokens": np.array(ids[:room], np.int32), "loss_weights": weights[:room]}

    def extent(self, record: Record, tokenizer: Tokenizer) -> Extent:
        encoded = self.encode(record, tokenizer, NO_LIMIT)
        trained = np.flatnonzero(encoded["loss_weights"])
        trained = trained[trained > 0]  # nothing predicts the first token of a row
        if not len(trained):
            raise UserError(
                f"nothing of this record is trained; {self._untrained(record)}, or remove it"
            )
        return Extent(len(encoded["tokens"]), len(trained), int(trained[0]))

    def authors(
        self, record: Record, tokenizer: Tokenizer, room: int = NO_LIMIT
    ) -> list[str] | None:
        rendering = self.rendering(record, tokenizer)
        _, spans = tokenise(tokenizer, rendering.text, rendering.written)
        return [rendering.author(start, end) for start, end in spans]

    def _untrained(self, record: Record) -> str:
        """Advice on how to get something trained in a record."""
        raise NotImplementedError

    # --------------------------------------------------------------------------------- measured

    def shots(self, examples: Sequence[Record], record: Record) -> Asked:
        """The examples are earlier turns of one conversation, whose system message is the first."""
        asked = json.loads(self.prompt(record))
        tools = asked.get("tools") if isinstance(asked, dict) else None
        turns: list[Any] = []
        for each in examples:
            turns += _turns(self.prompt(each))
            turns.append({"role": "assistant", "content": self.reference(each)})
        turns += _turns(self.prompt(record))
        kept = [turn for n, turn in enumerate(turns) if n == 0 or turn["role"] != "system"]
        return Asked(as_prompt(kept, tools), "")

    def baseline(self, train: Records) -> Callable[[Record], Any] | None:
        """The most frequent answer, the first of those that are as frequent."""
        answers = Counter(self.reference(train[int(i)]) for i in range(len(train)))
        if not answers:
            return None
        ((answer, _),) = answers.most_common(1)
        return lambda record: answer

    def score(self, predictions: Sequence[Any], records: Iterable[Record]) -> list[Measure]:
        """`predictions` are texts; the share that equals the reference, and the mean of

        F1 = 2 c / (p + r)

        over words, with c words in common, p in the prediction and r in the reference. Each Chinese
        or Japanese character is a word.
        """
        pairs = [
            (str(predicted).strip(), self.reference(record).strip())
            for predicted, record in zip(predictions, records, strict=True)
        ]
        size = max(len(pairs), 1)
        exact = sum(a == b for a, b in pairs) / size
        f1 = sum(word_f1(a, b) for a, b in pairs) / size
        return [
            Measure("exact_match", exact, better="higher", label="exact match", format=".1%"),
            Measure("word_f1", f1, better="higher", label="F1 of words", format=".3f"),
        ]


def renderer_of(tokenizer: Any) -> Renderer:
    """Raises `UserError` where the tokenizer has no chat template."""
    template = getattr(tokenizer, "chat_template", None)
    if template is None:
        raise UserError(
            "the tokenizer has no chat template; set data.task.template to one of "
            f"{', '.join(names())}, or data.task.template_file"
        )
    return _renderer(template, tokenizer)


@lru_cache(maxsize=8)
def _renderer(template: ChatTemplate, tokenizer: Any) -> Renderer:
    return Renderer(template, tokenizer)


def word_f1(predicted: str, reference: str) -> float:
    """F1 over the words of two texts; 1 where both have none. A Chinese or Japanese character is a
    word, and all else is cut at white space.
    """
    a, b = (Counter(WORD.findall(text)) for text in (predicted, reference))
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 1.0


def conversation_of(value: Any, column: str) -> list[Message]:
    """The messages of a column. Raises `UserError` for one that is not a conversation."""
    if not isinstance(value, list) or not value:
        raise UserError(
            f"column {column!r} holds no list of messages; give "
            '[{"role": "user", "content": "..."}, ...]'
        )
    for number, message in enumerate(value):
        _check_message(message, number, f"column {column!r}: message {number}")
    _check_order(value, column)
    return value


def _check_message(message: Any, number: int, here: str) -> None:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise UserError(f"{here} has no role; give it one of {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise UserError(
                    f"{here} has a part of type {kind}; only parts of text can be learnt, remove it"
                )
            _check_weight(part, here)
    elif content is None:
        if not message.get("tool_calls"):
            raise UserError(
                f"{here} ({message['role']}) has no content; give it some, or remove it"
            )
    elif not isinstance(content, str):
        raise UserError(f"{here}: its content is a {type(content).__name__}; give a text")
    _check_weight(message, here)


def _check_weight(own: Mapping[str, Any], here: str) -> None:
    weight = own.get("weight")
    number = isinstance(weight, int | float) and 0 <= weight < float("inf")
    if weight is not None and not number:
        raise UserError(f"{here} has the weight {weight!r}; give a number >= 0")
    train = own.get("train")
    if train is not None and (not isinstance(train, int | float) or train not in (0, 1)):
        raise UserError(f"{here} has train {train!r}; give true or false")


def _check_order(messages: Sequence[Mapping[str, Any]], column: str) -> None:
    """Roles that cannot follow each other; a template may ask for more."""
    for number, message in enumerate(messages):
        before = messages[number - 1]["role"] if number else None
        if message["role"] == "system" and number:
            problem = "is a system message and not the first"
        elif message["role"] == "tool" and before not in ("assistant", "tool"):
            problem = f"is a tool's and follows {before or 'nothing'}, not an assistant's call"
        else:
            continue
        raise UserError(
            f"column {column!r}: message {number} {problem}; correct the order of roles"
        )


def check_functions(functions: Sequence[Mapping[str, Any]]) -> None:
    """Raises `UserError` for a tool without a name."""
    for number, tool in enumerate(functions):
        if not name_of(tool):
            raise UserError(
                f"functions: number {number} has no name; write it as {{type: function, function: "
                "{name: ..., description: ..., parameters: {type: object, ...}}}"
            )


def name_of(tool: Mapping[str, Any]) -> str:
    """The name in the JSON schema of a tool, with or without "function" around it; "": none."""
    inner = tool.get("function", tool)
    name = inner.get("name") if isinstance(inner, Mapping) else None
    return name if isinstance(name, str) else ""


def text_of(message: Mapping[str, Any]) -> str:
    """The content of a message as one text."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def texts_in(record: Record, columns: Iterable[str]) -> Iterator[str]:
    """The texts of columns that hold texts, or lists of messages."""
    for column in columns:
        value = record[column]
        yield from [value] if isinstance(value, str) else map(text_of, value)


def _turns(prompt: str) -> list[Any]:
    value = json.loads(prompt)
    messages: list[Any] = value["messages"] if isinstance(value, dict) else value
    return messages


def as_prompt(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None) -> str:
    """Messages as the text that the prompt format `chat` reads: a JSON list, or with tools the
    object {"messages": [...], "tools": [...]}.
    """
    kept = [{key: value for key, value in m.items() if key not in OWN} for m in messages]
    value = {"messages": kept, "tools": list(tools)} if tools else kept
    return json.dumps(value, ensure_ascii=False)
