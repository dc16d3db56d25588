"""Co-occurrences are those of a plain count of pairs, in whatever pieces they are counted."""

from __future__ import annotations

import os
import resource
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from jaxlm.core import config as configs
from jaxlm.core.config import UserError
from jaxlm.data.cooccurrences import Cooccurrences
from jaxlm.data.inspect import inspect
from jaxlm.data.store import cooccurrences as counted
from jaxlm.data.tokenizers.words import Words

Counts = dict[tuple[str, str], float]
TEXTS = [
    "a b c a b d rare a c , b",
    "b a a a d d c",
    "c",
    "a b c d " * 40 + "unique d a",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, text in enumerate(TEXTS):
        (tmp_path / f"{i}.txt").write_text(text)
    return tmp_path


def data_of(folder: Path, **settings: object) -> Cooccurrences:
    values = {"source": {"type": "text", "files": str(folder / "*.txt")}, **settings}
    return configs.parse(Cooccurrences, {"validation_fraction": 0, "row_cells": 7, **values})


def cells(data: Cooccurrences, cache: Path, *splits: str, workers: int = 0) -> Counts:
    """{(word, context): count} of all rows."""
    prepared = data.prepare(Words(min_count=2), cache, workers=workers, report=lambda _: None)
    names, found = prepared.tokenizer.name_of, {}
    for split in splits or ("train",):
        rows = prepared.rows(split, batch_size=1, seed=3)
        for i in range(rows.rows_per_epoch):
            row = rows[i]
            real = row["segment_ids"] > 0
            assert (row["counts"][real] > 0).all() and not row["counts"][~real].any()
            values = (row[name][real].tolist() for name in ("rows", "columns", "counts"))
            for a, b, x in zip(*values, strict=True):
                key = names(a), names(b)
                assert key not in found, "each cell is in one row"
                found[key] = x
    return found


def plain_count(window: int, symmetric: bool) -> Counts:
    """Pair by pair, as GloVe's cooccur.c has it: words of the vocabulary alone, 1 / distance."""
    found: Counts = defaultdict(float)
    for text in TEXTS:
        words = [w for w in text.split() if w not in ("rare", "unique", ",")]
        for i, word in enumerate(words):
            for j in range(max(0, i - window), i):
                found[words[j], word] += 1 / (i - j)
                if symmetric:
                    found[word, words[j]] += 1 / (i - j)
    return found


@pytest.mark.parametrize(("window", "symmetric"), [(15, True), (3, True), (4, False)])
def test_cells_are_those_of_a_plain_count(
    window: int, symmetric: bool, folder: Path, tmp_path: Path
) -> None:
    found = cells(data_of(folder, window=window, symmetric=symmetric), tmp_path / "cache")
    wanted = plain_count(window, symmetric)
    assert found.keys() == wanted.keys() and len(found) > 14
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=2e-7), key


def test_no_cut_of_the_work_changes_a_byte(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(folder, window=5, validation_fraction=0.3)

    def files(cache: Path) -> dict[str, bytes]:
        (store,) = (p for p in (cache / "cooccurrences").iterdir() if p.is_dir())
        return {p.name: p.read_bytes() for p in store.glob("*.bin")}

    both = cells(data, tmp_path / "one", "train", "validation")
    assert both == cells(data_of(folder, window=5), tmp_path / "whole")
    wanted = files(tmp_path / "one")
    assert len(wanted) == 6 and all(wanted.values())
    for part, block, budget in ((16, 16, 2**24), (64, 5, 2**24), (7, 7, 8), (2**20, 2**18, 4)):
        monkeypatch.setattr(counted, "PART_TOKENS", part)
        monkeypatch.setattr(counted, "BLOCK_TOKENS", block)
        monkeypatch.setattr(counted, "BUDGET", budget)
        cache = tmp_path / f"{part}-{block}-{budget}"
        cells(data, cache, "train")
        assert files(cache) == wanted, (part, block, budget)


def test_the_order_is_shuffled_and_held_out_cells_are_in_pairs(
    folder: Path, tmp_path: Path
) -> None:
    data = data_of(folder, window=5, validation_fraction=0.3)
    out = cells(data, tmp_path / "cache", "validation")
    assert 0 < len(out) < 16 and all((b, a) in out for a, b in out)
    prepared = data.prepare(Words(min_count=2), tmp_path / "cache", report=lambda _: None)
    assert prepared.splits["train"].counts["cells"] + len(out) == len(
        cells(data_of(folder, window=5), tmp_path / "cache")
    )
    order = list(prepared.splits["train"].rows[0]["rows"])
    assert order != sorted(order)


def test_a_count_that_was_killed_continues(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted, "PART_TOKENS", 32)
    data, whole = data_of(folder, window=5), counted._count_part
    wanted = cells(data, tmp_path / "one")
    jobs: list[str] = []

    def killed(job: tuple) -> None:
        jobs.append(job[-1].name)
        if len(jobs) == 4:
            raise KeyboardInterrupt
        whole(job)

    monkeypatch.setattr(counted, "_count_part", killed)
    with pytest.raises(KeyboardInterrupt):
        cells(data, tmp_path / "two")
    first = jobs[:3]
    assert cells(data, tmp_path / "two") == wanted
    assert not set(first) & set(jobs[4:]) and len(jobs) > 5, "finished parts are not counted again"
    assert not list((tmp_path / "two" / "cooccurrences").glob("*.partial"))


def test_few_files_are_open_at_a_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus has more parts, and more cells, than a process may open files."""
    data = data_of(folder, window=5)
    wanted = cells(data, tmp_path / "one")
    monkeypatch.setattr(counted, "PART_TOKENS", 5)
    monkeypatch.setattr(counted, "BUDGET", 32)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        assert cells(data, tmp_path / "two") == wanted
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_hash_has_its_key() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 10_000, np.uint64)
    keys[:3] = 0, 1, 2**64 - 1
    assert (counted.unmixed(counted.mixed(keys, 0)) == keys).all()


def test_processes_count_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(folder, window=5)
    wanted = cells(data, tmp_path / "one")
    monkeypatch.setattr(counted, "PART_TOKENS", 128)
    assert cells(data, tmp_path / "two", workers=2) == wanted


def test_rows_are_shown_by_their_words(folder: Path, tmp_path: Path) -> None:
    data = data_of(folder, window=5)
    prepared = data.prepare(Words(min_count=2), tmp_path / "cache", report=lambda _: None)
    first, row, *shown = inspect(prepared, rows=1).splitlines()
    assert first == "train: 16 cells, 3 rows" and row.endswith("7 cells, 0 padding")
    wanted = cells(data, tmp_path / "cache")
    for line in shown:
        pair, _, count = line.strip().rpartition(": ")
        a, b = pair.split()
        assert float(count) == pytest.approx(wanted[a, b], rel=1e-3)
    assert len(shown) == 7


def test_a_validation_split_without_cells_is_left_out(folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    data = data_of(folder, window=5, validation_fraction=1e-9)
    prepared = data.prepare(Words(min_count=2), tmp_path / "cache", report=lines.append)
    assert list(prepared.splits) == ["train"] and "no cell is held out" in lines[-1]


def test_text_without_pairs_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("a")
    with pytest.raises(UserError, match="no word has another one near it"):
        cells(data_of(tmp_path), tmp_path / "cache")
