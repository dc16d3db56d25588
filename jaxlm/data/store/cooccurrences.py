"""How often words occur near each other: counted out of core, and stored as shuffled cells.

    store = count_cooccurrences(documents, sha256, vocab_size=V, left_out=[0, 1], window=15, ...)
    store.cells("train")                  # rows, columns int32, counts float32

Two words d words apart in a document, d <= window, add 1 / d to their cell. Sums are whole numbers
of 1 / lcm(1, ..., window): they are exact, so no order and no number of processes changes a cell.

    <key>.partial/counted/     the cells of a stretch of tokens in the order of a hash of each,
                               written by one process; a killed count finds those that are finished
    <key>/                     the cells of all stretches in that order, which is their shuffle

At most about `BUDGET` cells are in memory at a time, and one file of a stretch is open, whatever
the corpus: the hashes of all stretches are merged a range after the other.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.files import disk_errors, fsync_folder
from jaxlm.data.reading.fetch import locked
from jaxlm.data.store.manifest import check_files, read_manifest, seal
from jaxlm.data.store.prepared import Report
from jaxlm.data.store.processes import Progress, run_in_processes
from jaxlm.data.store.tokens import Documents, TokenFile

FORMAT_VERSION = 1
MAX_WINDOW = 20  # lcm(1, ..., 20) * 4e10 pairs fit 64 bits
PART_TOKENS = 2**20  # that a part counts
BLOCK_TOKENS = 2**18  # whose pairs are sorted together
BUDGET = 2**24  # cells in memory: about 0.5 GB
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # SplitMix's factors
COLUMNS = {"rows": np.int32, "columns": np.int32, "counts": np.float32}
CELL = 16  # bytes of one in a part's file: all hashes uint64, which have both ids; all sums int64


@dataclass(frozen=True, kw_only=True)
class Counting:
    """What is counted. left_out: ids without a word; they are removed before distances are."""

    vocab_size: int
    left_out: tuple[int, ...]
    window: int
    symmetric: bool
    held_out: float  # share of the cells for validation
    salt: int

    def facts(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION, **vars(self), "left_out": list(self.left_out)}


@dataclass(frozen=True)
class CooccurrenceStore:
    """The cells of a corpus, in a shuffled order that is the same everywhere."""

    folder: Path
    manifest: dict[str, Any]

    def cells(self, split: str) -> dict[str, TokenFile]:
        """{"rows": ..., "columns": ..., "counts": ...} of a split, memory-mapped."""
        return {n: TokenFile(self.folder / f"{split}_{n}.bin", t) for n, t in COLUMNS.items()}


def count_cooccurrences(
    documents: Documents,
    tokens_sha256: str,
    counting: Counting,
    cache_dir: Path,
    *,
    workers: int = 0,
    report: Report = print,
) -> CooccurrenceStore:
    """The cells of some documents: found where they were counted before, else counted.

    tokens_sha256: of the documents' content. workers: processes that count; 0: this one.
    """
    facts = {**counting.facts(), "tokens": tokens_sha256}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    root = Path(cache_dir) / "cooccurrences"
    final, partial = root / key, root / f"{key}.partial"
    with disk_errors(root), locked(final):
        if not final.exists():
            _write(documents, counting, facts, partial, workers, report)
            os.rename(partial / "store", final)
            fsync_folder(root)
            report(f"co-occurrences written: {final}")
        shutil.rmtree(partial, ignore_errors=True)
    names = [f"train_{name}.bin" for name in COLUMNS]
    manifest = read_manifest(final, FORMAT_VERSION, names)
    check_files(final, manifest)
    return CooccurrenceStore(final, manifest)


def _write(
    documents: Documents,
    counting: Counting,
    facts: dict[str, Any],
    folder: Path,
    workers: int,
    report: Report,
) -> None:
    parts, store = folder / "counted", folder / "store"
    parts.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    jobs = [
        (documents, counting, begin, end, parts / f"{begin}-{end}.bin")
        for begin in range(0, documents.num_tokens, PART_TOKENS)
        for end in [min(begin + PART_TOKENS, documents.num_tokens)]
    ]
    todo = [job for job in jobs if not job[-1].exists()]
    done = f", {len(jobs) - len(todo)} of them done before" if len(todo) < len(jobs) else ""
    report(f"counting co-occurrences in {len(jobs)} parts{done}")
    progress = Progress("counting co-occurrences", len(todo), report)
    if workers and len(todo) > 1:
        run_in_processes(_count_part, todo, workers, progress)
    else:
        for job in todo:
            _count_part(job)
            progress.add()
    counts = _join([path for *_, path in jobs], counting, store, report)
    if not counts["train"]:
        raise UserError(
            "data: no word has another one near it; add text, or lower tokenizer.min_count"
        )
    seal(store, {**facts, "cells": counts})


# ------------------------------------------------------------------------------------------- parts


def _count_part(job: tuple[Documents, Counting, int, int, Path]) -> None:
    """Writes the cells of the tokens begin .. end in the order of their hashes, whole or not."""
    documents, counting, begin, end, path = job
    keys, sums = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    for block in range(begin, end, BLOCK_TOKENS):
        words, document, known = _words(documents, counting, block, min(block + BLOCK_TOKENS, end))
        found = _pairs(words, document, known, counting)
        keys, sums = _added(np.concatenate([keys, found[0]]), np.concatenate([sums, found[1]]))
    hashes, sums = _directed(keys, sums, counting)
    order = np.argsort(hashes)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        hashes[order].tofile(file)
        sums[order].tofile(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _words(
    documents: Documents, counting: Counting, begin: int, end: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """(words, the document of each, how many of them come before) of the tokens begin .. end of
    all documents laid end to end: without what is left out, after up to a window of words before.
    """
    offsets = documents.offsets
    first = int(np.searchsorted(offsets, begin, "right")) - 1
    last = int(np.searchsorted(offsets, end, "left"))
    words, owners, known = [], [], 0
    for i in range(first, last):
        low, high = (max(begin - offsets[i], 0), min(end, offsets[i + 1]) - offsets[i])
        text = documents.document(i)
        if low:
            before = _before(text, int(low), counting)
            words.append(before)
            owners.append(np.full(len(before), i))
            known = len(before)
        kept = _kept(text[low:high], counting)
        words.append(kept)
        owners.append(np.full(len(kept), i))
    return np.concatenate(words).astype(np.uint64), np.concatenate(owners), known


def _before(text: np.ndarray, end: int, counting: Counting) -> np.ndarray:
    """The last words, at most a window of them, of a document's first `end` tokens."""
    reach = counting.window
    while True:
        kept = _kept(text[max(0, end - reach) : end], counting)
        if len(kept) >= counting.window or reach >= end:
            return kept[-counting.window :]
        reach *= 4


