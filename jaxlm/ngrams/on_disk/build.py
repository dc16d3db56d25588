"""A build: from a text to a binary file (`jaxlm.ngrams.binary`), by way of a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from jaxlm.core.config import UserError, type_name
from jaxlm.core.files import disk_errors
from jaxlm.ngrams.binary import write_parts
from jaxlm.ngrams.counting import MAX_ORDER
from jaxlm.ngrams.on_disk.counting import count_on_disk, planned
from jaxlm.ngrams.on_disk.estimating import Estimate
from jaxlm.ngrams.on_disk.text import Text
from jaxlm.ngrams.on_disk.work import Work
from jaxlm.ngrams.smoothing.base import Smoothing

BYTES = 100  # of memory for each place of a part; measured
LEAST = 1 << 10  # places of a part
MEMORY = 400_000_000


def build(
    text: Text,
    path: str | Path,
    *,
    folder: str | Path,
    order: int,
    vocab_size: int,
    bos: int,
    words: Sequence[str],
    smoothing: Smoothing,
    never: Sequence[int] = (),
    memory: int = MEMORY,
    bits: int = 32,
    process: int = 0,
    processes: int = 1,
    patience: float = 3600.0,
    on_unit: Callable[[str], None] = lambda name: None,
) -> None:
    """Writes the model of a text to `path`; counts and probabilities are files of `folder`, which
    the processes share, until the model is written.

    memory: bytes that a process may use for its arrays; a pair of tokens with a larger share of the
    text, and 200 bytes for each token of the vocabulary, are on top. bits: 8 quantises.
    The same call continues a build that was killed. Raises `UserError` for a folder of another one.
    """
    if not 1 <= order <= MAX_ORDER:
        raise UserError(f"order: {order} is not from 1 to {MAX_ORDER}")
    if not len(text) or text.read(0, 1)[0] != bos:
        raise UserError(f"tokens: an n-gram model needs bos ({bos}) before each sentence")
    with disk_errors(folder):
        work = Work(
            folder, process=process, processes=processes, patience=patience, on_unit=on_unit
        )
        most = max(LEAST, memory // BYTES)
        _check_same(
            work,
            text=text.fingerprint,
            smoothing=[type_name(type(smoothing)), *asdict(smoothing).items()],
            words=hashlib.sha256("\n".join(words).encode()).hexdigest(),
            numbers=[order, vocab_size, bos, *never, most, bits],
        )
        if work.has("finished") and Path(path).exists():
            return
        plan = planned(text, order=order, vocab_size=vocab_size, bos=bos, most=most)
        sizes = count_on_disk(text, plan, work)
        estimate = Estimate(plan, sizes, work, smoothing, list(never))
        estimate.run()
        if process == 0:
            values = estimate.values()
            write_parts(path, values, words, vocab_size=vocab_size, bos=bos, bits=bits)
            work.write("finished", {})
        work.stage(["finished"], lambda i: {})


def _check_same(work: Work, **identity: object) -> None:
    """The folder is new or has the same build; an interrupted one is known by its identity."""
    found = np.frombuffer(json.dumps(identity, default=str).encode(), np.uint8)
    work.stage(["build"], lambda i: {"identity": found})
    if not np.array_equal(work.load("build", "identity"), found):
        raise UserError(f"{work.folder}: has another build; remove it or name another folder")
