"""The record store: the records of a task in flat files, one for each column, read by memory map
at random access.

A folder named by what went into it (contents of the sources, the task, the tokenizer), with

    column0.bin, column1.bin, ...    JSON values (UTF-8), one after another
    column0.npy, ...                 [records + 1] int64, where each value begins
    name_hashes.npy, identity_hashes.npy  [records] uint64    for splits in any order
    lengths.npy                      [records] int64     tokens, nothing cut
    trained.npy, first_trained.npy   [records] int64     tokens with a loss weight (-1: not known),
                                                         and the number of the first one
    num_bytes.npy, num_chars.npy     [records] int64     of the task's texts (UTF-8)
    manifest.json                    names of the columns, fingerprints, counts, sizes and SHA-256

    store = prepare_records({"source": source}, task, tokenizer, cache_dir)
    store.records(np.arange(10))[3]            # {"text": "a fine film", "label": "good"}

Records are stored as texts: they become tokens when a row is read, after augmentation.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.types import Tokenizer
from jaxlm.data.sources.base import Source, Unit
from jaxlm.data.store.manifest import check_files, damaged, load_array, read_manifest
from jaxlm.data.store.preparation import Counted, append, prepare, report_left_out
from jaxlm.data.store.prepared import Report
from jaxlm.data.store.split import hash64
from jaxlm.data.store.tokens import TokenFile
from jaxlm.tasks.base import LeftOut, Record, Task

FORMAT_VERSION = 2
ARRAYS = {
    "name_hashes": np.uint64,
    "identity_hashes": np.uint64,
    "lengths": np.int64,
    "trained": np.int64,
    "first_trained": np.int64,
    "num_bytes": np.int64,
    "num_chars": np.int64,
}


def prepare_records(
    sources: dict[str, Source],
    task: Task,
    tokenizer: Tokenizer,
    cache_dir: Path,
    *,
    workers: int = 0,
    report: Report = print,
) -> RecordStore:
    """The store of these sources under this task: opened where it exists, else written.

    Arguments as of `preparation.prepare`.
    """
    writer = RecordWriter(task)
    store = RecordStore.open(
        prepare(writer, sources, tokenizer, cache_dir, workers=workers, report=report)
    )
    report_left_out(store.manifest, report)
    return store


# ----------------------------------------------------------------------------------------- reading


class Column:
    """The values of one column, mapped when they are first read; each process maps its own."""

    def __init__(self, folder: Path, number: int, size: int):
        self._values = TokenFile(folder / f"column{number}.bin", np.uint8)
        self._path, self._size = folder / f"column{number}.npy", size

    @cached_property
    def _offsets(self) -> np.ndarray:
        return np.load(self._path, mmap_mode="r").view(np.ndarray)

    def __getitem__(self, index: int) -> Any:
        return json.loads(self.raw(index).decode("utf-8"))

    def raw(self, index: int) -> bytes:
        """The JSON of a value."""
        begin, end = self._offsets[index], self._offsets[index + 1]
        return self._values[begin:end].tobytes()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_offsets"}


@dataclass(frozen=True)
class StoredRecords:
    """Some records of a store: record i is number index[i] of the store."""

    columns: dict[str, Column]
    index: np.ndarray = field(repr=False)  # [n] int64

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Record:
        place = self.index[i]
        return {name: column[place] for name, column in self.columns.items()}

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def column(self, name: str) -> Iterator[Any]:
        """One column of all records."""
        values = self.columns[name]
        return (values[place] for place in self.index)


@dataclass(frozen=True)
class RecordStore:
    """A committed record store; `arrays` holds what ARRAYS names."""

    folder: Path
    manifest: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(repr=False)

    @classmethod
    def open(cls, folder: str | Path, *, full: bool = False) -> RecordStore:
        """Opens a store and checks its files, as `check_files` does.

        Raises `UserError` for a folder without a record store, and for a damaged one.
        """
        folder = Path(folder)
        arrays = [f"{name}.npy" for name in ARRAYS]
        manifest = read_manifest(folder, FORMAT_VERSION, arrays)
        check_files(folder, manifest, full)
        found = {name: load_array(folder / f"{name}.npy", dtype) for name, dtype in ARRAYS.items()}
        for name, array in found.items():
            if len(array) != manifest["records"]:
                raise damaged(
                    folder / f"{name}.npy", f"does not have {manifest['records']} records"
                )
        for number in range(len(manifest["columns"])):
            _check_column(folder, number, manifest["records"])
        return cls(folder, manifest, found)

    def records(self, index: np.ndarray) -> StoredRecords:
        """The records of these numbers, in their order."""
        names = self.manifest["columns"]
        size = self.manifest["records"]
        return StoredRecords({n: Column(self.folder, i, size) for i, n in enumerate(names)}, index)

    def counts(self, index: np.ndarray) -> dict[str, int]:
        """Documents, tokens, bytes and characters of the records `index`; and the tokens that are
        trained, where the task says which.
        """
        trained = self.arrays["trained"][index]
        known = {"trained_tokens": int(trained.sum())} if (trained >= 0).any() else {}
        return {
            "documents": len(index),
            "tokens": int(self.arrays["lengths"][index].sum()),
            **known,
            "bytes": int(self.arrays["num_bytes"][index].sum()),
            "chars": int(self.arrays["num_chars"][index].sum()),
        }

    def fingerprint(self) -> str:
        """The SHA-256 of what the records are, as JSON: of the columns, not of their places."""
        columns = enumerate(self.manifest["columns"])
        files = self.manifest["files"]
        return json.dumps([[n, files[f"column{i}.bin"]["sha256"]] for i, n in columns])


def _check_column(folder: Path, number: int, size: int) -> None:
    path = folder / f"column{number}.npy"
    offsets, values = load_array(path, np.int64), folder / f"column{number}.bin"
    if len(offsets) != size + 1 or offsets[0] != 0 or offsets[-1] != values.stat().st_size:
        raise damaged(path, f"does not span {values.name} with {size} records")
    if not (offsets[1:] > offsets[:-1]).all():
        raise damaged(path, "does not rise at every record")


def name_hash(name: str) -> int:
    """What `name_hashes` has of the name of a source's record."""
    return hash64(name.encode("utf-8", "surrogateescape"))


