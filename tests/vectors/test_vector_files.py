"""Files of word vectors: gensim's, our own read again, and files that are broken."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.vectors.binary import write_binary
from jaxlm.vectors.files import READERS, WRITERS, read_vectors, recognised, write_vectors
from jaxlm.vectors.table import WordVectors
from jaxlm.vectors.text import write_text

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vectors"
WORDS = json.loads((FIXTURES / "golden.json").read_text())["words"]


@pytest.fixture(scope="module")
def table() -> WordVectors:
    return read_vectors(FIXTURES / "word2vec.txt")


@pytest.mark.parametrize(
    ("name", "form"),
    [("word2vec.txt", "word2vec"), ("glove.txt", "glove"), ("word2vec.bin", "word2vec-binary")],
)
def test_files_that_gensim_wrote(name: str, form: str, table: WordVectors) -> None:
    assert recognised(FIXTURES / name) == form
    found = read_vectors(FIXTURES / name)
    assert list(found.words) == WORDS
    np.testing.assert_array_equal(found.vectors, table.vectors)
    assert found.vectors.dtype == np.float32 and found.vectors.shape == (60, 8)
    np.testing.assert_array_equal(found.vectors, read_vectors(FIXTURES / name, form).vectors)


@pytest.mark.parametrize("form", WRITERS)
def test_a_file_is_read_back(form: str, table: WordVectors, tmp_path: Path) -> None:
    write_vectors(table, tmp_path / "out", form)
    found = read_vectors(tmp_path / "out", form)
    assert list(found.words) == list(table.words)
    if form == "fasttext":  # 5 digits
        np.testing.assert_allclose(found.vectors, table.vectors, rtol=6e-5)
    else:
        np.testing.assert_array_equal(found.vectors, table.vectors)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("form", WRITERS)
def test_a_written_file_is_compared_with_its_table(form: str, tmp_path: Path) -> None:
    numbers = np.random.RandomState(0).randn(50, 7) * 10.0 ** np.arange(-44, 6).reshape(-1, 1)
    table = WordVectors([f"w{i}" for i in range(50)], numbers.astype(np.float32))
    lines: list[str] = []
    write_vectors(table, tmp_path / "out", form, check=True, report=lines.append)
    (line,) = lines
    said = float(line.split("number is ")[1].split()[0])
    assert "read back" in line and (said > 1e-5 if form == "fasttext" else said == 0)
    # of numbers that are normal in float32, as their text gives them
    rows = [[float(f"{x:.5g}") for x in row] for row in table.vectors[8:].tolist()]
    error = np.abs(np.array(rows, np.float64) / table.vectors[8:] - 1).max()
    assert form != "fasttext" or said == pytest.approx(error, rel=0.05)


def _with(table: WordVectors, **changes: object) -> WordVectors:
    return dataclasses.replace(table, **changes)  # type: ignore[arg-type]


DAMAGED = {
    "8 digits": ("glove", lambda t, f: write_text(t, f, has_header=False, digits=8), "differ"),
    "4 digits": (
        "fasttext",
        lambda t, f: write_text(t, f, has_header=True, digits=4, end=" "),
        "the bound for fasttext is 5e-05",
    ),
    "other words": (
        "word2vec",
        lambda t, f: write_text(_with(t, words=t.words[::-1]), f, has_header=True),
        "not the run's 60 words",
    ),
    "fewer words": (
        "word2vec-binary",
        lambda t, f: write_binary(_with(t, words=t.words[:9], vectors=t.vectors[:9]), f),
        "gives 9 words of 8 dimensions",
    ),
    "float16": (
        "word2vec-binary",
        lambda t, f: write_binary(_with(t, vectors=t.vectors.astype(np.float16)), f),
        "differ from the run's",
    ),
    "cut": ("word2vec", lambda t, f: f.write(b"60 8\na 1 2 3 4 5 6 7 8\n"), "cannot be read back"),
    "not finite": (
        "glove",
        lambda t, f: write_text(_with(t, vectors=t.vectors * np.nan), f, has_header=False),
        "cannot be read back: line 1: has a number that is not finite",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_file_that_is_not_the_table_is_not_kept(
    damage: str, table: WordVectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, writer, message = DAMAGED[damage]
    monkeypatch.setitem(WRITERS, form, writer)
    with pytest.raises(UserError, match=message) as error:
        write_vectors(table, tmp_path / "out", form, check=True, report=lambda line: None)
    line = str(error.value)
    assert line.startswith(f"{tmp_path / 'out'}: ") and "nothing was kept" in line
    assert "\n" not in line and ".tmp" not in line
    assert list(tmp_path.iterdir()) == []
    write_vectors(table, tmp_path / "out", form)  # --no-check
    assert (tmp_path / "out").exists()


@pytest.mark.parametrize("form", WRITERS)
def test_a_name_that_ends_in_gz_gives_a_compressed_file(
    form: str, table: WordVectors, tmp_path: Path
) -> None:
    write_vectors(table, tmp_path / "out.gz", form, check=True, report=lambda line: None)
    write_vectors(table, tmp_path / "out", form)
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()) == (tmp_path / "out").read_bytes()


def test_the_forms_of_lines(tmp_path: Path) -> None:
    table = WordVectors(["a", "b"], np.array([[0.5, -1], [1 / 3, 2]], np.float32))
    expected = {
        "glove": b"a 0.5 -1\nb 0.333333343 2\n",
        "word2vec": b"2 2\na 0.5 -1\nb 0.333333343 2\n",
        "fasttext": b"2 2\na 0.5 -1 \nb 0.33333 2 \n",
        "word2vec-binary": b"2 2\na " + np.array([0.5, -1], "<f4").tobytes() + b"\nb "
        + np.array([1 / 3, 2], "<f4").tobytes() + b"\n",
    }  # fmt: skip
    assert expected.keys() == WRITERS.keys() == READERS.keys()
    for form, content in expected.items():
        write_vectors(table, tmp_path / form, form)
        assert (tmp_path / form).read_bytes() == content


def test_binary_without_line_breaks_and_compressed_files(
    table: WordVectors, tmp_path: Path
) -> None:
    rows = b"".join(
        w.encode() + b" " + v.astype("<f4").tobytes()
        for w, v in zip(table.words, table.vectors, strict=True)
    )
    (tmp_path / "joined.bin").write_bytes(b"60 8\n" + rows)
    np.testing.assert_array_equal(read_vectors(tmp_path / "joined.bin").vectors, table.vectors)
    for name in ("glove.txt", "word2vec.txt", "word2vec.bin"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((FIXTURES / name).read_bytes()))
        found = read_vectors(tmp_path / f"{name}.gz")
        np.testing.assert_array_equal(found.vectors, table.vectors)


def test_words_with_spaces_and_words_that_come_again(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(". . . 1 2\nat name@example.org 3 4\nb 5 6\nb 7 8\n\u2028 9 10\n")
    lines: list[str] = []
    found = read_vectors(file, "glove", report=lines.append)
    assert list(found.words) == [". . .", "at name@example.org", "b", "\u2028"]
    np.testing.assert_array_equal(found["b"], [5, 6])
    assert len(lines) == 1 and "1 words come again" in lines[0]
    with pytest.raises(UserError, match="is not one word"):
        write_vectors(found, tmp_path / "out", "word2vec")
    assert not (tmp_path / "out").exists()


def test_a_matrix_of_numpy_with_its_words(table: WordVectors, tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", table.vectors)
    (tmp_path / "words.txt").write_text("\n".join(table.words) + "\n")
    found = read_vectors(tmp_path / "m.npy", words=tmp_path / "words.txt")
    assert list(found.words) == list(table.words)
    np.testing.assert_array_equal(found.vectors, table.vectors)
    with pytest.raises(UserError, match="--words FILE"):
        read_vectors(tmp_path / "m.npy")
    (tmp_path / "words.txt").write_text("one\n")
    with pytest.raises(UserError, match="has 1 words"):
        read_vectors(tmp_path / "m.npy", words=tmp_path / "words.txt")


BROKEN = {
    "too few numbers": (b"a 1 2\nb 1\n", "line 2: has 1 numbers, and the lines before have 2"),
    "too many numbers": (b"a 1 2\nb 1 2\nc 1 2 3\n", "line 3: has 3 numbers"),
    "no number": (b"a 1 2\nb 1 x\n", "line 2: 'x' is not a number"),
    "not finite": (b"a 1 2\nb 1 nan\n", "line 2: has a number that is not finite"),
    "not utf-8": (b"a 1 2\n\xff 1 2\n", "line 2: the word .* is not UTF-8"),
    "empty line": (b"2 2\na 1 2\n\nb 1 2\n", "line 3: has 0 numbers"),
    "cut": (b"3 2\na 1 2\nb 1 2\n", "ends after 2 words, and line 1 says 3"),
    "longer": (b"1 2\na 1 2\nb 1 2\n", "line 3: has another word"),
    "huge": (b"9999999 300\na 1 2\nb 1 2\n", "line 1: says 9,999,999 words"),
    "nothing": (b"", "does not begin as a file of word vectors"),
    "a text": (b"To be or not\nto be\n", "line 1: 'To be or not' is not a word and its numbers"),
    "binary cut": (b"2 2\na " + bytes(8) + b"\nb \x00\x00", "line 1: says|word 2 of 2"),
    "binary not finite": (b"1 1\na " + np.array([np.inf], "<f4").tobytes(), "'a' .*not finite"),
    "binary rest": (b"1 2\na " + bytes(8) + b"\nb " + bytes(8), "11 bytes follow the 1 words"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_error_with_its_line(name: str, tmp_path: Path) -> None:
    content, message = BROKEN[name]
    file = tmp_path / "broken"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_vectors(file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


@pytest.mark.parametrize("form", READERS)
def test_an_empty_file_of_any_format_is_one_error(form: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match="empty: line 1"):
        read_vectors(tmp_path / "empty", form)


@pytest.mark.parametrize("name", ["glove.txt", "word2vec.txt", "word2vec.bin"])
@pytest.mark.parametrize("damage", ["cut", "plain", "flip"])
def test_a_damaged_compressed_file_is_one_error(name: str, damage: str, tmp_path: Path) -> None:
    whole = (FIXTURES / name).read_bytes()
    packed = bytearray(gzip.compress(whole))
    packed[len(packed) // 2] ^= 255
    content = {"cut": gzip.compress(whole)[:-200], "plain": whole, "flip": bytes(packed)}[damage]
    file = tmp_path / f"{name}.gz"
    file.write_bytes(content)
    for form in (None, recognised(FIXTURES / name)):
        with pytest.raises(UserError, match=r"\.gz: ") as error:
            read_vectors(file, form)
        assert "\n" not in str(error.value)


def test_a_file_is_written_with_its_folder(table: WordVectors, tmp_path: Path) -> None:
    write_vectors(table, tmp_path / "a" / "b" / "out.txt", "glove")
    assert list(read_vectors(tmp_path / "a" / "b" / "out.txt").words) == WORDS


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        read_vectors(tmp_path / "none.txt")
