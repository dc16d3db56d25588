"""Where spans lie, and that all that is asked for is left out, as far as documents have room."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlm.objectives.spans import Document, documents_of, filled, place_spans, split_at_random


@pytest.mark.parametrize("seed", range(40))
def test_spans_lie_in_bodies_with_a_token_between(seed):
    rng = np.random.RandomState(seed)
    documents, at = [], 0
    for size in rng.randint(0, 30, 6).tolist():
        documents.append(Document(at, at + size + 2, at + 1, at + 1 + size))
        at += size + 2
    lengths = (1 + rng.poisson(seed % 7, 1 + seed)).tolist()
    found = place_spans(rng, lengths, documents)
    placed = [b - a for spans in found for a, b in spans]
    for spans, d in zip(found, documents, strict=True):
        edges = [place for span in spans for place in span]
        assert edges == sorted(edges) and all(d.first <= e <= d.last for e in edges)
        assert all(a[1] < b[0] for a, b in zip(spans[:-1], spans[1:], strict=True))
        assert sum(b - a for a, b in spans) < d.last - d.first or not spans
    assert all(size > 0 for size in placed) and len(placed) <= len(lengths)
    if len(placed) < len(lengths):  # then there is no room for one more token
        for spans, d in zip(found, documents, strict=True):
            assert d.last - d.first - sum(b - a + 1 for a, b in spans) <= 1
    elif max(lengths) < max(d.last - d.first for d in documents) / (1 + len(lengths)):
        assert sum(placed) == sum(lengths)


def test_what_no_document_has_room_for_is_added_to_the_next_span():
    documents = [Document(i, i + 5, i, i + 5) for i in range(0, 50, 5)]
    found = place_spans(np.random.RandomState(0), [9, 1, 1, 1], documents)
    assert sorted(b - a for spans in found for a, b in spans) == [1, 3, 4, 4]
    assert place_spans(np.random.RandomState(0), [3], []) == []
    assert place_spans(np.random.RandomState(0), [3], [Document(0, 3, 1, 2)]) == [[]]


def test_documents_and_their_bodies():
    is_text = np.array([True, False])
    tokens = np.array([1, 0, 1, 0, 1, 1, 1, 0, 1])
    segments = np.array([1, 1, 1, 1, 1, 2, 2, 3, 0])
    assert documents_of(tokens, segments, is_text) == [(0, 5, 1, 4), (5, 7, 5, 5), (7, 8, 7, 8)]


def test_every_way_to_split_is_as_likely():
    rng = np.random.RandomState(0)
    ways = [tuple(split_at_random(rng, 5, 3)) for _ in range(1200)]
    assert set(ways) == {(1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1)}
    assert min(map(ways.count, set(ways))) > 140
    assert split_at_random(rng, 4, 1) == [4] and split_at_random(rng, 0, 0) == []


def test_filled():
    assert filled([np.array([1, 2]), np.array([3])], 5, 9).tolist() == [1, 2, 3, 9, 9]
    with pytest.raises(AssertionError, match="3 of 2"):
        filled([np.array([1, 2, 3])], 2, 0)
