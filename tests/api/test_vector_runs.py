"""A file of word vectors becomes a run, answers the verbs, and is written again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import jaxlm
from jaxlm import cli
from jaxlm.vectors.files import read_vectors

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vectors"
GOLDEN = json.loads((FIXTURES / "golden.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vectors") / "run"
    assert cli.main(["import", "vectors", str(FIXTURES / "word2vec.bin"), "--out", str(out)]) == 0
    return out


def answered(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    capsys.readouterr()
    assert cli.main([str(word) for word in words]) == code
    found = capsys.readouterr()
    return found.out if code == 0 else found.err


def test_an_imported_run_has_the_vectors(run: Path) -> None:
    table, found = read_vectors(FIXTURES / "word2vec.txt"), jaxlm.load(run).vectors
    assert list(found.words) == list(table.words)
    np.testing.assert_array_equal(found.vectors, table.vectors)


def test_words_with_spaces_are_left_out_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("a 1 2\n. . . 3 4\nB 5 6\n")
    assert cli.main(["import", "vectors", f"{tmp_path}/a.txt", "--out", f"{tmp_path}/run"]) == 0
    found = capsys.readouterr()
    assert "2 words, 2 dimensions" in found.out and "left out" in found.err
    table = jaxlm.load(tmp_path / "run").vectors
    assert list(table.words) == ["a", "B"]
    np.testing.assert_array_equal(table["B"], [5, 6])


@pytest.mark.parametrize("form", ["glove", "word2vec-binary"])
def test_a_run_is_written_as_a_file(
    form: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["export", "vectors", str(run), "--out", str(out), "--format", form]) == 0
    found = capsys.readouterr()
    assert "60 words, 8 dimensions" in found.out
    assert "read back: the largest relative error of a number is 0.0e+00" in found.err
    np.testing.assert_array_equal(
        read_vectors(out, form).vectors, read_vectors(FIXTURES / "glove.txt").vectors
    )
    error = answered(capsys, "export", "vectors", run, "--out", out, code=2)
    assert "exists already" in error


def test_the_verbs_answer_for_a_run_and_for_a_file(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (run, FIXTURES / "glove.txt"):
        near = json.loads(answered(capsys, "neighbours", place, "city3", "--top", 4, "--json"))
        assert [row["word"] for row in near] == [word for word, _ in GOLDEN["nearest"]]
        best = answered(capsys, "analogy", place, "Land4", "city4", "Land5", "--top", 1)
        word, cosine = GOLDEN["analogy"][0]
        assert best == f"{cosine:.4f}  {word}\n"
    score = GOLDEN["questions_300000"]
    place = FIXTURES / "word2vec.txt"
    scored = answered(capsys, "analogy", place, "--questions", FIXTURES / "questions.txt", "--json")
    assert json.loads(scored)[-1]["accuracy"] == pytest.approx(score[0])
    text = answered(capsys, "analogy", place, "--questions", FIXTURES / "questions.txt")
    assert f"{score[0]:.2%}  all: {score[-1][1]} of {score[-1][2]}" in text
    spearman = GOLDEN["pairs_300000"][0]
    text = answered(capsys, "similarity", place, "--pairs", FIXTURES / "pairs.tsv")
    assert text.startswith(f"Spearman {spearman:.4f}") and "22 pairs, 1 left out" in text
    assert answered(capsys, "similarity", place, "city3", "city3") == "1.0000\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["neighbours", "citty3"], "did you mean 'city3'"),
        (["analogy", "city1", "city2"], "needs three words, and 2 are given"),
        (["similarity", "city1"], "needs two words, and 1 are given"),
        (["analogy", "a", "--questions", "x"], "leave out A B C"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *rest = words
    error = answered(capsys, verb, FIXTURES / "glove.txt", *rest, code=2)
    assert message in error and len(error.strip().splitlines()) == 1


def test_a_wrong_path_may_be_a_run_or_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = answered(capsys, "neighbours", tmp_path / "none", "a", code=2)
    assert "none: there is no such run or file" in error


def test_info_of_an_imported_run_and_a_run_without_vectors(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "word2vec.bin: word vectors, float32" in answered(capsys, "info", run)
    error = answered(capsys, "eval", run, code=2)
    assert len(error.strip().splitlines()) == 1