def _kept(tokens: np.ndarray, counting: Counting) -> np.ndarray:
    return tokens[~np.isin(tokens, counting.left_out)]


def _pairs(
    words: np.ndarray, document: np.ndarray, known: int, counting: Counting
) -> tuple[np.ndarray, np.ndarray]:
    """(keys, sums) of the pairs whose later word is not among the first `known`.

    The key of a symmetric cell is that of its smaller id first.
    """
    size, window = np.uint64(counting.vocab_size), counting.window
    found = []
    for distance in range(1, min(window, len(words) - 1) + 1):
        near = document[:-distance] == document[distance:]
        near[: max(known - distance, 0)] = False
        left, right = words[:-distance][near], words[distance:][near]
        if counting.symmetric:
            left, right = np.minimum(left, right), np.maximum(left, right)
        found.append(((left * size + right) << np.uint64(5)) | np.uint64(distance))
    if not found:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    pairs = np.concatenate(found)
    pairs.sort()
    whole = math.lcm(*range(1, window + 1))
    shares = np.array([0, *(whole // d for d in range(1, window + 1))], np.int64)
    return _summed(pairs >> np.uint64(5), shares[(pairs & np.uint64(31)).astype(np.int64)])


def _added(keys: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cells in order, with the sums of equal keys added."""
    order = np.argsort(keys, kind="stable")
    return _summed(keys[order], sums[order])


def _summed(keys: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct keys, sums of each) of sorted keys."""
    if not len(keys):
        return keys, sums
    new = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    return keys[new], np.add.reduceat(sums, new)


def _directed(
    keys: np.ndarray, sums: np.ndarray, counting: Counting
) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, sums) of the cells; a symmetric one is (a, b) and (b, a)."""
    size = np.uint64(counting.vocab_size)
    if counting.symmetric:
        a, b = np.divmod(keys, size)
        other = a != b
        sums = np.where(other, sums, 2 * sums)  # each of the two words sees the other
        keys = np.concatenate([keys, b[other] * size + a[other]])
        sums = np.concatenate([sums, sums[other]])
    return mixed(keys, 0), sums


# ------------------------------------------------------------------------------------------- merge


def _join(
    parts: Sequence[Path], counting: Counting, folder: Path, report: Report
) -> dict[str, int]:
    """Writes the cells of all parts in the order of their hashes; {split: number of cells}."""
    counts = {"train": 0, "validation": 0} if counting.held_out else {"train": 0}
    size = np.uint64(counting.vocab_size)
    unit = np.float64(math.lcm(*range(1, counting.window + 1)))
    bounds = _bounds(parts)
    progress = Progress("merging co-occurrences", len(bounds) + 1, report)
    with ExitStack() as stack:
        files = {
            (split, name): stack.enter_context(open(folder / f"{split}_{name}.bin", "wb"))
            for split in counts
            for name in COLUMNS
        }
        for hashes, sums in _merged(parts, bounds):
            row, column = np.divmod(unmixed(hashes), size)
            out = _held_out(row, column, counting)
            for split in counts:
                mine = out if split == "validation" else ~out
                values = {"rows": row, "columns": column, "counts": sums / unit}
                for name, dtype in COLUMNS.items():
                    values[name][mine].astype(dtype).tofile(files[split, name])
                counts[split] += int(mine.sum())
            progress.add()
    return counts


def _bounds(parts: Sequence[Path]) -> np.ndarray:
    """[R - 1] uint64: where ranges of hashes begin that have about BUDGET / 4 cells of all parts.
    Hashes are spread evenly.
    """
    total = sum(path.stat().st_size // CELL for path in parts)
    ranges = -(-total // max(1, BUDGET // 4))
    return np.array([(i << 64) // ranges for i in range(1, ranges)], np.uint64)


def _merged(parts: Sequence[Path], bounds: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(hashes, sums) of the cells of all parts, a range of hashes after the other."""
    cuts = [_cuts(path, bounds) for path in parts]
    for k in range(len(bounds) + 1):
        pieces = [_cells(path, cut, k) for path, cut in zip(parts, cuts, strict=True)]
        hashes, sums = (np.concatenate(column) for column in zip(*pieces, strict=True))
        yield _added(hashes, sums)


def _cells(path: Path, cut: list[int], k: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, sums) of a part in range k."""
    begin, count, length = cut[k], cut[k + 1] - cut[k], cut[-1]
    with open(path, "rb") as file:
        file.seek(begin * 8)
        hashes = np.fromfile(file, np.uint64, count)
        file.seek((length + begin) * 8)
        return hashes, np.fromfile(file, np.int64, count)


def _cuts(path: Path, bounds: np.ndarray) -> list[int]:
    """The places of a part's file at which each range begins, and its end."""
    length = path.stat().st_size // CELL
    if not len(bounds) or not length:
        return [0] * (len(bounds) + 1) + [length]
    hashes = np.memmap(path, np.uint64, "r", shape=(length,))
    return [0, *np.searchsorted(hashes, bounds).tolist(), length]


def mixed(keys: np.ndarray, salt: int) -> np.ndarray:
    """[n] uint64, one to one: SplitMix's finaliser of key and salt."""
    x = keys + np.uint64(salt * 0x9E3779B97F4A7C15 & (2**64 - 1))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
    return x ^ (x >> np.uint64(31))


def unmixed(hashes: np.ndarray) -> np.ndarray:
    """[n] uint64: the keys whose hashes with salt 0 these are."""
    x = _unshifted(hashes, 31) * np.uint64(pow(SECOND, -1, 2**64))
    x = _unshifted(x, 27) * np.uint64(pow(FIRST, -1, 2**64))
    return _unshifted(x, 30)


def _unshifted(x: np.ndarray, bits: int) -> np.ndarray:
    """y, where x = y ^ (y >> bits), for bits from 22 on."""
    return x ^ (x >> np.uint64(bits)) ^ (x >> np.uint64(2 * bits))


def _held_out(row: np.ndarray, column: np.ndarray, counting: Counting) -> np.ndarray:
    """Whether each cell is of the validation split; (a, b) and (b, a) are on one side."""
    if not counting.held_out:
        return np.zeros(len(row), bool)
    key = np.minimum(row, column) * np.uint64(counting.vocab_size) + np.maximum(row, column)
    return mixed(key, counting.salt + 1) < np.uint64(int(counting.held_out * 2**64))
