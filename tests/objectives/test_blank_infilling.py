"""Parts A and B, put together again into the text by a plain walk over both."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.objectives.blank_infilling import BlankInfilling
from tests.objectives.test_span_corruption import BOS, EOS, ragged, row_of

MASK, LONG, START, END = 263, 262, 261, 260
OBJECTIVE = BlankInfilling(mask=MASK, long_mask=LONG, start=START, end=END, multiple_of=1)


def blanks(out: dict, number: int) -> tuple[list[int], dict[int, list[int]]]:
    """(part A, {place of a blank: its tokens in the order in which they are written})."""
    inside = np.flatnonzero(out["segment_ids"] == number)
    assert (np.diff(inside) == 1).all()
    assert (out["positions"][inside] == np.arange(len(inside))).all()
    tokens, targets, prefix, weights = (
        out[key][inside].tolist() for key in ("tokens", "targets", "prefix", "loss_weights")
    )
    places = out["places"][inside].tolist()
    size = sum(prefix)
    part_a, spans = tokens[:size], {}
    assert prefix == [True] * size + [False] * (len(inside) - size)
    assert weights == [0.0] * size + [1.0] * (len(inside) - size)
    assert places[:size] == [[i, 0] for i in range(size)]
    for k in range(size, len(inside)):
        place, within = places[k]
        if tokens[k] == START:
            assert within == 1 and place not in spans
            spans[place] = []
        else:
            assert within == len(spans[place]) + 1 and targets[k - 1] == tokens[k]
        ends = k + 1 == len(inside) or tokens[k + 1] == START
        assert (targets[k] == END) == ends
        if not ends:
            spans[place].append(targets[k])
    return part_a, spans


def walk(long_rows: float, length: int, count: int = 60):
    """(row's tokens, segments, parts of each document) of many rows."""
    objective = OBJECTIVE.replace(long_rows=long_rows)
    transform = objective.host_transform(ByteTokenizer(), seed=0)
    for index, row in enumerate(ragged(count, length)):
        out = transform(row, index)
        segments = row["segment_ids"][:-1]
        assert len(out["tokens"]) == objective.length(length)
        for number in range(1, segments.max() + 1):
            text = row["tokens"][:-1][segments == number].tolist()
            yield index, text, *blanks(out, number)


def healed(part_a: list[int], spans: dict[int, list[int]]) -> list[int]:
    return [t for i, token in enumerate(part_a) for t in spans.get(i, [token])]


@pytest.mark.parametrize("length", [32, 509])
def test_short_blanks_give_the_text_back(length):
    noise, whole, sizes, in_order, several = 0, 0, [], 0, 0
    for _, text, part_a, spans in walk(0, length):
        assert healed(part_a, spans) == text
        assert {part_a[i] for i in spans} <= {MASK} and part_a.count(MASK) == len(spans)
        assert not {BOS, EOS} & {t for span in spans.values() for t in span}
        places = sorted(spans)
        assert all(b - a > 1 for a, b in zip(places[:-1], places[1:], strict=True))
        sizes += map(len, spans.values())
        whole += len(text)
        noise += sum(map(len, spans.values()))
        if len(spans) > 1:
            several += 1
            in_order += list(spans) == places
    assert 0.11 < noise / whole <= 0.155
    assert min(sizes) == 1 and 2.2 < np.mean(sizes) < 3.4
    assert 0 < in_order < 0.7 * several


@pytest.mark.parametrize("length", [32, 509])
def test_long_blanks_give_the_text_back(length):
    shares = []
    for index, text, part_a, spans in walk(1, length):
        assert healed(part_a, spans) == text
        body = [i for i, t in enumerate(text) if t < 256]
        if spans:
            ((place, span),) = spans.items()
            assert part_a[-1] == LONG and place == len(part_a) - 1
            seen = sum(t < 256 for t in part_a)
            assert 1 <= seen <= (len(body) + 1) // 2
            shares.append(1 - seen / len(body))
        else:
            assert len(body) < 2 or index % 3 == 0  # more documents than blanks have room for
    assert 0.6 < np.mean(shares) < 0.85


def test_rows_are_of_both_kinds_by_config():
    rng = np.random.default_rng(0)
    transform = OBJECTIVE.replace(long_rows=0.3).host_transform(ByteTokenizer(), seed=0)
    row = row_of(rng, [65], 64)
    found = [transform(row, index)["tokens"] for index in range(400)]
    long = sum(LONG in tokens for tokens in found)
    assert abs(long - 120) < 5 * (400 * 0.3 * 0.7) ** 0.5
    assert all((LONG in tokens) != (MASK in tokens) for tokens in found)


def test_a_row_of_padding():
    out = OBJECTIVE.host_transform(ByteTokenizer(), 0)(row_of(np.random.default_rng(0), [], 32), 0)
    assert not out["loss_weights"].any() and not out["segment_ids"].any()
    assert out["places"].shape == (OBJECTIVE.length(32), 2)
