"""Small corpora and token files that the data tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxlm.data.store.tokens import Documents, TokenFile


@pytest.fixture
def make_documents(tmp_path: Path) -> Callable[..., Documents]:
    """make_documents([[1, 2], [3]], keep=[True, False]) over a file of all tokens."""

    def make(tokens: list[list[int]], keep: list[bool] | None = None) -> Documents:
        path = tmp_path / "tokens.bin"
        np.array([t for document in tokens for t in document], np.uint16).tofile(path)
        lengths = np.array([len(document) for document in tokens], np.int64)
        starts = np.cumsum(lengths) - lengths
        documents = Documents(TokenFile(path, np.uint16), starts, lengths, np.arange(len(tokens)))
        return documents if keep is None else documents.select(np.array(keep))

    return make


@pytest.fixture
def random_texts() -> Callable[..., list[list[int]]]:
    """random_texts(seed, 30, 1, 40): 30 documents of 1 to 40 tokens each."""

    def make(seed: int, count: int, low: int, high: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        sizes = rng.integers(low, high + 1, count)
        return [rng.integers(1, 60_000, size).tolist() for size in sizes]

    return make


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., str]:
    """make_corpus(12) writes 12 text files of different lengths and returns their glob pattern."""

    def make(count: int, name: str = "corpus", words: int = 40) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for i in range(count):
            rng = np.random.default_rng(i)
            text = " ".join(f"w{number}" for number in rng.integers(0, 1000, 5 + words * (i % 4)))
            (folder / f"{i:03d}.txt").write_text(f"Text {i}: né 漢字 {text}\n", encoding="utf-8")
        return f"{folder}/*.txt"

    return make
