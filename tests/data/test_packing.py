"""Packing: nothing dropped, nothing short cut, and close to the best there is."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from jaxlm.data.inspect import segments
from jaxlm.data.rows.packing import PackedRows, best_fit_decreasing, cut

PAD = 0


def all_segments(packed: PackedRows) -> list[tuple[int, ...]]:
    return [tuple(s["tokens"]) for i in range(len(packed)) for s in segments(packed[i])]


@pytest.mark.parametrize("seq_len", [7, 16, 100])
@pytest.mark.parametrize("drop", [False, True])
def test_short_documents_are_whole_and_all_there(
    make_documents, random_texts, seq_len, drop
) -> None:
    texts = random_texts(0, 200, 1, seq_len + 1)
    keep = [i % 4 != 2 for i in range(len(texts))]
    packed = PackedRows.plan(make_documents(texts, keep if drop else None), seq_len, PAD)
    expected = [tuple(t) for t, k in zip(texts, keep, strict=True) if k or not drop]
    assert Counter(all_segments(packed)) == Counter(expected)


def test_long_documents_are_cut_so_that_every_token_is_predicted_once(
    make_documents, random_texts
) -> None:
    texts = random_texts(1, 40, 1, 90)
    seq_len = 12
    packed = PackedRows.plan(make_documents(texts), seq_len, PAD)
    predicted = Counter(
        pair for s in all_segments(packed) for pair in zip(s[:-1], s[1:], strict=True)
    )
    assert predicted == Counter(p for t in texts for p in zip(t[:-1], t[1:], strict=True))
    alone = Counter(s for s in all_segments(packed) if len(s) == 1)
    assert alone == Counter(tuple(t) for t in texts if len(t) == 1)


def test_rows_are_well_formed(make_documents, random_texts) -> None:
    packed = PackedRows.plan(make_documents(random_texts(2, 150, 1, 40)), 20, PAD)
    padding = 0
    for i in range(len(packed)):
        row = packed[i]
        assert row["id"] == i and all(
            row[k].shape == (21,) and row[k].dtype == np.int32
            for k in ("tokens", "segment_ids", "positions")
        )
        ids = row["segment_ids"]
        filled = int((ids > 0).sum())
        assert (ids[filled:] == 0).all() and (row["tokens"][filled:] == PAD).all()
        assert (np.diff(ids[:filled]) >= 0).all()
        assert set(ids[:filled].tolist()) == set(range(1, ids.max() + 1))
        for segment in range(1, ids.max() + 1):  # each begins at 0: nothing before it is seen
            places = row["positions"][ids == segment]
            assert places.tolist() == list(range(len(places)))
        padding += 21 - filled
    assert packed.padding == pytest.approx(padding / (21 * len(packed)))


def slow_best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    rows: list[list[int]] = []
    for piece in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        room = [capacity - sum(lengths[p] for p in row) for row in rows]
        fitting = [r for r in range(len(rows)) if room[r] >= lengths[piece]]
        if fitting:
            least = min(room[r] for r in fitting)
            choice = [r for r in fitting if room[r] == least]
            rows[choice[0]].append(piece)
        else:
            rows.append([piece])
    return rows


@pytest.mark.parametrize("capacity", [5, 30, 64, 200])
def test_best_fit_equals_the_search_over_all_rows(capacity) -> None:
    """Up to which of equally full rows takes a piece: the rows' fillings are the same."""
    lengths = np.random.default_rng(capacity).integers(1, capacity + 1, 300)
    fast = best_fit_decreasing(lengths, capacity)
    slow = slow_best_fit(lengths.tolist(), capacity)
    filling = [sorted(int(lengths[row].sum()) for row in rows) for rows in (fast, slow)]
    assert filling[0] == filling[1]
    assert sorted(p for row in fast for p in row) == list(range(300))


def test_cut_overlaps_by_one() -> None:
    starts, lengths = cut(np.array([0, 100]), np.array([11, 3]), seq_len=5)
    assert list(zip(starts.tolist(), lengths.tolist(), strict=True)) == [(0, 6), (5, 6), (100, 3)]
    starts, lengths = cut(np.array([0]), np.array([12]), seq_len=5)
    assert list(zip(starts.tolist(), lengths.tolist(), strict=True)) == [(0, 6), (5, 6), (10, 2)]
    assert cut(np.array([4]), np.array([1]), seq_len=5)[1].tolist() == [1]


def test_blocks_are_packed_one_after_the_other(make_documents, random_texts, monkeypatch) -> None:
    monkeypatch.setattr("jaxlm.data.rows.packing.BLOCK", 16)
    texts = random_texts(3, 50, 1, 9)
    packed = PackedRows.plan(make_documents(texts), 8, PAD)
    assert Counter(all_segments(packed)) == Counter(tuple(t) for t in texts)
