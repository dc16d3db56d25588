"""Records of a table, or of labelled texts, as rows of a task.

    data:
      type: records
      source: {type: csv, files: reviews.csv}
      task: {type: classification, text: review, label: stars}
      seq_len: 128

Records are stored as the task expands them; a row is encoded when it is read, in the training split
after `augment`. Records of equal identity (equal texts, say) are in one split. With `max_records`
fewer are trained; the validation split, the classes and a trained tokenizer are those of all.
With `duplicates: drop` each record is in the data once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxlm.core.config import REQUIRED, UserError, field, type_name
from jaxlm.core.errors import MissingColumn, few
from jaxlm.core.rows import RowSpec
from jaxlm.core.types import RowDataset, Tokenizer
from jaxlm.data.augment.base import Augment
from jaxlm.data.rows.encoded import TOKENS, Drawn, EncodedRows, PackedRecords
from jaxlm.data.rows.order import Row
from jaxlm.data.sources.base import Source
from jaxlm.data.store.content import source_files
from jaxlm.data.store.duplicates import distinct
from jaxlm.data.store.prepared import DataConfig, Prepared, Report, Split
from jaxlm.data.store.records import RecordStore, name_hash, prepare_records
from jaxlm.data.store.split import hash64, held_out, scores
from jaxlm.data.text import report_shared_texts, store_facts
from jaxlm.tasks.base import LeftOut, Record, Task

FORMAT = "records, version 2"  # a run of another version: its files and counts are compared


class Part(NamedTuple):
    """The records of a split: the records `numbers` of a store, which come from a source."""

    store: RecordStore
    numbers: np.ndarray
    source: Source


@dataclass(frozen=True, kw_only=True)
class RecordData(DataConfig):
    """Records with named columns, from which a task makes rows."""

    source: Source = field(REQUIRED, "where the records come from")
    task: Task = field(REQUIRED, "what the columns of a record mean")
    validation: Source | None = field(None, "a source of its own for validation")
    validation_fraction: float = field(
        0.2, "share held out by a hash of the task's choice (the text)", ge=0, lt=1
    )
    split_salt: int = field(0, "changes which records are held out")
    duplicates: Literal["keep", "drop", "drop_conflicts"] = field(
        "keep",
        "equal records: keep all, or the first; drop_conflicts: the first, and no records of one "
        "text whose answers differ",
    )
    max_records: int | None = field(
        None, "train on this many of the training records, a hash chooses them; null: all", ge=1
    )
    subset_salt: int = field(0, "changes which records those are")
    seq_len: int = field(128, "tokens of a row", ge=3)
    shuffle: bool = field(True, "draw in an order that changes each epoch; false: as in the source")
    packing: Literal["whole"] | None = field(
        None, "whole: fit several records into a row; null: each has a row of its own"
    )
    augment: tuple[Augment, ...] = field(
        (), "random changes of the training texts, drawn again in each epoch"
    )

    def validate(self) -> None:
        self.task.fitted(self.seq_len)
        spec, name = self.row_spec(), type_name(type(self.task))
        once = [key for key in spec if spec[key].dims[:1] not in TOKENS]
        if self.packing and once:
            raise UserError(
                f"packing: whole puts several records in a row, and task {name} gives {few(once)} "
                "once a row; remove packing"
            )
        if self.packing and self.augment:
            raise UserError(
                "packing: whole needs records whose lengths stay; remove packing or augment"
            )
        for change in self.augment:
            change.check(self.task)

    @property
    def _task(self) -> Task:
        """The task for rows of this length. Raises `UserError` where they do not fit it."""
        return self.task.fitted(self.seq_len)

    def row_spec(self, pad_id: int = 0) -> RowSpec:
        return self.task.row_spec(self.seq_len, pad_id)

    def marks(self, manifest: Mapping[str, Any]) -> tuple[bool, bool]:
        return self.task.marks

    def equipped(self, tokenizer: Tokenizer) -> Tokenizer:
        return self.task.equipped(tokenizer)

    @property
    def _fraction(self) -> float:
        return 0.0 if self.validation is not None else self.validation_fraction

    def training_texts(self) -> Iterator[str]:
        out: Any = iter(lambda: False, True)  # nothing is held out
        if self._fraction > 0:
            hashes = [hash64(self.task.identity(record).encode()) for record in self._records()]
            out = self._held_out(np.array(hashes, np.uint64))
        for record, is_out in zip(self._records(), out, strict=False):
            if not is_out:
                yield from self.task.texts(record)

    def _held_out(self, hashes: np.ndarray) -> np.ndarray:
        by = self.task.identified_by
        return held_out(hashes, self._fraction, self.split_salt, by, "record")

    def _records(self) -> Iterator[Record]:
        """The source's records, without those that the task leaves out."""
        for name, record in self.source.records(self.task.columns):
            try:
                self.task.expand(record)
            except LeftOut:
                continue
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
            yield record

    def corpus_fingerprint(self) -> str:
        split = [self._fraction, self.split_salt] if self._fraction else None
        facts = [self.source.fingerprint(), self.task.fingerprint(), split]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    # ------------------------------------------------------------------------------ preparation

    def tokenise(
        self, tokenizer: Tokenizer, cache_dir: Path, *, workers: int = 0, report: Report = print
    ) -> Prepared:
        def stored(source: Source) -> RecordStore:
            with _advice(self.task):
                found = source.recognised(self.task.columns)
                store = prepare_records(
                    {"source": source},
                    self._task,
                    tokenizer,
                    cache_dir,
                    workers=workers,
                    report=report,
                )
            if found:
                name, number = type_name(type(self.task)), store.manifest["records"]
                own = self.task.chosen(tokenizer)
                report(f"{found}, {number:,} records -> {name}{own and f'; {own}'}")
            return store

        stores, sources = {"train": stored(self.source)}, {"train": self.source}
        whole = self._kept(stores["train"], report)
        hashes = np.array(stores["train"].arrays["identity_hashes"])[whole]
        out = self._held_out(hashes)
        index = {"train": whole[~out]}
        if self.validation is not None:
            stores["validation"], sources["validation"] = stored(self.validation), self.validation
            index["validation"] = self._kept(stores["validation"], report)
            other = np.array(stores["validation"].arrays["identity_hashes"])
            report_shared_texts(hashes, other, report)
        elif out.any():
            index["validation"] = whole[out]
        index["train"], too_long = self._short(stores["train"], index["train"], report)
        facts = self.task.resolve(stores["train"].records(index["train"]))
        if self.max_records is not None:
            index["train"] = _subset(
                stores["train"], index["train"], self.max_records, self.subset_salt
            )
        parts = {
            name: Part(
                stores.get(name, stores["train"]), index[name], sources.get(name, self.source)
            )
            for name in index
        }
        prepared = self._prepared(parts, facts, tokenizer, report)
        prepared.manifest["splits"]["train"] |= too_long
        content = {
            name: self._content(part, facts, tokenizer, self.augment if name == "train" else ())
            for name, part in parts.items()
        }
        prepared.manifest.update(
            stores={name: store_facts(store) for name, store in stores.items()}, content=content
        )
        return prepared

    def _kept(self, store: RecordStore, report: Report) -> np.ndarray:
        """The records of a store without the duplicates that are to be dropped."""
        size = store.manifest["records"]
        if self.duplicates == "keep":
            return np.arange(size)
        kept = distinct(store, conflicts=self.duplicates == "drop")
        if not len(kept):
            raise UserError(
                "data.duplicates: drop_conflicts leaves no record, because each text has several "
                "answers; set it to drop"
            )
        if dropped := size - len(kept):
            report(f"{dropped:,} of {size:,} records are left out as duplicates")
        return kept

    def _short(
        self, store: RecordStore, index: np.ndarray, report: Report
    ) -> tuple[np.ndarray, dict[str, int]]:
        """The training records `index` that are not too long, and a count of the others."""
        too_long = self._task.too_long_to_train(store.records(index))
        if too_long is None or not too_long.any():
            return index, {}
        if too_long.all():
            raise UserError(
                f"data.task: all {len(index):,} training records are too long; raise data.seq_len"
            )
        number = int(too_long.sum())
        report(f"train: {number:,} records are left out, which are too long")
        return index[~too_long], {"too_long": number}

    def measured(
        self,
        source: Source,
        tokenizer: Tokenizer,
        cache_dir: Path,
        facts: Mapping[str, Any] | None,
        report: Report = print,
    ) -> Prepared:
        """As of `DataConfig`; facts: None: those of the records, for a model that was imported."""
        store = prepare_records(
            {"validation": source}, self._task, tokenizer, cache_dir, report=report
        )
        everything = np.arange(store.manifest["records"])
        if facts is None:
            facts = self._task.resolve(store.records(everything))
        parts = {"validation": Part(store, everything, source)}
        return self._prepared(parts, facts, tokenizer, report)

    def _prepared(
        self,
        parts: Mapping[str, Part],
        facts: Mapping[str, Any],
        tokenizer: Tokenizer,
        report: Report,
    ) -> Prepared:
        task = self._task.given(facts)
        spec = task.row_spec(self.seq_len, tokenizer.pad_id)
        splits: dict[str, Split] = {}
        for name, (store, whole, source) in parts.items():
            train = name == "train"
            index = _trained(store, whole, spec.sizes["T"], name)
            for change in self.augment if train else ():
                change.prepare(tokenizer)
            rows = EncodedRows(
                store.records(index), task, tokenizer, spec, self.augment if train else ()
            )
            try:
                own = task.counts(rows.records)
            except UserError as error:
                place = _first_wrong(task, Part(store, index, source))
                raise UserError(f"{place or f'the {name} split'}: {error}") from None
            lengths = np.array(store.arrays["lengths"])[index]
            split = RecordSplit(
                rows=rows,
                lengths=lengths,
                packed=self.packing is not None,
                shuffle=self.shuffle and train,
                draws=train and bool(self.augment or task.draws),
                facts={**store.counts(index), **own},
            )
            if cut_away := len(whole) - len(index):
                split.facts["cut_away"] = cut_away
            if line := _trained_line(name, split.facts):
                report(line)
            for remark in task.remarks(split.facts):
                report(f"{name}: {remark}")
            splits[name] = split
        manifest = {
            "tokenizer": tokenizer.fingerprint(),
            "facts": dict(facts),
            "splits": {name: split.counts for name, split in splits.items()},
        }
        return Prepared(tokenizer, splits, manifest, self.seq_len, spec, facts, task)

    def _content(
        self,
        part: Part,
        facts: Mapping[str, Any],
        tokenizer: Tokenizer,
        augment: tuple[Augment, ...],
    ) -> dict[str, Any]:
        """The content of a split, as one SHA-256 (see `jaxlm.data.store.content`)."""
        task = self._task.given(facts)
        about = [part.store.fingerprint(), task.fingerprint(tokenizer), dict(facts)]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(part.numbers, "<i8").tobytes())
        tables = [each for change in augment for each in change.contents()]
        for _, sha256 in tables:
            digest.update(sha256.encode())
        files = {**source_files({"source": part.source}), **dict(tables)}
        return {"sha256": digest.hexdigest(), "files": files, "format": FORMAT}


