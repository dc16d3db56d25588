"""A prepared dataset, and the steps that every dataset shares.

A data config derives from `DataConfig` and supplies three things: the training texts (for a
tokenizer that is trained), a fingerprint of the corpus, and `tokenise`, which writes what is to be
written and returns the splits. `prepare` puts them together:

    prepared = config.prepare(Bytes(), Path("cache"), workers=2)
    rows = prepared.rows("train", batch_size=16, seed=0)
    rows[0]["tokens"]                # [seq_len + 1] int32
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from jaxlm.core.config import Config, Kind, UserError, suggest
from jaxlm.core.rows import RowSpec, text_rows
from jaxlm.core.types import RowDataset, Tokenizer, TokenizerConfig
from jaxlm.data.sources.base import Source
from jaxlm.tasks.base import Task

Report = Callable[[str], None]


class Split(Protocol):
    """One split of a prepared dataset."""

    @property
    def counts(self) -> dict[str, Any]:
        """Its counts in the manifest: documents, tokens, rows, share of padding and the like."""
        ...

    def dataset(self, *, batch_size: int, seed: int) -> RowDataset:
        """The rows of the split, endless and at random access, in the split's own order."""
        ...


def most_records(splits: Iterable[Split]) -> int:
    """The records of a row of these splits at most; a row of running text counts as one."""
    return max((getattr(split, "most_records", 1) for split in splits), default=1)


@dataclass(frozen=True)
class Prepared:
    """A dataset that is ready to be read: its tokenizer, its splits and a manifest of what they
    came from.
    """

    tokenizer: Tokenizer
    splits: dict[str, Split]
    manifest: dict[str, Any]
    seq_len: int
    row_spec: RowSpec  # of its rows
    facts: Mapping[str, Any] = field(default_factory=dict)  # what a task found in the training data
    task: Task | None = None  # with these facts; None for running text
    consecutive: bool = False  # each row of a batch continues where it ended in the batch before
    tasks: Mapping[str, Task | None] = field(default_factory=dict)  # of a mixture's parts

    def task_of(self, split: str) -> Task | None:
        """The task of a split's records: that of a mixture's part may be another than `task`."""
        return self.tasks.get(split, self.task)

    def rows(self, split: str, *, batch_size: int, seed: int) -> RowDataset:
        """The rows of "train" (reshuffled every epoch, or in lanes) or "validation" (one pass in
        order).

        `batch_size` is the global one: a stream of lanes is laid out by it. `rows_per_epoch` rows
        make a pass; later ones repeat it. Raises UserError for a split that the dataset does not
        have.
        """
        if split not in self.splits:
            fix = (
                "set data.validation_fraction or data.validation" if split == "validation" else None
            )
            raise UserError(f"data has no {split!r} split; {fix or suggest(split, self.splits)}")
        return self.splits[split].dataset(batch_size=batch_size, seed=seed)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """A dataset of rows at random access: what `prepare` writes once and a batch is drawn from."""

    kind: ClassVar = Kind("datasets", "dataset", folder="jaxlm.data")

    def row_spec(self, pad_id: int = 0) -> RowSpec:
        """As `Prepared.row_spec`: known before anything is prepared, except for the padding."""
        return text_rows(self.row_length + 1, pad_id)

    @property
    def consecutive(self) -> bool:
        """As `Prepared.consecutive`."""
        return getattr(self, "order", None) == "stream"

    @property
    def row_length(self) -> int:
        """As `Prepared.seq_len`."""
        return self.seq_len  # type: ignore[attr-defined]

    def prepare(
        self,
        tokenizer: TokenizerConfig,
        cache_dir: Path,
        *,
        workers: int = 0,
        report: Report = print,
    ) -> Prepared:
        """Builds (or finds) the tokenizer, writes (or finds) the token store, and opens it.

        A trained tokenizer sees the training split only. `workers` processes tokenise (0: this
        one); the result does not depend on their number. `report` gets a line for each thing that
        takes time.
        """
        cache_dir = Path(cache_dir)
        built = tokenizer.build(self.training_texts, self.corpus_fingerprint(), cache_dir)
        built = self.equipped(built)
        return self.tokenise(built, cache_dir, workers=workers, report=report)

    def equipped(self, tokenizer: Tokenizer) -> Tokenizer:
        """The tokenizer with what the data needs of it, such as a chat template."""
        return tokenizer

    def marks(self, manifest: Mapping[str, Any]) -> tuple[bool, bool]:
        """Whether documents begin with the tokenizer's bos and end with its eos.

        manifest: of the prepared data.
        """
        return getattr(self, "add_bos", True), getattr(self, "add_eos", True)

    def measured(
        self,
        source: Source,
        tokenizer: Tokenizer,
        cache_dir: Path,
        facts: Mapping[str, Any],
        report: Report = print,
    ) -> Prepared:
        """All of another source as the validation split, in rows as the data's own; no training
        text is read.

        facts: of the training data, as of `Prepared`.
        """
        raise NotImplementedError

    def training_texts(self) -> Iterator[str]:
        """The texts of the training split, in order."""
        raise NotImplementedError

    def corpus_fingerprint(self) -> str:
        """SHA-256 over what decides `training_texts`."""
        raise NotImplementedError

    def tokenise(
        self, tokenizer: Tokenizer, cache_dir: Path, *, workers: int = 0, report: Report = print
    ) -> Prepared:
        """Prepares with a tokenizer that is already built."""
        raise NotImplementedError
