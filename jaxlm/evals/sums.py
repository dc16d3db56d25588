"""The sums of an objective's metrics over a split: each batch on the device, added on the host.

The sums of one batch are float32; they are added in float64, which counts exactly up to 2^53.

    sums = SplitSums(program, rows, spec, transform, batch_size)
    sums(params, [20, None])        # of the first 20 batches, and of the whole split
    sums.measure(params)            # [Measure("loss", ...), Measure("perplexity", ...), ...]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxlm import mesh as meshes
from jaxlm.core.evaluator import Compiling
from jaxlm.core.measures import Measure
from jaxlm.core.rows import RowSpec
from jaxlm.core.types import RowDataset
from jaxlm.data.loader import Loader
from jaxlm.data.rows.batched import Transform
from jaxlm.evals.one_pass import OnePass
from jaxlm.training.ahead import Ahead
from jaxlm.training.program import Program

Sums = dict[str, tuple[Any, Any]]  # (sum, weight) by name


class SplitSums:
    """The sums of one split, at any parameters."""

    def __init__(
        self,
        program: Program,
        rows: RowDataset,
        spec: RowSpec,
        transform: Transform,
        batch_size: int,
        *,
        spread: bool = False,
        references: Callable[[], Mapping[str, Any]] = dict,
    ):
        """`spec`: of the rows. `spread`: their order is free; the first batches are spread over
        the split. `references`: gives the trees of the frozen models that the objective asks for.
        """
        mesh = program.mesh
        meshes.check_batch(batch_size, mesh, "eval.batch_size")
        self.program, self.batch_size, self.references = program, batch_size, references
        self.num_batches = -(-rows.rows_per_epoch // batch_size)
        self.loader = Loader(
            OnePass(rows, spec, spread=spread),
            transform,
            batch_size,
            meshes.local_rows(batch_size, mesh),
            threads=1,
            prefetch=2,
        )

    def __call__(
        self,
        params: Any,
        counts: Sequence[int | None],
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[Sums]:
        """The sums of the first n batches for each n of `counts`, in one pass; None: all.

        `on_batch` is called when a batch is running and the one before it has ended; `compiling`
        makes the block of each compilation.
        """
        limits = [self.batches(count) for count in counts]
        found: dict[int, Sums] = {}
        sums: Sums = {}
        metrics, carry = None, self._first_carry(compiling)
        batches = self.loader.batches(0)
        try:
            with jax.set_mesh(self.program.mesh):
                for done in range(max(limits)):
                    rows = dict(next(batches))
                    rows.pop("id")
                    batch = meshes.to_global(rows, self.program.mesh)
                    before = metrics
                    metrics, carry = self.step(
                        params, batch, carry, self.references(), compiling=compiling
                    )
                    add(sums, before)  # waits: a queue of batches would hide one that hangs
                    if done in limits:
                        found[done] = dict(sums)
                    on_batch()
        finally:
            self.loader.close()
        add(sums, metrics)
        found[max(limits)] = sums
        return [found[n] for n in limits]

    def measure(self, params: Any, max_batches: int | None = None) -> list[Measure]:
        """The objective's measures of the split, or of its first `max_batches` batches."""
        (sums,) = self(params, [max_batches])
        return self.program.objective.measures(sums)

    def batches(self, count: int | None) -> int:
        """The number of batches in an evaluation of at most `count`; None: of the whole split."""
        return min(self.num_batches, count or self.num_batches)

    def _first_carry(self, compiling: Compiling) -> Any:
        """The recurrent state before the first batch."""
        return self._make_carry(compiling=compiling) if self.program.model.carries_state else None

    @cached_property
    def _make_carry(self) -> Ahead:
        sharding = NamedSharding(self.program.mesh, meshes.spec_of((None, "batch", None)))
        shapes = jax.eval_shape(lambda: self.program.init_carry(self.batch_size))
        make = lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)  # noqa: E731
        return Ahead(jax.jit(make, out_shardings=jax.tree.map(lambda _: sharding, shapes)))

    @cached_property
    def step(self) -> Ahead:
        """The compiled program that measures a batch."""
        whole = meshes.replicated(self.program.mesh)
        return Ahead(jax.jit(self.program.eval_step, out_shardings=(whole, None)))


def add(sums: Sums, metrics: Any) -> None:
    """Adds (sum, weight) pairs, of a batch or of another part, to `sums`, on the host."""
    for name, pair in jax.device_get(metrics or {}).items():
        before = sums.get(name, (0.0, 0.0))
        total, weight = (np.add(a, b, dtype=np.float64) for a, b in zip(before, pair, strict=True))
        sums[name] = (total, weight)
