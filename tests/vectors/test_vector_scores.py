"""Analogies and similarities of files are scored as by gensim; an unknown word gets a hint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.vectors import questions as asked
from jaxlm.vectors.files import read_vectors
from jaxlm.vectors.near import edits, near_words
from jaxlm.vectors.pairs import correlation, ranks, score_pairs
from jaxlm.vectors.questions import score_questions
from jaxlm.vectors.table import WordVectors

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vectors"
GOLDEN = json.loads((FIXTURES / "golden.json").read_text())


@pytest.fixture(scope="module")
def table() -> WordVectors:
    return read_vectors(FIXTURES / "word2vec.txt")


def test_neighbours_and_an_analogy_are_those_of_gensim(table: WordVectors) -> None:
    for found, wanted in (
        (table.nearest("city3", 4), GOLDEN["nearest"]),
        (table.analogy("Land4", "city4", "Land5", 4), GOLDEN["analogy"]),
    ):
        assert [w for w, _ in found] == [w for w, _ in wanted]
        np.testing.assert_allclose([c for _, c in found], [c for _, c in wanted], atol=1e-6)


@pytest.mark.parametrize("limit", [300_000, 30])
@pytest.mark.parametrize("columns", [16_384, 7])
def test_questions_are_scored_as_by_gensim(
    limit: int, columns: int, table: WordVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "COLUMNS", columns)
    monkeypatch.setattr(asked, "ROWS", 10)
    score, *sections = GOLDEN[f"questions_{limit}"]
    found = score_questions(table, FIXTURES / "questions.txt", most_words=limit)
    ours = [[s.section, s.correct, s.asked] for s in found]
    assert ours[:-1] == sections[:-1]
    assert ours[-1][1:] == sections[-1][1:] and found[-1].accuracy == pytest.approx(score)
    assert 0 < score < 1 and found[0].unknown == (1 if limit > 60 else found[0].unknown)
    assert found[1].accuracy is None and found[1].unknown == 1


def test_lines_without_a_question_or_a_pair_are_counted(table: WordVectors, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(": x\nland1 city1 land2 city2\nland1 city1 land2\n\na b c d e\n")
    found = score_questions(table, file)
    assert found[-1].asked == 1 and found[-1].skipped == 2 and found[0].skipped == 0
    pairs = ("# a\tb", "land1\tland2\t3", "city1\tcity2\t1", "land1 city1 4", "", "land1\tcity1")
    file.write_text("\n".join(pairs))
    scored = score_pairs(table, file)
    assert (scored.pairs, scored.unknown, scored.skipped) == (2, 0, 2)


@pytest.mark.parametrize("limit", [300_000, 30])
def test_pairs_are_scored_as_by_gensim(limit: int, table: WordVectors) -> None:
    spearman, pearson, unknown = GOLDEN[f"pairs_{limit}"]
    found = score_pairs(table, FIXTURES / "pairs.tsv", most_words=limit)
    assert found.spearman == pytest.approx(spearman, abs=1e-9)
    assert found.pearson == pytest.approx(pearson, abs=1e-6)
    assert 100 * found.unknown_share == pytest.approx(unknown)


def test_equal_values_share_their_ranks() -> None:
    assert ranks(np.array([3.0, 1, 3, 2, 3])).tolist() == [4, 1, 4, 2, 4]
    assert correlation(np.array([1.0, 2, 3]), np.array([2.0, 4, 6])) == pytest.approx(1)


def test_files_that_have_nothing_to_score(table: WordVectors, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("land1 city1 land2 city2\n")
    with pytest.raises(UserError, match="line 1: comes before a section"):
        score_questions(table, file)
    file.write_text(": x\nq w e r\n")
    with pytest.raises(UserError, match="no question has four words"):
        score_questions(table, file)
    with pytest.raises(UserError, match="fewer than two pairs"):
        score_pairs(table, file)


def test_an_unknown_word_is_one_line_that_names_near_words(table: WordVectors) -> None:
    with pytest.raises(UserError, match=r"'citty3' has no vector; did you mean 'city3'") as error:
        table.nearest("citty3")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="name one of the 60 words"):
        table.similarity("city3", "?")
    known = ["queen", "keen", "quen", "quene's", "x" * 200, "Queens"]
    assert near_words("Quenn", known) == ["queen", "quen"]
    assert near_words("zzz", known) == []


def test_edits_are_those_of_a_plain_recursion() -> None:
    def plain(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        same = a[0] == b[0]
        ways = (plain(a[1:], b) + 1, plain(a, b[1:]) + 1, plain(a[1:], b[1:]) + (not same))
        return min(ways)

    for a, b in (("kitten", "sitting"), ("", "abc"), ("abc", "acb"), ("same", "same")):
        assert edits(a, b) == plain(a, b)
