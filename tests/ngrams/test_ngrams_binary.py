"""The binary file of an n-gram model: what is read is what was written, and damage is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.ngrams.binary import MAGIC, quantised, read_binary, write_binary
from jaxlm.ngrams.counting import count, stream
from jaxlm.ngrams.smoothing.kneser_ney import KneserNey

V, BOS, EOS = 40, 0, 1
WORDS = [f"w{i}" for i in range(V)]


def text(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = [np.minimum(rng.zipf(1.5, rng.integers(1, 20)) + 1, V - 1) for _ in range(200)]
    return stream([np.append(each, EOS) for each in drawn], BOS)


@pytest.fixture(scope="module")
def model():
    return KneserNey().estimate(count(text(0), order=4, vocab_size=V, bos=BOS))


def test_values_come_back_and_are_mapped(model, tmp_path: Path) -> None:
    write_binary(model, WORDS, tmp_path / "m")
    found, words = read_binary(tmp_path / "m", verify=True)
    assert words == WORDS and (found.order, found.bos, found.vocab_size) == (4, BOS, V)
    tokens = text(1)
    want, orders = model.matched(tokens)
    own, used = found.matched(tokens)
    np.testing.assert_array_equal(used, orders)
    np.testing.assert_allclose(own, want, rtol=1e-6)
    context = np.array([BOS, 5, 2])
    np.testing.assert_allclose(found.next_log_probs(context), model.next_log_probs(context), 1e-6)
    assert isinstance(found.levels[3].key.base, np.memmap)


def test_quantised_values_take_a_byte_and_are_close(model, tmp_path: Path) -> None:
    write_binary(model, WORDS, tmp_path / "m", bits=8)
    write_binary(model, WORDS, tmp_path / "f")
    found, _ = read_binary(tmp_path / "m", verify=True)
    tokens = text(1)
    inside = tokens != BOS
    own, want = found.log_probs(tokens)[inside], model.log_probs(tokens)[inside]
    assert 0 < np.abs(own - want).max() < 0.3 and np.abs(own.mean() - want.mean()) < 0.01
    assert np.isneginf(found.levels[0].log_prob[BOS])
    values = np.random.default_rng(0).normal(size=5000)
    values[:3] = [0, -np.inf, 0]
    places, book = quantised(values)
    assert places.dtype == np.uint8 and len(book) == 256
    assert book[places][:3].tolist() == [0, -np.inf, 0]
    for part in np.array_split(np.sort(values[3:]), 20):  # error within a bin is the bin's width
        bins = book[places[np.isin(values, part)]]
        assert abs(bins.mean() - part.mean()) < 0.01
    few = np.array([-1.0, -2.0, -1.0])
    places, book = quantised(few)
    np.testing.assert_array_equal(book[places], few)


def test_a_file_that_is_not_whole_is_one_error(model, tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_binary(model, WORDS, path)
    data = path.read_bytes()
    for size in (0, 10, 20, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match=f"{path}: (damaged|not a binary file of n-grams)"):
            read_binary(path)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 60).tolist():
        changed = bytearray(data)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        if padding(data, place):
            continue
        with pytest.raises(UserError, match=f"{path}: (damaged|not a binary file)"):
            read_binary(path, verify=True)
    with pytest.raises(UserError, match="bits: 16 is neither"):
        write_binary(model, WORDS, path, bits=16)


def padding(data: bytes, place: int) -> bool:
    """A byte between two parts, which nothing reads."""
    import json

    size = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 8], "little")
    end = len(MAGIC) + 8 + size
    head = json.loads(data[len(MAGIC) + 8 : end - 8])
    start = end + -end % 64
    spans = [(0, end)]
    for part in head["parts"].values():
        begin = start + part["place"]
        spans.append((begin, begin + part["length"] * np.dtype(part["dtype"]).itemsize))
    return not any(begin <= place < stop for begin, stop in spans)
