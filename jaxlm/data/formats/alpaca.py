"""{"instruction": "Add.", "input": "2 and 3", "output": "5"}, one instruction and its answer a row.

The user's message is instruction, a line end and input, as in LLaMA-Factory; Stanford's text
template ("Below is an instruction ...") is not added. "system" is the system's message, and
"history": [[question, answer], ...] are the turns before. Dolly's columns are read as well:
{"instruction", "context", "response"}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.data.formats.base import Fit, Record, Row, RowFormat, Sample, column, text_of
from jaxlm.data.formats.messages import Message, checked, plain


@dataclass(frozen=True, kw_only=True)
class Alpaca(RowFormat):
    """`instruction` and `output` (`response`), maybe `input` (`context`), `system` and `history`"""

    task = "chat"
    needs = ("instruction", "output|response")
    answers = ("output|response",)
    takes = ("input", "system", "history")

    def fit(self, sample: Sample) -> Fit:
        found = super().fit(sample)
        is_dolly = "response" in found.columns and "context" in sample.columns
        return Fit((*found.columns, "context"), found.missing) if is_dolly else found

    def record(self, row: Row, sample: Sample) -> Record:
        messages = before(row)
        messages.append(said("user", question_of(row)))
        if sample.answered:
            messages.append(said("assistant", text_of(row, "output", "response")))
        return {"messages": checked(messages)}

    def row(self, record: Record) -> dict[str, Any]:
        messages = plain(record["messages"], "alpaca")
        system = messages.pop(0)["content"] if messages[0]["role"] == "system" else None
        texts = [message["content"] for message in messages]
        if [m["role"] for m in messages] != ["user", "assistant"] * (len(texts) // 2):
            raise UserError("alpaca has pairs of a question and an answer only; choose openai")
        *turns, (question, answer) = zip(texts[::2], texts[1::2], strict=True)
        row: dict[str, Any] = {"instruction": question, "input": "", "output": answer}
        row |= {"system": system} if system is not None else {}
        return row | ({"history": [list(turn) for turn in turns]} if turns else {})


def said(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def question_of(row: Row) -> str:
    """instruction and, below it, input."""
    name = "context" if "response" in row and "input" not in row else "input"
    more = column(row, name) or ""
    question = text_of(row, "instruction", blank=bool(more))
    return "\n".join(filter(None, (question, text_of(row, name, blank=True) if more else "")))


def before(row: Row) -> list[Message]:
    """The messages before a row's question: its system's and its history."""
    messages = []
    if column(row, "system"):
        messages.append(said("system", text_of(row, "system")))
    history = column(row, "history") or []
    if not isinstance(history, list) or not all(map(_is_turn, history)):
        raise UserError("column 'history' is not a list of [question, answer]; correct it")
    for question, answer in history:
        messages += [said("user", question), said("assistant", answer)]
    return messages


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, list) and len(turn) == 2 and all(isinstance(t, str) for t in turn)
