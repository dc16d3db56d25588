"""{"prompt": "Hi", "completion": "Hello", "label": true}: whether a completion is desirable.

LLaMA-Factory's files have `kto_tag` for the label, beside the columns of alpaca or of a chat, whose
last answer is the completion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown
from jaxlm.data.formats.alpaca import Alpaca
from jaxlm.data.formats.base import Fit, Record, Row, RowFormat, Sample, column
from jaxlm.data.formats.openai import COLUMNS, OpenAI
from jaxlm.data.formats.prompt_completion import COMPLETION, PROMPT, continuation, prompt_of
from jaxlm.data.formats.shapes import last_turn
from jaxlm.data.formats.sharegpt import ShareGPT, has_speakers

LABELS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


@dataclass(frozen=True, kw_only=True)
class KTO(RowFormat):
    """`prompt`, `completion` and `label` (true or false)"""

    task = "kto"
    version = 2
    needs = ("|".join(PROMPT), "|".join(COMPLETION), "label")

    def wrong(self, names: Mapping[str, str], sample: Sample) -> list[str]:
        return no_tag(sample, "label")

    def record(self, row: Row, sample: Sample) -> Record:
        prompt = prompt_of(row, *PROMPT)
        completion = continuation(row, prompt, *COMPLETION)
        return {"prompt": prompt, "completion": completion, "label": tag_of(row, "label")}

    def row(self, record: Record) -> dict[str, Any]:
        return {name: record[name] for name in ("prompt", "completion", "label")}


@dataclass(frozen=True, kw_only=True)
class KTOTag(RowFormat, type="kto_tag"):
    """`kto_tag` (true or false) beside alpaca's columns, `messages` or `conversations`"""

    task = "kto"
    version = 2
    needs = ("kto_tag",)

    def fit(self, sample: Sample) -> Fit:
        own = super().fit(sample)
        if not own:
            return own
        chats = [chat.fit(sample) for chat in CHATS]
        best = max(chats, key=lambda fit: (bool(fit), len(fit.columns), -len(fit.missing)))
        return Fit((*best.columns, *own.columns), best.missing)

    def wrong(self, names: Mapping[str, str], sample: Sample) -> list[str]:
        return no_tag(sample, "kto_tag")

    def record(self, row: Row, sample: Sample) -> Record:
        turns = column(row, *COLUMNS)
        chat: RowFormat = Alpaca()
        if turns is not None:
            chat = ShareGPT() if has_speakers(turns) else OpenAI()
        (record,) = last_turn(chat.record(row, sample), answered=sample.answered)
        return record | {"label": tag_of(row, "kto_tag")}

    def row(self, record: Record) -> dict[str, Any]:
        messages: list[Any] = []
        for side in (record["prompt"], record["completion"]):
            if isinstance(side, str):
                raise UserError("kto_tag has messages, not texts; choose kto")
            messages += side
        return {**OpenAI().row({"messages": messages}), "kto_tag": record["label"]}


CHATS: tuple[RowFormat, ...] = (Alpaca(), OpenAI(), ShareGPT())


def no_tag(sample: Sample, name: str) -> list[str]:
    """The values that a column lacks where each must be true or false."""
    values = [row.get(name) for _, row in sample.rows]
    return [] if all(_tag(v) is not None for v in values) else [f"{name} as true or false"]


def _tag(value: Any) -> bool | None:
    return LABELS.get(str(value).lower()) if isinstance(value, bool | int | float | str) else None


def tag_of(row: Row, name: str) -> bool:
    """The label of a row. Raises `UserError`."""
    tag = _tag(row.get(name))
    if tag is None:
        raise UserError(f"column {name!r} holds {shown(row.get(name))}; write true or false")
    return tag
