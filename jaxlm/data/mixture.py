"""Several datasets drawn from at fixed rates.

    data:
      type: mixture
      parts:
        web:   {weight: 3, data: {type: text, ...}}
        books: {weight: 1, data: {type: text, ...}}

Which part row i belongs to is a closed form (see `Interleaved`), so that the rates are exact in the
long run, at most one row a part off at any time, and any place is found in constant time. A part is
reshuffled in its own
epochs: a small one begins again while a large one is still in its first. One tokenizer, trained on
the training texts of all parts, serves them all. Validation is every part's, one after the other,
and "validation/<part>" each alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as attribute
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.core.config import REQUIRED, Config, UserError, field
from jaxlm.core.rows import RowSpec
from jaxlm.core.types import RowDataset, Tokenizer
from jaxlm.data.rows.batched import batch_of, joined
from jaxlm.data.rows.order import Row, derive_seed
from jaxlm.data.sources.base import Source
from jaxlm.data.store.content import joined_content
from jaxlm.data.store.prepared import DataConfig, Prepared, Report, Split, most_records

PART_BITS = 40  # a part's ids are in [part << 40, part + 1 << 40)


@dataclass(frozen=True, kw_only=True)
class Part(Config):
    """One dataset of a mixture and how often it is drawn from."""

    weight: float = field(
        1.0, "rows from this part, in proportion to the other parts' weights", gt=0
    )
    data: DataConfig = field(REQUIRED, "the dataset")


@dataclass(frozen=True, kw_only=True)
class MixtureData(DataConfig):
    """Rows of several datasets in exact proportions, under one tokenizer."""

    parts: dict[str, Part] = field(REQUIRED, "the datasets by name, each with its weight")

    def validate(self) -> None:
        if not self.parts:
            raise UserError("parts is empty; name at least one dataset")
        for name, part in self.parts.items():
            if isinstance(part.data, MixtureData):
                raise UserError(
                    f"parts.{name} is a mixture; name its parts here, weights multiplied"
                )
            if getattr(part.data, "order", "shuffle") == "stream":
                raise UserError(
                    f"parts.{name}: a mixture has no consecutive windows; set order: shuffle"
                )

    def row_spec(self, pad_id: int = 0) -> RowSpec:
        specs = {name: data.row_spec(pad_id) for name, data in self._data.items()}
        _check_equal("seq_len", {name: data.row_length for name, data in self._data.items()})
        _check_equal("rows", {name: spec.described() for name, spec in specs.items()})
        return next(iter(specs.values()))

    @property
    def row_length(self) -> int:
        lengths = {name: data.row_length for name, data in self._data.items()}
        _check_equal("seq_len", lengths)
        return next(iter(lengths.values()))

    @property
    def _data(self) -> dict[str, DataConfig]:
        return {name: part.data for name, part in self.parts.items()}

    def equipped(self, tokenizer: Tokenizer) -> Tokenizer:
        for part in self.parts.values():
            tokenizer = part.data.equipped(tokenizer)
        return tokenizer

    def training_texts(self) -> Iterator[str]:
        for data in self._data.values():
            yield from data.training_texts()

    def corpus_fingerprint(self) -> str:
        facts = {name: data.corpus_fingerprint() for name, data in self._data.items()}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def marks(self, manifest: Mapping[str, Any]) -> tuple[bool, bool]:
        """Those of the parts; a mark that some of them have counts."""
        stored = manifest.get("parts", {})
        found = [part.data.marks(stored.get(name, {})) for name, part in self.parts.items()]
        return any(bos for bos, _ in found), any(eos for _, eos in found)

    def measured(
        self,
        source: Source,
        tokenizer: Tokenizer,
        cache_dir: Path,
        facts: Mapping[str, Any],
        report: Report = print,
    ) -> Prepared:
        """As the first part does it."""
        first = next(iter(self._data.values()))
        return first.measured(source, tokenizer, cache_dir, facts, report)

    def tokenise(
        self, tokenizer: Tokenizer, cache_dir: Path, *, workers: int = 0, report: Report = print
    ) -> Prepared:
        parts = {}
        for name, data in self._data.items():
            try:
                parts[name] = data.tokenise(tokenizer, cache_dir, workers=workers, report=report)
            except UserError as error:
                raise UserError(f"parts.{name}: {error}") from None
        _check_equal("seq_len", {name: part.seq_len for name, part in parts.items()})
        for fact in dict.fromkeys(key for part in parts.values() for key in part.facts):
            _check_equal(fact, {name: str(part.facts.get(fact)) for name, part in parts.items()})
        weights = [part.weight for part in self.parts.values()]
        first = next(iter(parts.values()))
        splits: dict[str, Split] = {
            "train": MixedSplit({n: p.splits["train"] for n, p in parts.items()}, weights)
        }
        held = {n: p.splits["validation"] for n, p in parts.items() if "validation" in p.splits}
        if held:
            splits["validation"] = ChainedSplit(held, list(parts))
            splits.update({f"validation/{name}": split for name, split in held.items()})
        manifest = {
            "tokenizer": tokenizer.fingerprint(),
            "facts": dict(first.facts),
            "parts": {n: {"weight": self.parts[n].weight, **p.manifest} for n, p in parts.items()},
            "splits": {name: split.counts for name, split in splits.items()},
            "content": {
                split: joined_content(
                    {
                        name: part.manifest["content"][split]
                        for name, part in parts.items()
                        if split in part.manifest["content"]
                    }
                )
                for split in ("train", "validation")
                if split in splits
            },
        }
        return Prepared(
            tokenizer,
            splits,
            manifest,
            first.seq_len,
            self.row_spec(tokenizer.pad_id),
            first.facts,
            first.task,
            tasks={f"validation/{name}": parts[name].task for name in held},
        )


def _check_equal(what: str, values: dict[str, Any]) -> None:
    if len(set(values.values())) > 1:
        listing = ", ".join(f"{name} {value}" for name, value in values.items())
        raise UserError(f"parts: {what} differs ({listing}); set the same in every part")


# -------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class MixedSplit:
    """The training rows of all parts, interleaved."""

    parts: dict[str, Split]
    weights: list[float]

    @property
    def counts(self) -> dict[str, Any]:
        return _sum_counts(self.parts)

    @property
    def most_records(self) -> int:
        return most_records(self.parts.values())

    def dataset(self, *, batch_size: int, seed: int) -> RowDataset:
        rows = [
            split.dataset(batch_size=batch_size, seed=derive_seed(seed, name))
            for name, split in self.parts.items()
        ]
        return Interleaved(rows, self.weights)


@dataclass(frozen=True)
class Interleaved:
    """Rows of several datasets; of the first i, part k has within one of i * weight_k / sum of
    weights.

    The parts are peeled off one by one: with p = weight_1 / sum, row i belongs to part 1 when
    floor((i + 1) p) > floor(i p), as its row floor(i p); else it is row i - floor(i p) of what
    remains. All
    in whole numbers: a weight counts as the decimal number it is written as.
    """

    parts: list[RowDataset]
    weights: list[float]

    @property
    def rows_per_epoch(self) -> int:
        """As many rows as the parts hold together (a part may then have been seen more or less than
        once).
        """
        return sum(part.rows_per_epoch for part in self.parts)

    def __getitem__(self, index: int) -> Row:
        part, place = self.locate(index)
        return with_part(self.parts[part][place], part)

    def batch(self, indices: np.ndarray) -> Row:
        """The rows `indices` [n], gathered part by part."""
        located = np.array([self.locate(index) for index in indices.tolist()], np.int64)
        return _of_parts(self.parts, located[:, 0], located[:, 1], range(len(self.parts)))

    def locate(self, index: int) -> tuple[int, int]:
        """(part, row of the part) of row `index` >= 0."""
        for part, (weight, total) in enumerate(self._shares):
            before = index * weight // total
            if (index + 1) * weight // total > before:
                return part, before
            index -= before
        raise AssertionError("the last part takes every row that is left")

    @cached_property
    def _shares(self) -> list[tuple[int, int]]:
        """(weight, weight of this part and all later ones) as whole numbers."""
        exact = [Fraction(str(weight)) for weight in self.weights]
        scale = lcm(*(weight.denominator for weight in exact))
        whole = [int(weight * scale) for weight in exact]
        totals = list(accumulate(reversed(whole)))[::-1]
        return list(zip(whole, totals, strict=True))


@dataclass(frozen=True)
class ChainedSplit:
    """The validation rows of all parts, one part after the other."""

    parts: dict[str, Split]
    names: list[str] = attribute(repr=False)  # of all parts: their order gives the ids

    @property
    def counts(self) -> dict[str, Any]:
        return _sum_counts(self.parts)

    @property
    def most_records(self) -> int:
        return most_records(self.parts.values())

    def dataset(self, *, batch_size: int, seed: int) -> RowDataset:
        rows = [split.dataset(batch_size=batch_size, seed=seed) for split in self.parts.values()]
        return Chained(rows, [self.names.index(name) for name in self.parts])


@dataclass(frozen=True)
class Chained:
    """One pass of each dataset after the other, again and again."""

    parts: list[RowDataset]
    numbers: list[int]

    @property
    def rows_per_epoch(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Row:
        index %= self._ends[-1]
        part = int(np.searchsorted(self._ends, index, "right"))
        place = index - (self._ends[part - 1] if part else 0)
        return with_part(self.parts[part][place], self.numbers[part])

    def batch(self, indices: np.ndarray) -> Row:
        """The rows `indices` [n], gathered part by part."""
        ends = np.array(self._ends, np.int64)
        places = indices % ends[-1]
        part = ends.searchsorted(places, "right")
        return _of_parts(self.parts, part, places - np.append(0, ends)[part], self.numbers)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(part.rows_per_epoch for part in self.parts))


def _of_parts(
    parts: Sequence[RowDataset], part: np.ndarray, places: np.ndarray, numbers: Sequence[int]
) -> Row:
    """Row places[i] of parts[part[i]] for each i; `numbers`: those that the parts' ids have."""
    found = []
    for number in np.unique(part).tolist():
        chosen = part == number
        rows = with_part(batch_of(parts[number], places[chosen]), numbers[number])
        found.append((chosen, rows))
    return joined(found, len(part))


def with_part(row: Row, part: int) -> Row:
    """The row, or the batch of rows, with ids that no other part has."""
    assert np.all((row["id"] >= 0) & (row["id"] < 1 << PART_BITS))
    return {**row, "id": row["id"] + np.int64(part << PART_BITS)}


def _sum_counts(parts: dict[str, Split]) -> dict[str, Any]:
    counts = [split.counts for split in parts.values()]
    keys = [
        k for k in ("documents", "tokens", "bytes", "chars", "rows") if all(k in c for c in counts)
    ]
    return {key: sum(c[key] for c in counts) for key in keys}
