"""Windows and lanes against a reconstruction with Python lists."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from jaxlm.data.rows.order import InOrder, Shuffled, shuffled_index
from jaxlm.data.rows.windows import Lanes, Windows

PAD = 7


def expected_rows(texts: list[list[int]], seq_len: int) -> list[dict]:
    """Concatenate, then cut: each token with its document and its place there."""
    flat = [(t, d, p) for d, text in enumerate(texts) for p, t in enumerate(text)]
    rows = []
    for start in range(0, len(flat) - 1, seq_len):
        window = flat[start : start + seq_len + 1]
        numbers = {d: n for n, d in enumerate(dict.fromkeys(d for _, d, _ in window), start=1)}
        missing = seq_len + 1 - len(window)
        rows.append(
            {
                "tokens": [t for t, _, _ in window] + [PAD] * missing,
                "segment_ids": [numbers[d] for _, d, _ in window] + [0] * missing,
                "positions": [p for _, _, p in window] + [0] * missing,
                "id": len(rows),
            }
        )
    return rows


def as_lists(row: dict) -> dict:
    return {key: np.asarray(value).tolist() for key, value in row.items()}


@pytest.mark.parametrize(
    ("seq_len", "sizes"),
    [
        *((length, (1, 30)) for length in (1, 3, 8, 50, 400)),  # documents shorter and longer
        *((length, (1, 3)) for length in (1, 3, 400)),
        (8, (60, 90)),
        (50, (60, 90)),
        (400, (300, 500)),
    ],
)
@pytest.mark.parametrize("drop", [False, True])
def test_windows_equal_the_cut_concatenation(
    make_documents, random_texts, seq_len, sizes, drop
) -> None:
    texts = random_texts(0, 23, *sizes)
    keep = [i % 3 != 1 for i in range(len(texts))] if drop else None
    windows = Windows(make_documents(texts, keep), seq_len, PAD)
    chosen = [t for i, t in enumerate(texts) if keep is None or keep[i]]
    expected = expected_rows(chosen, seq_len)
    assert len(windows) == len(expected)
    for i, row in enumerate(expected):
        assert as_lists(windows[i]) == row
        for key in ("tokens", "segment_ids", "positions"):
            assert windows[i][key].dtype == np.int32 and windows[i][key].shape == (seq_len + 1,)
        assert windows[i]["id"].dtype == np.int64


@pytest.mark.parametrize("total", [9, 10, 11])
def test_every_token_but_the_first_is_a_target_once(make_documents, total) -> None:
    """Also where the windows end exactly with the text."""
    windows = Windows(make_documents([list(range(100, 100 + total))]), 5, PAD)
    targets = [
        t
        for i in range(len(windows))
        for t, s in zip(
            windows[i]["tokens"][1:].tolist(), windows[i]["segment_ids"][1:].tolist(), strict=True
        )
        if s
    ]
    assert targets == list(range(101, 100 + total))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("seed", [0, 5])
def test_an_epoch_is_a_permutation(length, seed) -> None:
    epochs = [
        [shuffled_index(epoch * length + i, length, seed) for i in range(length)]
        for epoch in range(3)
    ]
    for epoch in epochs:
        assert sorted(epoch) == list(range(length))
    if length > 7:
        assert epochs[0] != epochs[1] != epochs[2]
        assert epochs[0] != list(range(length))
        assert epochs[1] != [shuffled_index(i, length, seed + 1) for i in range(length)]


@pytest.mark.parametrize("length", [2, 5, 20])
def test_permutations_are_uniform(length) -> None:
    """Chi-square of (place, row) pairs over many epochs: mean d, standard deviation sqrt(2 d)."""
    epochs = 1500
    table = np.zeros((length, length))
    for i in range(epochs * length):
        table[i % length, shuffled_index(i, length, 1)] += 1
    expected = epochs / length
    chi2, freedom = ((table - expected) ** 2 / expected).sum(), (length - 1) ** 2
    assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)


def test_the_order_of_a_seed_never_changes() -> None:
    """A run that is resumed by a later version must find these very rows."""
    assert [shuffled_index(i, 10, 0) for i in range(10)] == [3, 5, 0, 6, 1, 7, 9, 8, 2, 4]
    assert shuffled_index(10**12, 10**9, 3) == 980_540_166


def test_shuffled_rows_are_a_function_of_seed_and_index(make_documents, random_texts) -> None:
    windows = Windows(make_documents(random_texts(1, 20, 5, 30)), 16, PAD)
    one, other = Shuffled(windows, 0), Shuffled(windows, 0)
    n = one.rows_per_epoch
    assert n == len(windows)
    ids = [int(one[i]["id"]) for i in range(2 * n)]
    assert sorted(ids[:n]) == sorted(ids[n:]) == list(range(n)) and ids[:n] != ids[n:]
    assert [int(other[i]["id"]) for i in reversed(range(2 * n))] == ids[::-1]
    assert [int(InOrder(windows)[i]["id"]) for i in range(2 * n)] == [*range(n), *range(n)]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7])
def test_lanes_read_on_from_batch_to_batch(make_documents, random_texts, batch_size) -> None:
    texts = random_texts(2, 17, 1, 60)
    seq_len = 9
    windows = Windows(make_documents(texts), seq_len, PAD)
    lanes = Lanes(windows, batch_size)
    flat = [t for text in texts for t in text]
    begins = np.cumsum([0, *(len(text) for text in texts)])
    n, lane = len(windows), -(-len(windows) // batch_size)
    assert lanes.rows_per_epoch == lane * batch_size
    seen = []
    for epoch in range(2):
        for b in range(batch_size):
            rows = [
                lanes[(epoch * lane + t) * batch_size + b] for t in range(lane) if b * lane + t < n
            ]
            seen += [int(row["id"]) for row in rows]
            if not rows:
                continue
            start = b * lane * seq_len
            real = [(r["segment_ids"] > 0)[:seq_len] for r in rows]
            inputs = np.concatenate(
                [r["tokens"][:seq_len][m] for r, m in zip(rows, real, strict=True)]
            )
            places = np.concatenate(
                [r["positions"][:seq_len][m] for r, m in zip(rows, real, strict=True)]
            )
            assert inputs.tolist() == flat[start : start + len(inputs)]
            for k, position in enumerate(places.tolist()):
                document = begins[np.searchsorted(begins, start + k, "right") - 1]
                assert position == start + k - max(document, start)
            assert places[0] == 0
    assert sorted(seen) == sorted([*range(n), *range(n)])


def test_lanes_past_the_end_are_padding(make_documents) -> None:
    windows = Windows(make_documents([list(range(1, 22))]), 4, PAD)  # five windows
    lanes = Lanes(windows, 3)
    padding = lanes[5]  # batch 1, lane 2: window 5
    assert padding["segment_ids"].sum() == 0 and (padding["tokens"] == PAD).all()
    ids = [int(lanes[i]["id"]) for i in range(lanes.rows_per_epoch)]
    assert sorted(ids) == list(range(6))  # the padding row has an id of its own, past the last


def test_pickled_windows_read_the_same_without_carrying_the_text(
    make_documents, random_texts
) -> None:
    windows = Windows(make_documents(random_texts(3, 200, 50, 80)), 16, PAD)
    assert as_lists(windows[3]) == as_lists(pickle.loads(pickle.dumps(windows))[3])
    tokens = windows.documents.tokens
    assert len(pickle.dumps(tokens)) < 1000 < len(tokens)
