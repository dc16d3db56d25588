"""The columns of records, and how records with some columns become records with others.

    shape_called("chat").columns                       # ("messages",)
    Shape("ranking", ("query", "documents", "best"))   # of a format of one's own

`jaxlm.data.formats.base` lists the shapes that formats share. A conversion (`Bridge`) loses and
guesses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown, suggest
from jaxlm.data.formats.messages import Message

Record = dict[str, Any]


class Convert(Protocol):
    def __call__(self, record: Record, *, answered: bool) -> list[Record]:
        """answered: false for a record to predict for, which may lack the columns of its answer."""
        ...


@dataclass(frozen=True)
class Bridge:
    """Makes records of another shape; raises `UserError` for a record that is not one."""

    to: Shape
    convert: Convert


@dataclass(frozen=True)
class Start:
    """The choices of `jaxlm init` for records; `task` and `objective` are the config's, as YAML."""

    about: str
    task: str
    objective: str
    is_causal: bool  # whether a token attends to earlier ones alone


@dataclass(frozen=True)
class Shape:
    """The task that records are for, and their columns."""

    task: str
    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()  # those that a record may lack
    unneeded: tuple[str, ...] = ()  # of the optional ones, those that a conversion may leave out
    bridges: Callable[[], tuple[Bridge, ...]] = tuple  # called late: shapes name each other
    start: Start | None = None  # None: no task trains on such records
    fuller: Start | None = None  # `start` of records that have the optional columns as well
    plain: bool = False  # texts, or texts with classes, whose columns `jaxlm.data.detect` finds

    @property
    def every(self) -> tuple[str, ...]:
        """All columns that a record may have."""
        return (*self.columns, *self.optional)


def shape_called(task: str) -> Shape:
    """The shape of the records for a task. Raises `UserError`, with the nearest name."""
    if task not in SHAPES:
        raise UserError(
            f"a format's task: {shown(task)} has no columns here; {suggest(task, SHAPES)} Or give "
            "the format a `shape` of its own (jaxlm.data.formats.shapes:Shape)"
        )
    return SHAPES[task]


def last_turn(record: Record, *, answered: bool) -> list[Record]:
    """A chat as its last answer and the messages before it. One to predict for may end before its
    answer.
    """
    *prompt, last = record["messages"]
    if not answered and last["role"] != "assistant":
        return [{"prompt": record["messages"]}]
    if not prompt or last["role"] != "assistant":
        raise UserError("the chat does not end with an answer; add one or remove the row")
    return [{"prompt": prompt, "completion": [last]}]


def one_turn(record: Record, *, answered: bool) -> list[Record]:
    """A prompt and its completion as a chat."""
    said = [("user", "prompt"), ("assistant", "completion")]
    messages: list[Message] = []
    for role, column in said if answered else said[:1]:
        text = record[column]
        messages += [{"role": role, "content": text}] if isinstance(text, str) else text
    return [{"messages": messages}]


def two_labels(record: Record, *, answered: bool) -> list[Record]:
    """A pair as a desirable and an undesirable completion; one to predict for as its prompt."""
    if not answered:
        return [{"prompt": record["prompt"]}]
    sides = [("chosen", True), ("rejected", False)]
    return [
        {"prompt": record["prompt"], "completion": record[side], "label": label}
        for side, label in sides
    ]


ANSWERS = "{type: causal_lm}"
WITH_TOOLS = "{type: chat, template: qwen, tools: tools}"  # a template that writes them
TEMPLATED = "{type: prompt_completion, template: plain}"

CHAT = Shape(
    "chat",
    ("messages",),
    ("tools",),
    bridges=lambda: (Bridge(PROMPT_COMPLETION, last_turn),),
    start=Start("chat; answers are learnt", "{type: chat, template: plain}", ANSWERS, True),
    fuller=Start("chat with tools; answers and calls are learnt", WITH_TOOLS, ANSWERS, True),
)
PROMPT_COMPLETION: Shape = Shape(
    "prompt_completion",
    ("prompt", "completion"),
    bridges=lambda: (Bridge(CHAT, one_turn),),
    start=Start("prompts and completions, which are learnt", TEMPLATED, ANSWERS, True),
)
KTO = Shape(
    "kto",
    ("prompt", "completion", "label"),
    start=Start(
        "answers, each of which is desirable or not",
        "{type: kto, template: plain}",
        "{type: kto}",
        True,
    ),
)
PREFERENCE = Shape(
    "preference",
    ("prompt", "chosen", "rejected"),
    bridges=lambda: (Bridge(KTO, two_labels),),
    start=Start(
        "pairs of answers, one of which is preferred",
        "{type: preference, template: plain}",
        "{type: orpo}",
        True,
    ),
)
CLASSIFICATION = Shape("classification", ("text", "label"), ("text_b",), plain=True)
QUESTION_ANSWERING = Shape(
    "question_answering",
    ("id", "context", "question", "answers"),
    ("title",),
    ("title",),
    start=Start(
        "question answering by a span of the context",
        "{type: question_answering}",
        "{type: question_answering}",
        False,
    ),
)
TRANSLATION = Shape(
    "translation",
    ("source", "target"),
    start=Start("translation", "{type: translation, too_long: cut}", ANSWERS, True),
)
SUMMARISATION = Shape(
    "summarisation",
    ("source", "target"),
    start=Start("summaries", "{type: summarisation, too_long: cut}", ANSWERS, True),
)
TAGGING = Shape(
    "tagging",
    ("tokens", "tags"),
    start=Start("a tag for each token", "{type: tagging}", "{type: tagging}", False),
)
SHAPES = {
    shape.task: shape
    for shape in (
        Shape("text", ("text",), plain=True),
        CLASSIFICATION,
        QUESTION_ANSWERING,
        TRANSLATION,
        SUMMARISATION,
        TAGGING,
        CHAT,
        PROMPT_COMPLETION,
        PREFERENCE,
        KTO,
        Shape("any", (), plain=True),
    )
}
