"""The loader: batch s is one and the same array, whoever computes it and however early."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.core.exit_codes import LOST
from jaxlm.data.loader import Loader
from jaxlm.data.rows.order import Shuffled
from jaxlm.data.rows.windows import Lanes, Windows

BATCH = 8


def double(row: dict, index: int) -> dict:
    return {"tokens": row["tokens"][:-1] * 2, "mask": row["segment_ids"][1:] > 0}


@pytest.fixture
def rows(make_documents, random_texts) -> Shuffled:
    return Shuffled(Windows(make_documents(random_texts(0, 40, 1, 60)), 16, 0), seed=3)


def expected(rows, step: int, places: range = range(BATCH)) -> dict[str, np.ndarray]:
    raw = [rows[step * BATCH + place] for place in places]
    return {
        "tokens": np.array([r["tokens"][:-1] * 2 for r in raw]),
        "mask": np.array([r["segment_ids"][1:] > 0 for r in raw]),
        "id": np.array([r["id"] for r in raw]),
    }


def check(batch: dict, wanted: dict) -> None:
    assert batch.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_array_equal(batch[key], value)
        assert batch[key].dtype == value.dtype


@pytest.mark.parametrize(("threads", "prefetch"), [(0, 0), (1, 1), (1, 8), (3, 2), (4, 8)])
@pytest.mark.parametrize("start", [0, 17])
def test_batches_do_not_depend_on_threads_and_prefetch(rows, threads, prefetch, start) -> None:
    with Loader(rows, double, BATCH, threads=threads, prefetch=prefetch) as loader:
        batches = loader.batches(start)
        for step in range(
            start, start + 2 * rows.rows_per_epoch // BATCH + 3
        ):  # over epoch borders
            check(next(batches), expected(rows, step))


def test_batches_do_not_depend_on_worker_processes(rows) -> None:
    with Loader(rows, double, BATCH, threads=1, prefetch=2, workers=2) as loader:
        batches = loader.batches(start_step=5)
        for step in range(5, 12):
            check(next(batches), expected(rows, step))


def test_a_killed_worker_process_is_named(rows) -> None:
    """One line, and the exit code after which launchers start again."""
    with Loader(rows, double, BATCH, threads=1, prefetch=2, workers=1) as loader:
        batches = loader.batches()
        next(batches)
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="train.data_workers: .* killed by signal 9") as caught:
            for _ in range(1000):
                next(batches)
    assert caught.value.code == LOST


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("lanes", [False, True])
def test_hosts_together_have_the_global_batch(rows, hosts, lanes) -> None:
    dataset = Lanes(rows.rows, BATCH) if lanes else rows
    share = BATCH // hosts
    loaders = [
        Loader(dataset, double, BATCH, range(h * share, (h + 1) * share)) for h in range(hosts)
    ]
    streams = [loader.batches(2) for loader in loaders]
    for step in range(2, 9):
        parts = [next(stream) for stream in streams]
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        check(joined, expected(dataset, step))
    for loader in loaders:
        loader.close()


def test_the_rows_of_a_process_need_not_be_neighbours(rows) -> None:
    places = [1, 2, 6]
    with Loader(rows, double, BATCH, places) as loader:
        whole, part = expected(rows, 4), next(loader.batches(4))
        check(part, {key: value[places] for key, value in whole.items()})


def test_ids_have_no_gap_and_no_repeat_over_restarts(rows) -> None:
    """Three stops at odd places, over epoch borders."""
    ids: list[int] = []
    n, step = rows.rows_per_epoch, 0
    for stop in (3, n // BATCH + 1, 3 * n // BATCH + 2):
        with Loader(rows, double, BATCH, threads=2, prefetch=4) as loader:
            batches = loader.batches(step)
            while step < stop:
                ids += next(batches)["id"].tolist()
                step += 1
    for epoch in range(len(ids) // n):
        assert sorted(ids[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_close_ends_the_threads(rows) -> None:
    before = set(threading.enumerate())
    loader = Loader(rows, double, BATCH, threads=3, prefetch=4)
    next(loader.batches())
    started = set(threading.enumerate()) - before
    assert started
    loader.close()
    for thread in started:
        thread.join(timeout=10)
        assert not thread.is_alive()


def broken(row: dict, index: int) -> dict:
    raise ValueError("a transform that fails")


def test_a_failing_transform_is_reported(rows) -> None:
    with (
        Loader(rows, broken, BATCH, threads=1, prefetch=2) as loader,
        pytest.raises(ValueError, match="a transform that fails"),
    ):
        next(loader.batches())


def test_the_data_package_imports_no_jax() -> None:
    program = (
        "import importlib, pkgutil, sys, jaxlm.data as d\n"
        "names = [m.name for m in pkgutil.iter_modules(d.__path__)]\n"
        "assert 'loader' in names and 'text' in names\n"
        "for name in names: importlib.import_module(f'jaxlm.data.{name}')\n"
        "print([m for m in ('jax', 'flax', 'torch', 'grain') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