@contextmanager
def _advice(task: Task) -> Iterator[None]:
    """Adds what the task advises to an error about a column that the records lack."""
    try:
        yield
    except MissingColumn as error:
        advice = next(filter(None, map(task.without, error.names)), "")
        if not advice:
            raise
        text = str(error)
        raise UserError(f"{text}{' Or: ' if text.endswith('?') else '; or: '}{advice}") from None


def _subset(store: RecordStore, index: np.ndarray, size: int, salt: int) -> np.ndarray:
    """The records `index` of `size` records of the source, with all windows of each; a smaller
    number of the same salt chooses some of the same records.
    """
    names, hashes = (np.array(store.arrays[n])[index] for n in ("name_hashes", "identity_hashes"))
    _, first, number = np.unique(names, return_index=True, return_inverse=True)
    # another salt than that of the split, whose smallest hashes are held out
    places = np.argsort(scores(hashes[first], hash64(f"subset {salt}".encode())), kind="stable")
    chosen = np.zeros(len(first), bool)
    chosen[places[:size]] = True
    return index[chosen[number]]


def _first_wrong(task: Task, part: Part) -> str | None:
    """The place of the first record that the task refuses, such as "reviews.csv:3"."""
    for number in range(len(part.numbers)):
        one = part.numbers[number : number + 1]
        try:
            task.counts(part.store.records(one))
        except UserError:
            wanted = part.store.arrays["name_hashes"][one[0]]
            names = (name for name, _ in part.source.records(task.columns))
            return next((name for name in names if name_hash(name) == wanted), None)
    return None


