"""The interface of an augmentation: a text and random numbers in, a text out.

    data:
      augment: [{type: synonyms, rate: 0.1}, {type: word_dropout, rate: 0.1}]

It changes columns of a record before the record is encoded, or the tokens after it, in the training
split only. The draws follow from the run's seed and the row's place in the endless order of rows,
which says its epoch too: no number of hosts, workers or restarts changes them, and a row that comes
again is drawn again. Classes, tags and answers are never changed: answers are protected and their
places move along, and each word keeps its tag.

A new one is a file; `jaxlm.core.registry` says where it may be. It defines one of

    __call__    a text as a whole: for tasks without places or tags in their texts
    change      a text as words, some of which stay (`WordAugment`): for all tasks
    arrays      the tokens of an encoded record
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxlm.core.config import Config, Kind, UserError, field, type_name
from jaxlm.core.errors import few
from jaxlm.core.rows import RowSpec
from jaxlm.data.reading.words import Span, Unit, around, cut, joined, of_words, spaced

if TYPE_CHECKING:
    import numpy as np

    from jaxlm.core.types import Tokenizer
    from jaxlm.tasks.base import Arrays, Record, Task


@dataclass(frozen=True, kw_only=True)
class Augment(Config):
    """A random change of a text."""

    kind: ClassVar = Kind("augments", "augmentation", folder="jaxlm.data.augment")
    by_words: ClassVar[bool] = False  # whether it can leave chosen words as they are

    columns: tuple[str, ...] = field(
        (), "columns of the record that are changed; empty: the task's own choice"
    )

    def __call__(self, text: str, rng: np.random.RandomState) -> str:
        """The changed text; a text that is not blank stays so."""
        raise NotImplementedError

    def around(
        self, text: str, spans: Sequence[Span], rng: np.random.RandomState
    ) -> tuple[str, list[Span]]:
        """The changed text, and where the texts of `spans` (in characters) are in it, unchanged;
        of an augmentation `by_words`.
        """
        raise NotImplementedError

    def of_words(
        self, words: Sequence[str], spans: Sequence[Span], rng: np.random.RandomState
    ) -> tuple[list[str], list[int]]:
        """The changed words, and for each the number of the word whose tag it has; the words of a
        span stay, side by side. Of an augmentation `by_words`.
        """
        raise NotImplementedError

    def check(self, task: Task) -> None:
        """Raises `UserError` where the task has nothing that it could change."""
        name, own = type_name(type(task)), type_name(type(self))
        columns = self.columns or task.augmented
        known = {*task.augmented, *task.asked} or {*task.stored}
        if not columns or {*columns} - known:
            raise UserError(
                f"augment: task {name} has no text in {few(columns) or 'any column'}; set its "
                f"columns to some of {few(sorted(known))}"
            )
        if task.has_places and not self.by_words:
            raise UserError(
                f"augment: {own} changes a text as a whole, and task {name} has answers or tags in "
                "it; use one that changes words, such as word_dropout"
            )

    def prepare(self, tokenizer: Tokenizer) -> None:
        """Called before rows are read: reads or fetches what it needs. Raises `UserError`."""

    def contents(self) -> Iterator[tuple[str, str]]:
        """(name, SHA-256) of every file of the user that is read: part of the data's identity."""
        return iter(())

    def record(self, record: Record, task: Task, rng: np.random.RandomState) -> Record:
        """A record before it is encoded, changed."""
        for column in self.columns or task.augmented:
            record = task.changed(record, column, self, rng)
        return record

    def arrays(
        self,
        arrays: Arrays,
        task: Task,
        tokenizer: Tokenizer,
        spec: RowSpec,
        rng: np.random.RandomState,
    ) -> Mapping[str, Any]:
        """The arrays that a record was encoded to, without padding, changed."""
        return arrays


@dataclass(frozen=True, kw_only=True)
class WordAugment(Augment, abstract=True):
    """A random change of the words of a text."""

    by_words: ClassVar[bool] = True

    def change(self, units: list[Unit], rng: np.random.RandomState) -> list[Unit]:
        """The changed words, at least one where there was one; those that are not `free` stay."""
        raise NotImplementedError

    def __call__(self, text: str, rng: np.random.RandomState) -> str:
        head, units = cut(text)
        return joined(head, spaced(self.change(units, rng)))

    def around(
        self, text: str, spans: Sequence[Span], rng: np.random.RandomState
    ) -> tuple[str, list[Span]]:
        return around(text, spans, lambda units: self.change(units, rng))

    def of_words(
        self, words: Sequence[str], spans: Sequence[Span], rng: np.random.RandomState
    ) -> tuple[list[str], list[int]]:
        return of_words(words, spans, lambda units: self.change(units, rng))


def draws(rate: float, size: int, rng: np.random.RandomState) -> int:
    """The number of the `size` things that are changed: rate * size, rounded up as often as makes
    the mean exactly that.
    """
    whole, rest = divmod(rate * size, 1)
    return int(whole) + int(rng.random_sample() < rest)
