"""Batches from rows, ahead of time, by threads or worker processes.

    loader = Loader(rows, transform, batch_size=16, local_rows=range(8), threads=2, prefetch=4)
    batches = loader.batches(start_step=1000)
    batch = next(batches)            # {"tokens": [8, T] ..., "id": [8]}
    loader.close()

Batch s holds the rows s * batch_size + local_rows, whatever the number of threads, workers or
hosts: only who computes it, and how early, depends on them. Starting at any step costs nothing.
A batch is gathered in a few numpy operations where the dataset and the transform can
(`jaxlm.data.rows.batched`). Threads that read ahead are this module's; processes are grain's
(`mp_prefetch`), which is imported when they are asked for, because it imports jax.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.exit_codes import LOST
from jaxlm.core.types import RowDataset
from jaxlm.data.rows.batched import Transform, transformed, transformed_row

LAST_STEP = 2**48


class Loader:
    """Draws this process's part of every global batch.

    rows: row i is a pure function of i. transform: (raw row, i) -> batch row (the objective's), a
    pure function as well; "id" is kept.
    batch_size: rows of the global batch. local_rows: which of them are this process's (None: all).
    threads, prefetch: threads that read ahead, and how many batches ahead; 0 reads when asked.
    workers: processes that read ahead (0: none), for transforms that hold the interpreter's lock.
    """

    def __init__(
        self,
        rows: RowDataset,
        transform: Transform,
        batch_size: int,
        local_rows: Sequence[int] | None = None,
        *,
        threads: int = 1,
        prefetch: int = 2,
        workers: int = 0,
    ) -> None:
        places = range(batch_size) if local_rows is None else local_rows
        assert places and set(places) <= set(range(batch_size)), f"{places} of {batch_size} rows"
        self._make_batch = MakeBatch(rows, transform, batch_size, places)
        # a thread that has no batch to read ahead would idle
        self._threads, self._prefetch = min(threads, prefetch), prefetch
        self._workers = workers
        self._open: list[Any] = []
        self._batch_size = batch_size
        self.rows_per_epoch = rows.rows_per_epoch

    def batches(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Endless batches from `start_step` on; close the loader (or the iterator) to end its
        threads.
        """
        iterator: Iterator[dict[str, np.ndarray]]
        if self._workers:
            iterator = self._from_processes(start_step)
        elif self._threads:
            iterator = ReadAhead(self._make_batch, start_step, self._threads, self._prefetch)
            self._open.append(iterator)
        else:
            iterator = map(self._make_batch, itertools.count(start_step))
        return iterator

    def _from_processes(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():  # grain's workers read them, and only an absl app does
            flags.FLAGS.mark_as_parsed()
        dataset = grain.MapDataset.range(start_step, LAST_STEP).map(self._make_batch)
        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._prefetch)
        ahead = max(1, -(-self._prefetch // self._workers))
        processes = grain.MultiprocessingOptions(
            num_workers=self._workers, per_worker_buffer_size=ahead
        )
        iterator = iter(dataset.to_iter_dataset(options).mp_prefetch(processes))
        self._open.append(iterator)
        return _watched(iterator)

    def row(self, index: int) -> dict[str, Any]:
        """One batch row, made now: what the shapes of a batch are known from."""
        return self._make_batch.row(index)

    def position(self, step: int) -> dict[str, Any]:
        """The position in the data after `step` steps; a function of the step, kept for people."""
        rows, per_epoch = step * self._batch_size, self.rows_per_epoch
        return {"step": step, "rows": rows, "rows_per_epoch": per_epoch, "epoch": rows / per_epoch}

    def close(self) -> None:
        """Ends the threads and processes of every iterator that is still open."""
        while self._open:
            self._open.pop().close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class ReadAhead(Iterator[dict[str, np.ndarray]]):
    """make(start), make(start + 1), ... in this order, made ahead of their use by threads.

    ahead: how many are made, or are being made, before they are asked for.
    """

    def __init__(
        self, make: Callable[[int], dict[str, np.ndarray]], start: int, threads: int, ahead: int
    ) -> None:
        self._make, self._steps, self._ahead = make, itertools.count(start), max(1, ahead)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="jaxlm-data")
        self._queue: deque[Future[dict[str, np.ndarray]]] = deque()
        self._fill()

    def __next__(self) -> dict[str, np.ndarray]:
        first = self._queue.popleft()
        self._fill()  # before the wait, so that the threads have work in it
        return first.result()

    def close(self) -> None:
        """Ends the threads, after the batches that they are making."""
        self._pool.shutdown(cancel_futures=True)

    def _fill(self) -> None:
        while len(self._queue) < self._ahead:
            self._queue.append(self._pool.submit(self._make, next(self._steps)))


class WorkerLost(UserError):
    """A process that makes batches was ended from outside: nothing is wrong with the run."""

    code = LOST


def _watched(iterator: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """The iterator's batches; raises `WorkerLost` where one of its processes is gone."""
    try:
        yield from iterator
    except RuntimeError as error:
        found = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
        if found is None:
            raise
        code = int(found[1])
        how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise WorkerLost(
            f"train.data_workers: a process that makes batches was {how} (out of memory?); the "
            "same command continues from the last checkpoint, fewer workers need less memory"
        ) from None


@dataclass(frozen=True)
class MakeBatch:
    """Step -> this process's part of that global batch."""

    rows: RowDataset
    transform: Transform
    batch_size: int
    places: Sequence[int]

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        places = np.asarray(self.places, np.int64)
        return transformed(self.transform, self.rows, step * self.batch_size + places)

    def row(self, index: int) -> dict[str, Any]:
        return transformed_row(self.transform, self.rows, index)
