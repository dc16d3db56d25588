"""Processes that make the parts of a preparation, and its progress.

    progress = Progress("tokenising", len(jobs), report)
    run_in_processes(work, jobs, workers, progress, start=read_tokenizer, arguments=(folder,))

The processes end with the one that started them, and share its cores.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.cores import available_cores, use_cores
from jaxlm.data.store.prepared import Report

EVERY = 10.0  # seconds between two lines of progress


class Progress:
    """Reports from time to time how many jobs are done: "tokenising: 3 of 12 parts"."""

    def __init__(self, name: str, total: int, report: Report) -> None:
        """name: of the work, as "tokenising"."""
        self.name, self.total, self.report = name, total, report
        self.done, self.reported = 0, time.monotonic()

    def add(self, count: int = 1) -> None:
        """So many more jobs are done."""
        self.done += count
        if time.monotonic() - self.reported > EVERY and self.done < self.total:
            self.reported = time.monotonic()
            self.report(f"{self.name}: {self.done} of {self.total} parts")


def run_in_processes(
    work: Callable[[Any], object],
    jobs: Sequence[Any],
    workers: int,
    progress: Progress,
    *,
    start: Callable[..., object] | None = None,
    arguments: tuple = (),
) -> None:
    """Calls `work` with each job, in at most `workers` processes.

    start: called once in each process with `arguments`. Raises `UserError` where a process dies,
    and what `work` raises.
    """
    workers = min(workers, len(jobs))
    # "spawn": this process may have threads (an accelerator's runtime), which a fork would break.
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(max(1, available_cores() // workers), start, arguments),
    )
    try:
        pending: set[Future] = {pool.submit(work, job) for job in jobs}
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
            progress.add(len(finished))
    except BrokenProcessPool:
        raise UserError(
            f"{progress.name}: a process died (out of memory?); run again to continue, with fewer "
            "workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start(threads: int, start: Callable[..., object] | None, arguments: tuple) -> None:
    use_cores(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start(*arguments)


def _end_with_parent() -> None:
    """Ends this process when the preparation is killed: another one may be started meanwhile."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