def _trained(store: RecordStore, index: np.ndarray, room: int, name: str) -> np.ndarray:
    """The records `index` that have a trained token in a row; the end of a longer one is cut."""
    reached = np.array(store.arrays["first_trained"])[index] < room
    if len(index) and not reached.any():
        raise UserError(
            f"data.seq_len: no record of the {name} split has a trained token among its first "
            f"{room}; raise it"
        )
    return index[reached]


def _trained_line(name: str, counts: Mapping[str, Any]) -> str:
    """The log's line about the tokens that are trained: "" where a task trains all."""
    if "trained_tokens" not in counts:
        return ""
    tokens = counts["tokens"]
    line = f"{name}: {counts['trained_tokens'] / tokens:.1%} of {tokens:,} tokens are trained"
    if cut_away := counts.get("cut_away"):
        line += f"; {cut_away:,} records are left out, whose trained part is beyond data.seq_len"
    return line


@dataclass(frozen=True)
class RecordSplit:
    """A split of records. `lengths` [n]: tokens of each, nothing cut."""

    rows: EncodedRows
    lengths: np.ndarray
    packed: bool
    shuffle: bool
    draws: bool
    facts: dict[str, Any]

    @cached_property
    def _rows(self) -> EncodedRows | PackedRecords:
        return PackedRecords.plan(self.rows, self.lengths) if self.packed else self.rows

    def records_of(self, identity: int) -> list[Record]:
        """The records of the row with this `id`, in the order of its segments."""
        return [self.rows.records[number] for number in self._rows.numbers(identity)]

    @property
    def most_records(self) -> int:
        """The records of a row at most."""
        rows = self._rows
        return int(np.diff(rows.first).max(initial=1)) if isinstance(rows, PackedRecords) else 1

    def unchanged(self, identity: int) -> Row | None:
        """The row with this `id` before augmentation; None where nothing is augmented."""
        return self._rows.row(identity) if self.rows.augment else None

    def dataset(self, *, batch_size: int, seed: int) -> RowDataset:
        return Drawn(self._rows, seed, self.shuffle, self.draws)

    @cached_property
    def counts(self) -> dict[str, Any]:
        """The store's counts, and rows, records that are cut, the task's own, share of padding."""
        room, rows = self.rows.spec.sizes["T"], len(self._rows)
        filled = int(np.minimum(self.lengths, room).sum())
        known = ("documents", "tokens", "bytes", "chars")
        return {
            **{name: self.facts[name] for name in known},
            "rows": rows,
            "truncated": int((self.lengths > room).sum()),
            **{name: value for name, value in self.facts.items() if name not in known},
            "padding": round(1 - filled / (rows * room), 6),
        }
