"""The contents of a row: its keys, each with dims, a dtype and the value that pads it.

    spec = RowSpec({"tokens": Entry(("T",), np.int32, pad=0)}, T=257)
    spec.shape("tokens")         # (257,)
    spec.padding()               # a row that holds nothing: {"tokens": [257] int32 zeros}

A dataset has a RowSpec before anything is prepared, and an objective makes of it the spec of its
batches: shapes are known without data. The letters of dims are those of `jaxlm.core.types`; their
sizes are part of the spec. `id`, the number of a row, is in every row and in no spec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxlm.core.errors import UserError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One key of a row. `dims`: letters whose sizes the spec has, or sizes; () is a scalar."""

    dims: tuple[str | int, ...]
    dtype: Any = np.int32
    pad: Any = 0


class RowSpec(Mapping[str, Entry]):
    """The keys of a row, and the sizes of the letters in their dims."""

    def __init__(self, entries: Mapping[str, Entry], **sizes: int):
        self._entries, self.sizes = dict(entries), dict(sizes)
        for key, entry in self._entries.items():
            unknown = [d for d in entry.dims if isinstance(d, str) and d not in sizes]
            assert not unknown, f"{key}: no size of {unknown}"

    def __getitem__(self, key: str) -> Entry:
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RowSpec):
            return NotImplemented
        return self._facts() == other._facts()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RowSpec({self.described()})"

    def _facts(self) -> dict[str, tuple]:
        return {key: (*self.typed(key), entry.pad) for key, entry in self.items()}

    def shape(self, key: str) -> Shape:
        """The shape of one row's array."""
        return tuple(d if isinstance(d, int) else self.sizes[d] for d in self[key].dims)

    def typed(self, key: str) -> tuple[Shape, np.dtype]:
        """(shape, dtype) of one row's array."""
        return self.shape(key), np.dtype(self[key].dtype)

    def with_dim(self, letter: str) -> tuple[str, ...]:
        """The keys that have this dim first: of each token, for "T"."""
        return self._with_dim.get(letter, ())

    @cached_property
    def _with_dim(self) -> dict[Any, tuple[str, ...]]:
        letters = {entry.dims[0] for entry in self.values() if entry.dims}
        return {x: tuple(k for k, e in self.items() if e.dims[:1] == (x,)) for x in letters}

    def batch(self, batch_size: int) -> dict[str, tuple[Shape, np.dtype]]:
        """{key: (shape, dtype)} of a batch."""
        typed = {key: self.typed(key) for key in self}
        return {key: ((batch_size, *shape), dtype) for key, (shape, dtype) in typed.items()}

    def padding(self, identity: int = -1) -> dict[str, Any]:
        """A row of nothing but padding, with this id."""
        row: dict[str, Any] = {key: value.copy() for key, value in self._padding.items()}
        return {**row, "id": np.int64(identity)}

    @cached_property
    def _padding(self) -> dict[str, Any]:
        typed = {key: self.typed(key) for key in self}
        return {k: np.full(shape, self[k].pad, dtype)[()] for k, (shape, dtype) in typed.items()}

    def described(self) -> str:
        """The keys with their shapes, as in "tokens [257] int32, labels int32"."""
        return ", ".join(_typed(key, {key: self.typed(key)}) for key in self)

    def check(self, row: Mapping[str, Any], where: str) -> None:
        """Raises `UserError` for a row that is not as the spec says; `where` is who made it."""
        found = {k: (np.shape(x), np.asarray(x).dtype) for k, x in row.items() if k != "id"}
        wanted = {key: self.typed(key) for key in self}
        for key in dict.fromkeys([*wanted, *found]):
            if wanted.get(key) != found.get(key):
                raise UserError(
                    f"{where}: a row has {_typed(key, found)}, and its spec says "
                    f"{_typed(key, wanted)}; correct one of the two"
                )


def _typed(key: str, typed: Mapping[str, tuple[Shape, np.dtype]]) -> str:
    if key not in typed:
        return f"no {key}"
    shape, dtype = typed[key]
    return f"{key} {[*shape]} {dtype}"


def text_rows(length: int, pad_id: int = 0) -> RowSpec:
    """Rows of running text: `length` tokens with their documents and positions."""
    return RowSpec(
        {
            "tokens": Entry(("T",), np.int32, pad=pad_id),
            "segment_ids": Entry(("T",)),
            "positions": Entry(("T",)),
        },
        T=length,
    )
