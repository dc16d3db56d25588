"""What a run tells of itself in files that its weights do not need: ledger, samples, times, result.

    records = Records(run, index=0, keep_ledger=True)
    records.take_back(step=100, last=False)      # what a killed process told of later steps
    with records.ledger():
        records.write_ids(101, ids)

A full disk costs lines of these, never the run: each file that cannot be written is told once.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxlm.files import reason_of, write_atomic, write_sealed
from jaxlm.train.run_dir import RESULT, RunDir, truncate_jsonl
from jaxlm.train.stopwatch import Stopwatch

log = logging.getLogger("jaxlm")


class Records:
    """The files of one process of a run; all but the ledger are those of process 0."""

    def __init__(self, run: RunDir, index: int, *, keep_ledger: bool) -> None:
        self._run, self._index, self._keep_ledger = run, index, keep_ledger
        self._ledger: IO[str] | None = None
        self._unwritten: set[Path] = set()  # files that could not be written, each told once

    @contextmanager
    def ledger(self) -> Iterator[None]:
        """A block in which each process writes the ids of its own rows."""
        path = self._ledger_path if self._keep_ledger else Path(os.devnull)
        # the buffer keeps what a full disk does not take, till it does
        with path.open("a", buffering=2**20) as self._ledger:
            yield

    def write_ids(self, step: int, ids: np.ndarray) -> None:
        if not self._keep_ledger:
            return
        assert self._ledger is not None
        with self._file(self._ledger_path):
            self._ledger.write(json.dumps({"step": step, "ids": ids.tolist()}) + "\n")
            self._ledger.flush()

    def write_samples(self, step: int, pairs: list[tuple[str, str]]) -> None:
        """(prompt, text) of each sample at a step."""
        samples = [{"prompt": prompt, "text": text} for prompt, text in pairs]
        record = {"step": step, "time": time.time(), "samples": samples}
        path = self._run.samples
        with self._file(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def write_times(self, watch: Stopwatch) -> None:
        with self._file(self._run.path / "timing.json"):
            watch.save(self._run.path)

    def write_result(self, result: dict[str, Any]) -> None:
        """Written last: the run has ended."""
        with self._file(self._run.path / RESULT) as path:
            write_sealed(path, result)

    def write_report(self) -> bool:
        """Whether it was written."""
        from jaxlm.report import write_report

        written = False
        with self._file(self._run.report):
            write_report(self._run.path)
            written = True
        return written

    def take_back(self, step: int, *, last: bool) -> None:
        """Removes what a killed process told of steps that are about to be run again.

        `last`: no step is left, so it was killed in what follows the last one.
        """
        for ledger in self._run.path.glob("ledger*.jsonl"):  # there may be fewer processes now
            truncate_jsonl(ledger, step)
        (self._run.path / RESULT).unlink(missing_ok=True)
        truncate_jsonl(self._run.samples, step - last)
        if last and self._run.metrics.exists():
            lines = self._run.metrics.read_bytes().splitlines(keepends=True)
            mark = f'"step": {step},'.encode()
            measured = (b'"eval/', b'"final/')
            kept = [x for x in lines if not (mark in x and any(name in x for name in measured))]
            write_atomic(self._run.metrics, b"".join(kept))

    @property
    def _ledger_path(self) -> Path:
        path = self._run.ledger
        return path.with_suffix(f".{self._index}.jsonl") if self._index else path

    @contextmanager
    def _file(self, path: Path) -> Iterator[Path]:
        """A block that writes a file: a full disk is told, once."""
        try:
            yield path
        except OSError as error:
            if path not in self._unwritten:
                self._unwritten.add(path)
                log.warning("%s: not written, %s; the run continues", path, reason_of(error))
