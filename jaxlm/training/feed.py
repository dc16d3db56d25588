"""Batches on the device before the step asks for them.

    with Feed(loader, mesh, start_step=100, ahead=2) as feed:
        ids, batch = next(feed)

`device_put` returns before the copy ends, so holding a few batches ahead hides the transfer. The
loader makes further batches in the meantime.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlm import mesh as meshes
from jaxlm.core.rows import RowSpec
from jaxlm.data.loader import Loader
from jaxlm.training.rollback import place


class Feed:
    """(ids, batch) of each step in turn, `ahead` of them on the device already.

    Batches that are `skipped` are left out, and those after them move up.
    """

    def __init__(
        self,
        loader: Loader,
        mesh: Mesh,
        start_step: int,
        *,
        ahead: int = 2,
        skipped: Collection[int] = frozenset(),
    ):
        self._loader, self._mesh, self._ahead = loader, mesh, ahead
        self._next, self._skipped = place(start_step, skipped), skipped
        self._batches = loader.batches(self._next)
        self._queue: deque[tuple[np.ndarray, dict[str, jax.Array]]] = deque()

    def __next__(self) -> tuple[np.ndarray, dict[str, jax.Array]]:
        while len(self._queue) <= self._ahead:
            number, batch = self._next, dict(next(self._batches))
            self._next += 1
            if number in self._skipped:
                continue
            ids = batch.pop("id")
            self._queue.append((ids, meshes.to_global(batch, self._mesh)))
        return self._queue.popleft()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: Any) -> None:
        self._loader.close()


def batch_spec(spec: RowSpec, batch_size: int, mesh: Mesh) -> dict[str, Any]:
    """Shapes, dtypes and shardings of a global batch of rows of this spec."""
    found = {}
    for name in spec:
        shape, dtype = spec.typed(name)
        if shape:
            meshes.check_divides(shape[0], "context", mesh, f"data.seq_len: {name}")
        sharding = meshes.batch_sharding(mesh, 1 + len(shape))
        found[name] = jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=sharding)
    return found
