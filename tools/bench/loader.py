"""The loader's tokens/s beside other programs' over the same memory-mapped file of uint16.

    python tools/bench/loader.py                   # with torch installed: its DataLoader too

Rows of 1,024 predicted tokens, 32 in a batch, shuffled; jaxlm's batches have inputs, targets,
weights, documents, positions and the bytes of the targets, the others' inputs and targets alone.
"at every document": documents of about 600 tokens, so that rows have several. One thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from sides import arguments, compare, emit

from jaxlm.data.loader import Loader
from jaxlm.data.rows.order import Shuffled
from jaxlm.data.rows.packing import PackedRows
from jaxlm.data.rows.windows import Windows
from jaxlm.data.store.tokens import Documents, TokenFile
from jaxlm.data.tokenizers.characters import CharacterTokenizer
from jaxlm.objectives.causal_lm import CausalLM

LENGTH, BATCH, VOCAB = 1024, 32, 8192


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    options = arguments(__doc__).parse_args(words)
    tokens = 2 * 10**5 if options.tiny else 2 * 10**8
    batches = 3 if options.tiny else 200
    rounds = 1 if options.tiny else options.rounds
    with tempfile.TemporaryDirectory() as folder:
        path = _token_file(Path(folder) / "tokens.bin", tokens)
        rows = []
        for name, length in (("windows", 40_000), ("windows at every document", 600)):
            documents = _documents(path, tokens, length)
            sides = {
                "jaxlm": _ours(Shuffled(Windows(documents, LENGTH, 0), 0), batches),
                "jaxlm, one row at a time": _by_row(Shuffled(Windows(documents, LENGTH, 0), 0), 3),
                "nanoGPT's get_batch": _sampler(path, batches),
                **_torch(path, batches),
            }
            rows.append(_compared(sides, name, batches, rounds))
        few = _documents(path, min(tokens, 2 * 10**7), 600)  # to pack takes a second a million
        packed = Shuffled(PackedRows.plan(few, LENGTH, 0), 0)
        sides = {"jaxlm": _ours(packed, batches), "jaxlm, one row at a time": _by_row(packed, 3)}
        rows.append(_compared(sides, "packed", batches, rounds))
        rows[0]["seek_ms"] = _seek(Shuffled(Windows(documents, LENGTH, 0), 0))
    print(f"from a new loader to the batch of step 1e12: {rows[0]['seek_ms']:.2f} CPU-ms")
    emit("loader", rows, options.json)
    return rows


def _compared(
    sides: dict[str, Callable[[], object]], name: str, batches: int, rounds: int
) -> dict[str, Any]:
    work = LENGTH * BATCH * batches
    found = compare(sides, name=name, work=work, unit="tokens", rounds=rounds)
    slow = "jaxlm, one row at a time"  # takes 3 batches
    found["cpu_seconds"][slow] *= batches / 3
    found["per_second"][slow] *= 3 / batches
    found["ratio"][slow] *= batches / 3
    return found


def _token_file(path: Path, tokens: int) -> Path:
    rng = np.random.default_rng(0)
    part = rng.integers(0, VOCAB, min(tokens, 10**7), np.uint16)
    with open(path, "wb") as file:
        for _ in range(max(1, tokens // len(part))):
            part.tofile(file)
    return path


def _documents(path: Path, tokens: int, mean: int) -> Documents:
    rng = np.random.default_rng(1)
    lengths = rng.integers(mean // 2, 3 * mean // 2, 2 * tokens // mean + 2)
    lengths = lengths[np.cumsum(lengths) <= tokens]
    starts = np.cumsum(lengths) - lengths
    return Documents(TokenFile(path, np.uint16), starts, lengths, np.arange(len(lengths)))


def _tokenizer() -> CharacterTokenizer:
    return CharacterTokenizer([chr(0x4E00 + i) for i in range(VOCAB)], False)


def _ours(rows: Any, batches: int) -> Callable[[], object]:
    """Another stretch of steps each time, with a thread that reads ahead."""
    loader = Loader(rows, CausalLM().host_transform(_tokenizer(), 0), BATCH, threads=1, prefetch=4)
    starts = iter(range(0, 10**9, batches))

    def draw() -> None:
        for _ in islice(loader.batches(next(starts)), batches):
            pass
        loader.close()

    return draw


def _by_row(rows: Any, batches: int) -> Callable[[], object]:
    """The same batches, each row made alone and stacked."""
    transform = CausalLM().host_transform(_tokenizer(), 0)
    loader = Loader(rows, lambda row, index: transform(row, index), BATCH, prefetch=0)
    return lambda: [None for _ in islice(loader.batches(7), batches)]


def _sampler(path: Path, batches: int) -> Callable[[], object]:
    """As nanoGPT's `get_batch` without the transfer: random places, int64."""
    data = np.memmap(path, np.uint16, "r")
    rng = np.random.default_rng(2)

    def draw() -> None:
        for _ in range(batches):
            places = rng.integers(0, len(data) - LENGTH, BATCH)
            np.stack([data[i : i + LENGTH].astype(np.int64) for i in places])
            np.stack([data[i + 1 : i + 1 + LENGTH].astype(np.int64) for i in places])

    return draw


def _torch(path: Path, batches: int) -> dict[str, Callable[[], object]]:
    """torch's DataLoader over a map-style dataset of the same file; {} without torch."""
    try:
        import torch
        from torch.utils.data import DataLoader, Dataset
    except ImportError:
        return {}
    data = np.memmap(path, np.uint16, "r")

    class Rows(Dataset):
        def __len__(self) -> int:
            return (len(data) - 1) // LENGTH

        def __getitem__(self, index: int) -> Any:
            row = data[index * LENGTH : index * LENGTH + LENGTH + 1].astype(np.int64)
            return torch.from_numpy(row[:-1]), torch.from_numpy(row[1:])

    loader = DataLoader(Rows(), BATCH, shuffle=True)
    stream: list[Iterator[Any]] = [iter(loader)]

    def draw() -> None:
        for _ in range(batches):
            if next(stream[0], None) is None:
                stream[0] = iter(loader)

    return {"torch DataLoader": draw}


def _seek(rows: Any) -> float:
    """CPU-milliseconds to the first batch at a far step; the median of some."""
    transform = CausalLM().host_transform(_tokenizer(), 0)
    taken = []
    for step in range(10**12, 10**12 + 9 * 10**6, 10**6):
        loader = Loader(rows, transform, BATCH, prefetch=0)
        started = time.process_time()
        next(loader.batches(step))
        loader.close()
        taken.append(1e3 * (time.process_time() - started))
    return sorted(taken)[len(taken) // 2]


if __name__ == "__main__":
    main()
