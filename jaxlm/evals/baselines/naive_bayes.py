"""Multinomial naive Bayes over words and pairs of words.

    score(c) = log (n_c / n) + sum over n-grams g of the text: log (N_cg + 1) / (N_c + V)

with n_c of n training texts, and N_cg occurrences of g, in class c (Wang and Manning 2012). A word
is a run of letters and digits in lower case, or any other sign; a Chinese or Japanese character is
a word by itself. N-grams of the second text of a pair are other n-grams than those of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.core.words import words_of
from jaxlm.evals.baselines.base import Guess
from jaxlm.evals.split_records import spread
from jaxlm.tasks.base import Record, Records, Task
from jaxlm.tasks.classification import Classification

if TYPE_CHECKING:
    from jaxlm.training.session import Session

MAX_CHARS = 20_000_000  # of training texts, evenly chosen: about 10 seconds
MAX_CELLS = 50_000_000  # of the table: the rarest n-grams are left out

Gram = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NaiveBayes(Guess):
    """Multinomial naive Bayes over words and pairs of words (characters of Chinese)."""

    def title(self, session: Session, split: str) -> str:
        return "naive Bayes"

    def fit(self, task: Task, train: Records) -> Callable[[Record], Any] | None:
        if not isinstance(task, Classification) or len(train) == 0:
            return None
        chosen = [train[int(i)] for i in _counted(train, task.parts)]
        texts = [[record[column] for column in task.parts] for record in chosen]
        model = Counts([record[task.label] for record in chosen], [grams(t) for t in texts])
        return lambda record: model(grams([record[column] for column in task.parts]))


class Counts:
    """The table of logarithms [C, V] of a training set, whose texts are lists of n-grams."""

    def __init__(self, labels: Sequence[str], texts: Sequence[Sequence[Gram]]) -> None:
        self.classes = sorted(set(labels))
        number = {name: n for n, name in enumerate(self.classes)}
        ids: dict[Gram, int] = {}
        flat = np.array([ids.setdefault(g, len(ids)) for text in texts for g in text], np.int64)
        own = np.array([number[label] for label in labels], np.int64)
        of_class = np.repeat(own, [len(text) for text in texts])
        if (most := MAX_CELLS // len(self.classes)) < len(ids):
            often = np.bincount(flat, minlength=len(ids))
            kept = np.argsort(-often, kind="stable")[:most]
            place = np.full(len(ids), -1)
            place[kept] = np.arange(most)
            flat = place[flat]
            flat, of_class = flat[flat >= 0], of_class[flat >= 0]
            ids = {g: int(place[i]) for g, i in ids.items() if place[i] >= 0}
        size, count = len(self.classes), len(ids)
        table = np.bincount(of_class * count + flat, minlength=size * count) + 1.0
        table = table.reshape(size, count)
        self._ids = ids
        self._log = np.log(table / table.sum(1, keepdims=True)).astype(np.float32)
        self._prior = np.log(np.bincount(own, minlength=size) / len(own))

    def __call__(self, text: Sequence[Gram]) -> str:
        """The most probable class of a text; n-grams that training never saw do not count."""
        known = [self._ids[g] for g in text if g in self._ids]
        scores = self._prior + self._log[:, known].sum(1, dtype=np.float64)
        return self.classes[int(scores.argmax())]


def grams(texts: Sequence[str]) -> list[Gram]:
    """The words of the texts and the pairs of neighbouring words."""
    return [gram for n, text in enumerate(texts) for gram in _grams(text, n)]


def _grams(text: str, number: int) -> Iterator[Gram]:
    words = words_of(text)
    mark = (str(number),) * (number > 0)
    for n, word in enumerate(words):
        yield (*mark, word)
        if n:
            yield (*mark, words[n - 1], word)


def _counted(train: Records, columns: Sequence[str]) -> np.ndarray:
    """The records that are counted: all of them, or as many evenly spread ones as are enough."""
    sizes = [sum(len(train[int(i)][c]) for c in columns) for i in spread(len(train), 500)]
    most = max(1, int(MAX_CHARS / max(float(np.mean(sizes)), 1)))
    return spread(len(train), most)
