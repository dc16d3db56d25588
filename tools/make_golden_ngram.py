"""Writes tests/fixtures/ngrams/*.arpa.gz: n-gram models of a small text, by KenLM's lmplz.

    python tools/make_golden_ngram.py BUILD               (a folder; lmplz is built in it once)
    python tools/make_golden_ngram.py BUILD --compare TEXT --order 5

It needs cmake, a C++ compiler, and Debian's libboost-program-options-dev, libboost-thread-dev,
libboost-system-dev, libboost-test-dev and zlib1g-dev. `--compare` estimates a model of a file of
sentences by both programs, and prints the largest difference and the seconds of each.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import sys
import tarfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

from jaxlm.ngrams.arpa import read_arpa
from jaxlm.ngrams.counting import count, stream
from jaxlm.ngrams.model import NgramModel
from jaxlm.ngrams.smoothing.kneser_ney import KneserNey
from tests.ngrams.golden_text import FIXTURES, GOLDEN, sentences

VERSION = "0.3.0"


def lmplz_in(folder: Path) -> Path:
    """lmplz, from the sdist of the package kenlm."""
    program = folder / "build" / "bin" / "lmplz"
    if program.exists():
        return program
    folder.mkdir(parents=True, exist_ok=True)
    download = ["download", "--no-deps", "--no-binary", "kenlm", f"kenlm=={VERSION}"]
    subprocess.run([sys.executable, "-m", "pip", *download], cwd=folder, check=True)
    with tarfile.open(folder / f"kenlm-{VERSION}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    build = folder / "build"
    build.mkdir(exist_ok=True)
    options = ["-DKENLM_MAX_ORDER=10", "-DCMAKE_BUILD_TYPE=Release"]
    subprocess.run(["cmake", f"../kenlm-{VERSION}", *options], cwd=build, check=True)
    subprocess.run(["make", "lmplz"], cwd=build, check=True)
    return program


def arpa_of(lmplz: Path, text: bytes, order: int, prune: tuple[int, ...]) -> tuple[bytes, float]:
    """(the ARPA file of a text, the seconds it took)"""
    command = [str(lmplz), "-o", str(order), "--discount_fallback", "-S", "20%"]
    if prune:
        command += ["--prune", *map(str, prune)]
    begin = time.perf_counter()
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, check=True)
    return done.stdout, time.perf_counter() - begin


def compare(lmplz: Path, text: Path, order: int) -> None:
    theirs, seconds = arpa_of(lmplz, text.read_bytes(), order, ())
    path = lmplz.parent / "compared.arpa"
    path.write_bytes(theirs)
    want, words = read_arpa(path)
    ids = {word: i for i, word in enumerate(words)}
    lines = [line.split() for line in text.read_text(encoding="utf-8").splitlines()]
    tokens = stream([np.array([*(ids[w] for w in line), ids["</s>"]]) for line in lines], want.bos)
    begin = time.perf_counter()
    counts = count(tokens, order=order, vocab_size=len(words), bos=want.bos)
    found = KneserNey().estimate(counts)
    print(f"lmplz {seconds:.2f} s, jaxlm {time.perf_counter() - begin:.2f} s")
    for n, difference in enumerate(differences(found, want), start=1):
        print(f"order {n}: {len(want.levels[n - 1])} n-grams, largest difference {difference:.1e}")


def differences(found: NgramModel, want: NgramModel) -> list[float]:
    """The largest difference of a logarithm (base 10) in each order."""
    worst = []
    for own, other in zip(found.levels, want.levels, strict=True):
        assert np.array_equal(own.key, other.key), "other n-grams"
        both = np.isfinite(own.log_prob)
        assert np.array_equal(both, np.isfinite(other.log_prob))
        probs = np.abs(own.log_prob[both] - other.log_prob[both]).max()
        worst.append(max(probs, np.abs(own.backoff - other.backoff).max()) / np.log(10))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path)
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--order", type=int, default=5)
    given = parser.parse_args()
    lmplz = lmplz_in(given.build)
    if given.compare:
        compare(lmplz, given.compare, given.order)
        return
    FIXTURES.mkdir(parents=True, exist_ok=True)
    text = "".join(" ".join(words) + "\n" for words in sentences()).encode()
    for name, (order, prune) in GOLDEN.items():
        arpa, _ = arpa_of(lmplz, text, order, prune)
        (FIXTURES / f"{name}.arpa.gz").write_bytes(gzip.compress(arpa, mtime=0))


if __name__ == "__main__":
    main()
