"""Models that are built on disk in parts are those that are built in memory, to the last bit."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.ngrams.binary import read_binary
from jaxlm.ngrams.counting import count
from jaxlm.ngrams.on_disk import ArrayText, StoredText, build
from jaxlm.ngrams.smoothing.additive import Additive
from jaxlm.ngrams.smoothing.jelinek_mercer import JelinekMercer
from jaxlm.ngrams.smoothing.kneser_ney import KneserNey
from jaxlm.ngrams.smoothing.witten_bell import WittenBell

V, BOS, EOS = 5000, 3, 1  # of 13 bits: five tokens do not fit into one word
ROOT = Path(__file__).parents[2]
WORDS = [f"w{i}" for i in range(V)]


def stream(length: int = 6000) -> np.ndarray:
    rng = np.random.default_rng(0)
    tokens = np.minimum(rng.zipf(1.4, length) + 3, V - 1)
    tokens[rng.random(length) < 0.1] = EOS
    begins = np.flatnonzero(tokens[:-1] == EOS) + 1
    return np.insert(tokens, [0, *begins], BOS)


KNESER_NEY = KneserNey()


def built(tmp: Path, smoothing: Any = KNESER_NEY, order: int = 5, **options: Any) -> Path:
    path = tmp / "model.ngrams"
    given = {"folder": tmp / "work", "order": order, "memory": 200_000} | options
    build(
        ArrayText(stream()), path, vocab_size=V, bos=BOS, words=WORDS, smoothing=smoothing,
        never=(0,), **given,
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("order", "smoothing"),
    [
        (5, KneserNey()),
        (5, KneserNey(prune=(0, 0, 1))),
        (3, WittenBell(prune=(0, 1))),
        (4, JelinekMercer()),
        (2, Additive(delta=0.1)),
        (1, KneserNey()),
    ],
    ids=str,
)
def test_parts_give_the_model_of_the_whole(order: int, smoothing: Any, tmp_path: Path) -> None:
    counts = count(stream(), order=order, vocab_size=V, bos=BOS, never=(0,))
    want = smoothing.estimate(counts)
    found, words = read_binary(built(tmp_path, smoothing, order), verify=True)
    assert words == WORDS and found.bos == BOS
    assert order == 1 or len(list((tmp_path / "work").glob(f"prob.{order}.*"))) > 2
    for own, other in zip(found.levels, want.levels, strict=True):
        np.testing.assert_array_equal(own.key, other.key)
        np.testing.assert_array_equal(own.log_prob, other.log_prob.astype(np.float32))
        np.testing.assert_array_equal(own.backoff, other.backoff.astype(np.float32))


def test_two_processes_and_a_killed_build_write_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    want = built(tmp_path / "one").read_bytes()
    (tmp_path / "two").mkdir()
    program = (
        "import sys; from pathlib import Path; from tests.ngrams.test_ngrams_on_disk import built; "
        "built(Path(sys.argv[1]), processes=2, process=int(sys.argv[2]), patience=60.0)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "two")]
    others = [subprocess.Popen([*command, str(i)], cwd=ROOT) for i in range(2)]
    assert [each.wait(120) for each in others] == [0, 0]
    assert (tmp_path / "two" / "model.ngrams").read_bytes() == want

    (tmp_path / "cut").mkdir()
    path, kills = None, 0
    while path is None:
        left = iter(range(9))  # units until the next kill

        def die(name: str, left: Any = left) -> None:
            if next(left, None) is None:
                raise Killed

        work = tmp_path / "cut" / "work"
        before = len(list(work.glob("*.npz")))
        try:
            path = built(tmp_path / "cut", on_unit=die)
        except Killed:
            kills += 1
            assert len(list(work.glob("*.npz"))) > before
            (work / f".used.2.0.{kills}.tmp").write_bytes(b"torn")  # a kill while it writes
    assert kills > 2 and path.read_bytes() == want


class Killed(Exception):
    """The build was stopped."""


def test_a_process_alone_says_whom_it_waits_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did not come from another process; start all 2"):
        built(tmp_path, processes=2, process=0, patience=0.2)
    with pytest.raises(UserError, match="process 2 is not one of 2; number them from 0"):
        built(tmp_path, processes=2, process=2)


def test_another_build_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    built(tmp_path)
    with pytest.raises(UserError, match="work: has another build; remove it or name another"):
        built(tmp_path, WittenBell())
    (tmp_path / "model.ngrams").unlink()
    file = tmp_path / "work" / "grams.1.npz"
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    (tmp_path / "work" / "prob.5.1.npz").unlink()
    with pytest.raises(UserError, match=r"grams.1.npz: damaged; remove the folder"):
        built(tmp_path)


def test_documents_are_read_as_one_stream(tmp_path: Path) -> None:
    tokens = stream(500)
    parts = [p for p in np.split(tokens, np.flatnonzero(tokens == BOS)) if len(p)]
    stored = [p[i % 2 :] for i, p in enumerate(parts)]  # every second one has no bos
    gap = np.array([7, 7, 7])  # of another split
    np.concatenate([np.append(s, gap) for s in stored]).astype(np.uint16).tofile(tmp_path / "t")
    lengths = np.array([len(s) for s in stored])
    starts = np.cumsum(lengths + 3) - lengths - 3
    text = StoredText(tmp_path / "t", np.uint16, starts, lengths, bos=BOS, fingerprint="x")
    assert len(text) == len(tokens)
    np.testing.assert_array_equal(text.read(0, len(tokens)), tokens)
    for begin in range(0, len(tokens), 7):
        for end in (begin + 1, begin + 2, begin + 216):
            np.testing.assert_array_equal(text.read(begin, end), tokens[begin:end])
    assert len(text.read(len(tokens), len(tokens) + 5)) == 0


@pytest.mark.parametrize("first", [BOS, 7])
def test_a_document_of_the_whole_text_is_read_in_pieces(tmp_path: Path, first: int) -> None:
    tokens = np.arange(1_000_000) % 90 + 5
    tokens[0] = first
    tokens.astype(np.uint16).tofile(tmp_path / "t")
    whole = np.array([0]), np.array([len(tokens)])
    text = StoredText(tmp_path / "t", np.uint16, *whole, bos=BOS, fingerprint="x")
    missing = int(first != BOS)
    tracemalloc.start()
    found = text.read(500_000, 501_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, tokens[500_000 - missing : 501_000 - missing])
    assert peak < 100_000  # 8 bytes for each id that is asked for, not for each of the document
