"""The files of a run that its weights do not need: ledger, samples, times, result.

    records = Records(run, index=0, keep_ledger=True)
    records.take_back(step=100, last=False)      # what a killed process wrote later
    with records.ledger():
        records.write_ids(101, ids)

A full disk costs lines of these, never the run: each file that cannot be written is reported once.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxlm.core.files import reason_of
from jaxlm.core.measures import Measure
from jaxlm.runs.files import write_ends, write_own
from jaxlm.runs.folder import RunDir
from jaxlm.runs.lines import Seals, cut_lines, truncate_jsonl
from jaxlm.runs.measures import Displays, merged, read_displays
from jaxlm.runs.stopwatch import Stopwatch

log = logging.getLogger("jaxlm")


class Records:
    """The files of one process of a run; all but the ledger are those of process 0."""

    def __init__(self, run: RunDir, index: int, *, keep_ledger: bool) -> None:
        self._run, self._index, self._keep_ledger = run, index, keep_ledger
        self.run_id = ""  # set as soon as it is known
        self._ledger: IO[str] | None = None
        self._seals: dict[Path, Seals] = {}
        self._displays: Displays | None = None  # those of measures.json, once they are read
        self._described: set[str] = set()  # keys whose display this process has compared
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
            line = json.dumps({"step": step, "ids": ids.tolist()})
            self._ledger.write(self._sealed(self._ledger_path, line))
            self._ledger.flush()

    def write_displays(self, measures: Iterable[Measure]) -> None:
        """Writes how these measures are shown, where measures.json does not say so yet."""
        measures = [measure for measure in measures if measure.name not in self._described]
        if not measures:  # as after almost every step
            return
        self._described |= {measure.name for measure in measures}
        if self._displays is None:
            self._displays = read_displays(self._run)
        found = merged(self._displays, measures)
        if found != self._displays:
            with self._file(self._run.measures) as path:
                write_own(path, found, self.run_id)
            self._displays = found

    def write_samples(self, step: int, samples: Sequence[Any]) -> None:
        """The samples of a step, `jaxlm.evals.samples.Sample` each; without what they lack."""
        plain = [{n: v for n, v in s._asdict().items() if v is not None} for s in samples]
        record = {"step": step, "time": time.time(), "samples": plain}
        path = self._run.samples
        with self._file(path), path.open("a", encoding="utf-8") as file:
            file.write(self._sealed(path, json.dumps(record, ensure_ascii=False)))

    def write_times(self, watch: Stopwatch) -> None:
        """The account of the time, and which lines the other files have by now."""
        with self._file(self._run.timing):
            watch.save(self._run.path, self.run_id)
        with self._file(self._run.ends):
            write_ends(self._run, self.run_id)

    def write_result(self, result: dict[str, Any]) -> None:
        """Written last: the run has ended."""
        with self._file(self._run.result) as path:
            write_own(path, result, self.run_id)

    def write(self, path: Path, make: Callable[[Path], object]) -> bool:
        """`make` writes a file into the folder of the run; False: the disk is full."""
        written = False
        with self._file(path):
            make(self._run.path)
            written = True
        return written

    def take_back(self, step: int, *, last: bool) -> None:
        """Removes what a killed process told of steps that are about to be run again.

        `last`: no step is left, so it was killed in what follows the last one.
        """
        self._run.ends.unlink(missing_ok=True)  # it must not ask for lines that go now
        for ledger in self._run.path.glob("ledger*.jsonl"):  # there may be fewer processes now
            truncate_jsonl(ledger, step)
        self._run.result.unlink(missing_ok=True)
        truncate_jsonl(self._run.samples, step - last)
        truncate_jsonl(self._run.metrics, step or -1)
        if last:
            cut_lines(self._run.metrics, lambda line: line.get("step") == step and _measures(line))
        self._seals.clear()

    def _sealed(self, path: Path, text: str) -> str:
        """A line of a file of this process."""
        if path not in self._seals:
            self._seals[path] = Seals(path)
        return self._seals[path](text)

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


def _measures(line: dict[str, Any]) -> bool:
    """Whether a line of metrics is that of an evaluation."""
    return any(name.startswith(("eval/", "final/", "start/")) for name in line)
