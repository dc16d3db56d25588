"""Questions about paragraphs, one record each: what SQuAD's and CMRC's nested files share.

SQUAD = Keys(name="id", context="context", question="question")
yield from questions_of(paragraph, SQUAD, "x.json:1: paragraph 1", failed, title=title)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown
from jaxlm.data.formats.answers import answers_of
from jaxlm.data.formats.base import Failed, Record, Row


class Keys(NamedTuple):
    """The keys of a paragraph's context, and of a question's id and text."""

    name: str
    context: str
    question: str


def questions_of(
    paragraph: Row,
    keys: Keys,
    here: str,
    failed: Failed,
    *,
    title: Any,
    offsets: str = "characters",
    answered: bool = True,
) -> Iterator[Record]:
    """The records of a paragraph's `qas`; `failed` gets the error of each wrong one.

    offsets: what `answer_start` counts; answered: whether the answers are read.
    """
    for question in listed(paragraph, "qas", here, failed):
        try:
            yield _record(question, paragraph, keys, title, offsets, answered)
        except UserError as error:
            failed(UserError(f"{here}: {error}"))


def listed(values: Any, name: str, here: str, failed: Failed) -> list[Any]:
    """The list of objects under a key; `failed` gets the error where the list is missing."""
    found = values.get(name) if isinstance(values, Mapping) else None
    if isinstance(found, list):
        return found
    failed(UserError(f"{here}: has no list {name!r}; add it or remove the object"))
    return []


def _record(
    question: Any, paragraph: Row, keys: Keys, title: Any, offsets: str, answered: bool
) -> Record:
    if not isinstance(question, Mapping):
        raise UserError(f"a question is a {type(question).__name__}; write an object")
    name = question.get(keys.name, "without an id")
    context, asked = paragraph.get(keys.context), question.get(keys.question)
    for key, value in ((keys.context, context), (keys.question, asked)):
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"question {shown(name)}: has no {key}; add it or remove it")
    assert isinstance(context, str)
    record = {"id": str(name), "context": context, "question": asked, "title": title}
    if not answered:
        return record
    try:
        given = [] if question.get("is_impossible") is True else question.get("answers")
        return record | {"answers": answers_of(given, context, offsets)}
    except UserError as error:
        raise UserError(f"question {shown(name)}: {error}") from None
