"""What word vectors are trained on: subsampling, negatives, Huffman codes and character n-grams."""

from __future__ import annotations

import heapq
import json
from pathlib import Path

import numpy as np
import pytest

from jaxlm.vectors.huffman import huffman
from jaxlm.vectors.sampling import Drawing, keep_probability, strata
from jaxlm.vectors.subwords import subword_table, subwords

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "word_vectors.json").read_text())
COUNTS = np.array([0, 0, 4000, 900, 300, 120, 60, 33, 12, 5])


def chi_square(found: np.ndarray, expected: np.ndarray) -> float:
    """The statistic in standard deviations from its mean, were `expected` true."""
    df = len(expected) - 1
    return float((((found - expected) ** 2 / expected).sum() - df) / np.sqrt(2 * df))


def test_negatives_are_drawn_by_a_power_of_the_counts() -> None:
    draw = Drawing(COUNTS, power=0.75)
    found = np.bincount(draw(np.random.RandomState(0).random_sample((100, 2000))).ravel())
    assert not found[:2].any()
    for power, fits in ((0.75, True), (0.7, False), (1.0, False)):
        weights = COUNTS[2:] ** power
        expected = found.sum() * weights / weights.sum()
        assert (chi_square(found[2:], expected) < 4) == fits


def test_a_row_has_a_number_from_each_part() -> None:
    drawn = strata(np.random.RandomState(0), 5000, 8)
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert (np.floor(drawn * 8) == np.arange(8)).all()
    within = np.histogram(drawn * 8 % 1, bins=20, range=(0, 1))[0]
    assert chi_square(within, np.full(20, drawn.size / 20)) < 4
    # a word that has 3/8 of the distribution is drawn 3 times, not 3 +- 1.4 times
    often = Drawing(np.array([5, 3]), power=1.0)(drawn).sum(axis=1)
    assert (often == 3).all()


def test_the_largest_number_is_below_1() -> None:
    class Largest(np.random.RandomState):
        def random_sample(self, size: object = None) -> np.ndarray:
            return np.full(size, np.nextafter(1, 0))  # type: ignore[call-overload]

    assert strata(Largest(), 1, 80).max() < 1


@pytest.mark.parametrize("words", [1, 3, 500, 200_000])
def test_a_word_is_drawn_where_its_share_of_the_numbers_is(words: int) -> None:
    rng = np.random.RandomState(words)
    counts = np.concatenate([[0, 0], 1 + rng.zipf(1.3, words) % 10**6, [0]])
    draw = Drawing(counts, power=0.75)
    ends = np.cumsum(draw.probabilities)
    ends /= ends[-1]
    numbers = [rng.random_sample(2000), ends, np.nextafter(ends, 0), np.nextafter(ends, 1)]
    uniform = np.concatenate(numbers)
    uniform = uniform[uniform < 1].reshape(1, -1)
    found = draw(uniform)
    assert found.shape == uniform.shape and found.dtype == np.int32
    np.testing.assert_array_equal(found, np.searchsorted(ends, uniform, "right"))


def test_frequent_words_are_kept_by_the_formula_of_word2vec() -> None:
    counts = np.arange(1, 1001)
    share = counts / counts.sum()
    expected = np.minimum(1, (np.sqrt(share / 1e-3) + 1) * 1e-3 / share)
    np.testing.assert_allclose(keep_probability(counts, 1e-3), expected)
    assert (keep_probability(COUNTS, 0) == (COUNTS > 0)).all()
    assert (keep_probability(COUNTS, 1e-3)[:2] == 0).all()


def lengths_by_heap(counts: np.ndarray) -> int:
    """The sum of count times length of a Huffman tree: that of its merged nodes."""
    heap, total = [int(c) for c in counts if c], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_codes_are_those_of_a_shortest_prefix_code(seed: int) -> None:
    rng = np.random.RandomState(seed)
    counts = np.concatenate([[0, 0], rng.zipf(1.3, rng.randint(2, 300)) % 10000 + 1])
    tree = huffman(counts)
    assert (counts * tree.lengths).sum() == lengths_by_heap(counts)
    codes = [tuple(tree.codes[w, :n].tolist()) for w, n in enumerate(tree.lengths) if counts[w]]
    assert len(set(codes)) == len(counts) - 2 and () not in codes
    prefixes = {code[:n] for code in codes for n in range(len(code))}
    assert not prefixes & set(codes)
    # Two words share the nodes of the branches that they share, and no others.
    a, b = rng.randint(2, len(counts), 2)
    shared = 1 + int(np.cumprod(tree.codes[a] == tree.codes[b])[:-1].sum())
    nodes = set(tree.nodes[a, : tree.lengths[a]]) & set(tree.nodes[b, : tree.lengths[b]])
    assert len(nodes) == min(shared, tree.lengths[a], tree.lengths[b])
    assert tree.nodes.max() == len(counts) - 4  # the root, of n - 1 nodes


def test_codes_are_those_of_gensim() -> None:
    """No two sums of these counts are equal, so that the tree is unique up to its branches."""
    found = huffman(np.array(GOLDEN["huffman"]["counts"]))
    assert found.lengths.tolist() == [len(code) for code in GOLDEN["huffman"]["codes"]]
    for w, code in enumerate(GOLDEN["huffman"]["codes"]):
        assert found.codes[w, : len(code)].tolist() == code


@pytest.mark.parametrize("row", GOLDEN["fasttext"]["words"], ids=lambda row: row["word"])
def test_ngrams_have_the_buckets_of_fasttext(row: dict) -> None:
    """Words with and without letters beyond ASCII, whose bytes fastText extends by their sign."""
    own = GOLDEN["fasttext"]
    found = subwords(row["word"], own["minn"], own["maxn"], own["buckets"])
    assert sorted(found) == sorted(row["buckets"])


def test_the_table_of_ngrams_is_padded() -> None:
    table, lengths = subword_table(["", "sea", "names"], 3, 6, 100)
    assert lengths.tolist() == [0, 6, 14] and table.shape == (3, 14)
    assert table[1, :6].tolist() == subwords("sea", 3, 6, 100) and not table[1, 6:].any()
