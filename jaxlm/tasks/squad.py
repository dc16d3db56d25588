"""Exact match and F1 of an answer, by the definitions of SQuAD's evaluation script.

Both texts are lower-cased; punctuation, the articles a, an and the, and spaces beyond one are
removed. F1 is of the words, as bags:

    precision = common / words of the prediction, recall = common / words of the answer

and is 1 where both are empty, 0 where one is (Rajpurkar et al. 2016, 2018). Of several answers the
best score counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)


def normalised(text: str) -> str:
    """The text that is compared."""
    kept = "".join(c for c in text.lower() if c not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(said: str, answer: str) -> float:
    """1 where the normalised texts are equal, else 0."""
    return float(normalised(said) == normalised(answer))


def f1(said: str, answer: str) -> float:
    """F1 of the words of the normalised texts, in [0, 1]."""
    return bag_f1(normalised(said).split(), normalised(answer).split())


def bag_f1(said: Sequence[str], answer: Sequence[str]) -> float:
    """F1 of two bags of words."""
    if not said or not answer:
        return float(len(said) == len(answer))
    common = (Counter(said) & Counter(answer)).total()
    return 2 * common / (len(said) + len(answer))


def best(score: Callable[[str, str], float], said: str, answers: Sequence[str]) -> float:
    """The best score over the answers; without any, that of the empty one."""
    return max(score(said, answer) for answer in answers or [""])
