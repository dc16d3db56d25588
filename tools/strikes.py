"""Actions of `tools/warm.py` on a process before its command: strikes, and data that breaks a run.

    launcher.start(["train", ...], log, before=[("strikes:at_change", "runs/a", 7)])

kills the process just before its 7th change of a file below runs/a: numbers 1, 2, 3 ... in turn
kill it between any two of its changes.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from typing import Any

_MOVES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def at_change(folder: str, number: int, strike: int = signal.SIGKILL) -> None:
    """A signal just before the `number`-th change of a file or a folder below `folder`.

    Python's own changes are counted, as its audit events report them; those of a library in
    another language are not, nor what is written to a file that is open already.
    """
    seen, inside = 0, folder.rstrip("/") + "/"

    def look(event: str, values: tuple[Any, ...]) -> None:
        nonlocal seen
        if is_change(event, values) and str(values[0]).startswith(inside):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), strike)

    sys.addaudithook(look)


def is_change(event: str, values: tuple[Any, ...]) -> bool:
    """Whether an audit event is that of a change of the file or folder that it names first."""
    return bool((values[2] or 0) & _WRITES) if event == "open" else event in _MOVES


def batch_that_breaks(batch: int, factor: float = 1e30) -> None:
    """The weights are multiplied by `factor` after each step that takes this batch (from 0)."""
    import jax
    import numpy as np

    from jaxlm import api
    from jaxlm.core.callback import Hook, Taken

    class Break(Hook):
        def on_start(self, run: Any) -> None:
            size = run.config.train.batch_size
            self.ids = [int(run.loader.row(batch * size + i)["id"]) for i in range(size)]
            self.scale = jax.jit(lambda tree: jax.tree.map(lambda p: p * factor, tree))

        def on_dispatch(self, run: Any, taken: Taken) -> None:
            if np.isin(taken.ids, self.ids).all():
                run.state = {**run.state, "params": self.scale(run.state["params"])}

    api.fit = functools.partial(api.fit, hooks=[Break()])


def keep_compiled() -> None:
    """Every process writes to jax's cache of compiled programs, else only the first of a run does.

    Programs of several processes on CPUs have keys of their own in each process, so that all but
    the first would compile at every start.
    """
    from jax._src import compilation_cache, compiler, distributed

    write = compiler._cache_write

    def write_all(key: str, seconds: float, name: str, backend: Any, made: Any, calls: Any) -> None:
        if distributed.global_state.process_id == 0:
            write(key, seconds, name, backend, made, calls)
        elif not calls:
            compilation_cache.put_executable_and_time(key, name, made, backend, int(seconds))

    compiler._cache_write = write_all