# ----------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class RecordWriter:
    """Records as a task expands them."""

    task: Task
    kind = "record store"

    @property
    def origins(self) -> dict[str, Any]:
        task = [self.task.fingerprint(), self.task.version, list(self.task.stored)]
        return {"format": "records", "format_version": FORMAT_VERSION, "task": task}

    def write_part(self, tokenizer: Tokenizer, prefix: str, unit: Unit, folder: Path) -> Counted:
        task, counts = self.task, Counter[str]()
        arrays: dict[str, list[int]] = {name: [] for name in ARRAYS}
        offsets: list[list[int]] = [[0] for _ in task.stored]
        with ExitStack() as stack:
            names = [folder / f"column{i}.bin" for i in range(len(task.stored))]
            files = [stack.enter_context(open(name, "wb")) for name in names]
            for name, record in unit.records(task.columns, counts):
                name = f"{prefix}/{name}" if prefix else name
                try:
                    each = task.expand(record)
                    expanded = [w for one in each for w in task.windows(one, tokenizer)]
                    identity = hash64(task.identity(record).encode("utf-8"))
                    extents = [task.extent(one, tokenizer) for one in expanded]
                except LeftOut as reason:
                    counts[str(reason)] += 1
                    continue
                except UserError as error:
                    raise UserError(f"{name}: {error}") from None
                texts = [*task.texts(record)]
                size = sum(len(t.encode("utf-8")) for t in texts), sum(map(len, texts))
                for one, extent in zip(expanded, extents, strict=True):
                    if extent.tokens == 0:
                        counts["empty"] += 1
                        continue
                    for file, column, ends in zip(files, task.stored, offsets, strict=True):
                        value = json.dumps(one.get(column), ensure_ascii=False).encode("utf-8")
                        file.write(value)
                        ends.append(ends[-1] + len(value))
                    arrays["name_hashes"].append(name_hash(name))
                    arrays["identity_hashes"].append(identity)
                    arrays["lengths"].append(extent.tokens)
                    arrays["trained"].append(-1 if extent.trained is None else extent.trained)
                    arrays["first_trained"].append(extent.first)
                    arrays["num_bytes"].append(size[0])
                    arrays["num_chars"].append(size[1])
                    size = 0, 0  # of the source's record, whose texts count once
        for i, ends in enumerate(offsets):
            np.save(folder / f"column{i}.npy", np.array(ends, np.int64))
        for name, dtype in ARRAYS.items():
            np.save(folder / f"{name}.npy", np.array(arrays[name], dtype))
        return len(arrays["lengths"]), counts, None

    def join(
        self, parts: list[Path], notes: list[Any], tokenizer: Tokenizer, folder: Path
    ) -> dict[str, Any]:
        for i in range(len(self.task.stored)):
            ends, base = [np.zeros(1, np.int64)], 0
            with open(folder / f"column{i}.bin", "wb") as values:
                for part in parts:
                    append(part / f"column{i}.bin", values)
                    own = np.load(part / f"column{i}.npy")
                    ends.append(own[1:] + base)
                    base += int(own[-1])
            np.save(folder / f"column{i}.npy", np.concatenate(ends))
        arrays = {n: np.concatenate([np.load(part / f"{n}.npy") for part in parts]) for n in ARRAYS}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        return {
            "columns": list(self.task.stored),
            "records": len(arrays["lengths"]),
            "tokens": int(arrays["lengths"].sum()),
            "bytes": int(arrays["num_bytes"].sum()),
            "chars": int(arrays["num_chars"].sum()),
        }
