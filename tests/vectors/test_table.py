"""Tables of word vectors: cosines, neighbours and analogies against loops over pairs."""

import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.data.tokenizers.words import WordTokenizer
from jaxlm.vectors.table import WordVectors

WORDS = ["the", "king", "queen", "man", "woman", "sun"]


@pytest.fixture
def vectors() -> WordVectors:
    return WordVectors(WORDS, np.random.RandomState(0).randn(6, 4).astype(np.float32))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / np.sqrt((a * a).sum() * (b * b).sum())


def test_neighbours_are_ordered_by_the_cosine_and_leave_the_word_out(vectors: WordVectors) -> None:
    rows = dict(zip(WORDS, vectors.vectors, strict=True))
    others = [w for w in WORDS if w != "king"]
    expected = sorted(others, key=lambda w: -cosine(rows["king"], rows[w]))
    found = vectors.nearest("king", 3)
    assert [w for w, _ in found] == expected[:3]
    for word, value in found:
        assert value == pytest.approx(cosine(rows["king"], rows[word]), abs=1e-6)
        assert vectors.similarity("king", word) == pytest.approx(value, abs=1e-6)
    assert len(vectors.nearest("king", 100)) == 5
    assert [w for w, _ in vectors.nearest(7 * rows["sun"], 1)] == ["sun"]


def test_an_analogy_sums_unit_vectors(vectors: WordVectors) -> None:
    unit = {w: v / np.sqrt((v * v).sum()) for w, v in zip(WORDS, vectors.vectors, strict=True)}
    target = unit["king"] - unit["man"] + unit["woman"]
    others = ["the", "queen", "sun"]
    expected = max(others, key=lambda w: cosine(target, unit[w]))
    assert vectors.analogy("man", "king", "woman", 1)[0][0] == expected
    assert {w for w, _ in vectors.analogy("man", "king", "woman")} == set(others)


def test_an_unknown_word_is_a_mistake_of_the_user(vectors: WordVectors) -> None:
    assert "moon" not in vectors and "sun" in vectors
    with pytest.raises(UserError, match="'moon' has no vector"):
        vectors.similarity("sun", "moon")


def test_the_words_of_a_tokenizer_are_without_special_ids() -> None:
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    table = WordVectors.of_tokenizer(WordTokenizer(["sun", "moon"]), rows)
    assert table.words == ["sun", "moon"]
    assert (table["moon"] == rows[3]).all() and table.size == 2
