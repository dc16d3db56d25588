"""Answers that are spans of a context: read, and checked against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown

OFFSETS = {"characters": None, "bytes": "utf-8", "utf16": "utf-16-le"}
NAMES = {"bytes": "UTF-8 bytes", "utf16": "UTF-16 units"}


def check_offsets(offsets: str) -> None:
    if offsets not in OFFSETS:
        raise UserError(f"offsets: unknown value {shown(offsets)}; choose one of {[*OFFSETS]}")


def answers_of(values: Any, context: str, offsets: str = "characters") -> dict[str, list[Any]]:
    """{"text": [...], "answer_start": [...]} in characters, of a list of answers or of two lists.

    Raises `UserError` for an answer that is not where it is said to be.
    """
    texts, starts = [], []
    for text, start in _pairs(values):
        if not isinstance(text, str) or not text.strip():
            found = "empty" if isinstance(text, str) else f"{shown(text)}, not text"
            raise UserError(
                f"an answer is {found}; write the words of its context, or give the question an "
                "empty list of answers"
            )
        starts.append(_start(text, start, context, offsets))
        texts.append(text)
    return {"text": texts, "answer_start": starts}


def _pairs(values: Any) -> list[tuple[Any, Any]]:
    """(text, start) of each answer; the start is None where it is not given."""
    if isinstance(values, Mapping):
        texts, starts = values.get("text"), values.get("answer_start")
        if not isinstance(texts, list):
            raise UserError("answers have no list of texts; write text and answer_start")
        if starts is None:
            return [(text, None) for text in texts]
        if not isinstance(starts, list) or len(starts) != len(texts):
            raise UserError("answers have not one answer_start for each text; correct them")
        return list(zip(texts, starts, strict=True))
    if not isinstance(values, list):
        raise UserError("has no answers; write a list, [] for a question without an answer")
    return [
        (one.get("text"), one.get("answer_start")) if isinstance(one, Mapping) else (one, None)
        for one in values
    ]


def _start(text: str, start: Any, context: str, offsets: str) -> int:
    """The beginning of an answer, in characters. Raises `UserError`."""
    if start is None:
        found = context.find(text)
        if found < 0:
            raise UserError(f"the answer {shown(text)} is not in its context; correct it")
        return found
    if not isinstance(start, int) or isinstance(start, bool):
        raise UserError(f"answer_start is {shown(start)}; write a whole number")
    place = _characters(text, start, context, offsets)
    if place is not None:
        return place
    raise UserError(_wrong_place(text, start, context, offsets))


def _characters(text: str, start: int, context: str, offsets: str) -> int | None:
    """`start` in characters, where the text is there as `offsets` count; else None."""
    encoding = OFFSETS[offsets]
    if start < 0:
        return None
    if encoding is None:
        return start if context.startswith(text, start) else None
    unit = 2 if offsets == "utf16" else 1
    try:
        whole, part = context.encode(encoding), text.encode(encoding)
        if not whole.startswith(part, start * unit):
            return None
        return len(whole[: start * unit].decode(encoding))
    except UnicodeError:  # half a character
        return None


def _wrong_place(text: str, start: int, context: str, offsets: str) -> str:
    """The problem with an answer_start, and its fix."""
    what = f"answer_start is not where the text is: {start} is not the place of {shown(text)}"
    for other in OFFSETS:
        if other != offsets and _characters(text, start, context, other) is not None:
            name = NAMES.get(other, other)
            return f"{what}, because it counts {name}; set data.source.format.offsets: {other}"
    places = [i for i in range(len(context)) if context.startswith(text, i)][:3]
    if not places:
        return f"{what}, which is not in its context; correct the answer"
    listed = " or ".join(map(str, places))
    return f"{what}, which is at {listed}; correct it"
