"""The best spans of a context, from the scores of starts and ends in its windows.

The score of a span is start + end. In each window the `n_best` likeliest starts and ends are tried;
a span is in the context, ends after it starts, and is at most `max_answer` tokens. The spans of
all windows are sorted, and those of equal place are one. The score of no answer is the smallest
start + end of the first token of a window (run_qa of transformers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Window(NamedTuple):
    """A window of a context, with its scores."""

    text: str
    offset: int  # the place of the text in the context
    offsets: list[tuple[int, int]]  # of the tokens, in characters of the text
    logits: np.ndarray  # [tokens, 2]: start, end
    null: float  # the score of no answer


def best_spans(
    windows: Sequence[Window],
    *,
    n_best: int = 20,
    max_answer: int = 30,
    no_answer: bool = False,
    threshold: float = 0.0,
) -> dict[str, Any]:
    """As `QuestionAnswering.answer` says."""
    scores: dict[tuple[int, int], tuple[float, str]] = {}
    for window in windows:
        for start, end, score in _spans(window, n_best, max_answer):
            text = window.text[start:end]
            begin = window.offset + start + len(text) - len(text.lstrip())
            text = text.strip()
            place = begin, begin + len(text)
            if text and (place not in scores or score > scores[place][0]):
                scores[place] = score, text
    found = sorted(scores.items(), key=lambda item: (-item[1][0], item[0]))[:n_best]
    null = min(window.null for window in windows)
    top = found[0][1][0] if found else -np.inf
    silent = not found or (no_answer and null - top > threshold)
    logits = np.array([score for _, (score, _) in found] + [null] * (no_answer or not found))
    probs = np.exp(logits - logits.max())
    probs = (probs / probs.sum()).tolist()
    listed = [
        {"text": text, "start": place[0], "score": prob}
        for (place, (_, text)), prob in zip(found, probs, strict=False)
    ]
    answer: dict[str, Any] = {
        "answer": "" if silent else listed[0]["text"],
        "start": None if silent else listed[0]["start"],
        "score": probs[-1] if silent else listed[0]["score"],
    }
    if no_answer:
        answer["null_margin"] = float(null - top) if found else None
    return {**answer, "n_best": listed}


def _spans(window: Window, n_best: int, max_answer: int) -> list[tuple[int, int, float]]:
    """(begin, end, score) of the spans that are tried, in characters of the window."""
    logits = window.logits.astype(np.float64)
    starts, ends = (np.argsort(-logits[:, i], kind="stable")[:n_best].tolist() for i in (0, 1))
    return [
        (window.offsets[s][0], window.offsets[e][1], float(logits[s, 0] + logits[e, 1]))
        for s in starts
        for e in ends
        if s <= e < s + max_answer
    ]
