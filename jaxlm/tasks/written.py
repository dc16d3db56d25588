"""Tasks whose answer is text that a model writes after a prompt: chat, translation, summaries.

A model is asked with `prompt`; what it writes is scored as a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.tasks.base import Record, Task


@dataclass(frozen=True, kw_only=True)
class WrittenTask(Task, abstract=True):
    """The base of tasks whose answers are written."""

    writes: ClassVar[bool] = True

    def longest_answer(self, seq_len: int) -> int | None:
        """Tokens that an answer may have, in rows of `seq_len`; None: `sample.max_tokens`."""
        return None

    def prediction(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """{"text": the answer, "score": its log probability divided by its number of tokens (of
        beams by that number ** length_penalty)}.

        arrays: `text` and `score`, scalars.
        """
        return {"text": str(arrays["text"]), "score": float(arrays["score"])}

    def said(self, prediction: Mapping[str, Any]) -> Any:
        return prediction["text"]

    def grade(self, record: Record, answer: str) -> float:
        """1 where the answer is the reference, apart from white space at its ends."""
        return float(answer.strip() == self.reference(record).strip())
