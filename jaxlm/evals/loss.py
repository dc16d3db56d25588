"""Measures a model over a validation split: each batch on the device, their sums on the host.

The sums of one batch are float32; they are added in float64, which counts exactly up to 2^53.

evaluator = Evaluator(program, rows, transform, batch_size)
values, tables = evaluator(params)      # {"loss": ..., "bits_per_byte": ...}, {"confusion": ...}
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxlm import mesh as meshes
from jaxlm.core.config import UserError
from jaxlm.core.types import RowDataset
from jaxlm.data.detect import Found, detect
from jaxlm.data.held_out import held_out, measured_source
from jaxlm.data.loader import Loader, Transform
from jaxlm.data.store.prepared import Prepared
from jaxlm.run import RunConfig, load_saved
from jaxlm.runs.folder import RunDir
from jaxlm.training.ahead import Ahead, Compiling
from jaxlm.training.program import Program
from jaxlm.training.session import (
    Session,
    cache_dir,
    check_measured_data,
    check_writable,
    load_trained,
    prepare_data,
    saved_tokenizer,
)

EVAL_SEED = 0  # for an objective's random masks: equal for runs of all seeds


class OnePass:
    """Each row once, then padding, so that the last batch is full.

    With `spread`, index i reads row i * p mod n, where p is coprime to n and near 0.618 n. The
    first rows are then spread evenly over the split, so that a part is an estimate of the whole.
    """

    def __init__(self, rows: RowDataset, *, spread: bool = False):
        self.rows, self.rows_per_epoch = rows, rows.rows_per_epoch
        self.stride = (
            _coprime_near(0.618 * self.rows_per_epoch, self.rows_per_epoch) if spread else 1
        )

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if index < self.rows_per_epoch:
            return self.rows[index * self.stride % self.rows_per_epoch]
        blank = {"segment_ids", "weight"}
        return {k: np.zeros_like(v) if k in blank else v for k, v in self.rows[0].items()}


def _coprime_near(target: float, n: int) -> int:
    """The smallest number from `target` up that shares no factor with n."""
    return next(p for p in itertools.count(max(1, round(target))) if math.gcd(p, n) == 1)


class Evaluator:
    """The metrics of an objective over a split, at any parameters."""

    def __init__(
        self,
        program: Program,
        rows: RowDataset,
        transform: Transform,
        batch_size: int,
        *,
        spread: bool = False,
    ):
        """`spread`: the order of rows is free; the first batches are spread over the split."""
        mesh = program.mesh
        meshes.check_batch(batch_size, mesh, "eval.batch_size")
        self.program, self.batch_size = program, batch_size
        self.num_batches = -(-rows.rows_per_epoch // batch_size)
        self.loader = Loader(
            OnePass(rows, spread=spread),
            transform,
            batch_size,
            meshes.local_rows(batch_size, mesh),
            threads=1,
            prefetch=2,
        )

    def __call__(
        self,
        params: Any,
        max_batches: int | None = None,
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> tuple[dict[str, float], dict]:
        """(figures, tables) over the split, or over the first `max_batches` batches of it.

        `on_batch` is called when a batch is running and the one before it has ended; `compiling`
        makes the block of each compilation.
        """
        (found,) = self.after(params, [max_batches], on_batch=on_batch, compiling=compiling)
        return found

    def after(
        self,
        params: Any,
        counts: Sequence[int | None],
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[tuple[dict[str, float], dict]]:
        """(figures, tables) of the first n batches for each n of `counts`, in one pass; None: all.

        evaluator.after(params, [20, None])     # comparable with (params, 20), and the whole split
        """
        limits = [self.batches(count) for count in counts]
        found: dict[int, dict[str, tuple[Any, Any]]] = {}
        sums: dict[str, tuple[Any, Any]] = {}
        metrics, carry = None, self._first_carry(compiling)
        batches = self.loader.batches(0)
        try:
            with jax.set_mesh(self.program.mesh):
                for done in range(max(limits)):
                    rows = dict(next(batches))
                    rows.pop("id")
                    batch = meshes.to_global(rows, self.program.mesh)
                    before = metrics
                    metrics, carry = self._step(params, batch, carry, compiling=compiling)
                    _add(sums, before)  # waits: a queue of batches would hide one that hangs
                    if done in limits:
                        found[done] = dict(sums)
                    on_batch()
        finally:
            self.loader.close()
        _add(sums, metrics)
        found[max(limits)] = sums
        objective = self.program.objective
        return [(objective.summarize(found[n]), objective.tables(found[n])) for n in limits]

    def batches(self, count: int | None) -> int:
        """How many batches an evaluation of at most `count` reads; None: of the whole split."""
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
    def _step(self) -> Ahead:
        whole = meshes.replicated(self.program.mesh)
        return Ahead(jax.jit(self.program.eval_step, out_shardings=(whole, None)))


def _add(sums: dict[str, tuple[Any, Any]], metrics: Any) -> None:
    """Adds a batch's (sum, weight) pairs to `sums`, on the host."""
    for name, pair in jax.device_get(metrics or {}).items():
        before = sums.get(name, (0.0, 0.0))
        total, weight = (np.add(a, b, dtype=np.float64) for a, b in zip(before, pair, strict=True))
        sums[name] = (total, weight)


def evaluator_of(session: Session) -> Evaluator | None:
    """The evaluator of a session's validation split; None where the data has none."""
    if "validation" not in session.prepared.splits:
        return None
    config = session.config
    size = config.eval.batch_size or config.train.batch_size
    rows = session.prepared.rows("validation", batch_size=size, seed=config.seed)
    spread = not session.prepared.consecutive
    return Evaluator(session.program, rows, session.transform(EVAL_SEED), size, spread=spread)


def evaluate_run(
    run_dir: str,
    *,
    overrides: tuple[str, ...] = (),
    step: int | None = None,
    files: tuple[str, ...] = (),
    accept_data: bool = False,
    report: Any = print,
) -> tuple[int, dict[str, float], dict[str, Any]]:
    """(step, figures, tables) of a run's checkpoint over its whole validation split, or over
    `files`: texts, or a table of labelled texts for a classifier.

    Raises `UserError` if the split has changed since the run was trained, unless `accept_data` is
    set or an override names other data.
    """
    found = detect(files) if files else None  # first: a wrong file costs no loading
    config, program, params, step = load_trained(
        run_dir, overrides=overrides, step=step, report=report
    )
    if found is not None:
        prepared = _measured(run_dir, config, found, report)
    else:
        prepared = prepare_data(config, report)
        if config.data == load_saved(run_dir).config.data:
            check_measured_data(RunDir(run_dir), prepared, accept_data, report)
    evaluator = evaluator_of(Session(config, prepared, program))
    if evaluator is None:
        raise UserError(
            f"{run_dir}: its data has no validation split; set data.validation to texts that it "
            "was not trained on (see `jaxlm config show`)"
        )
    values, tables = evaluator(params)
    return step, {f"eval/{name}": value for name, value in values.items()}, tables


def _measured(run_dir: str, config: RunConfig, found: Found, report: Any) -> Prepared:
    """The rows of files that were not part of the run."""
    if config.data is None:
        raise UserError(f"{run_dir}: was imported without data; train or fine-tune it first")
    folder = cache_dir(config)
    check_writable(folder)
    source = measured_source(found, config.data)
    classes = getattr(config.objective, "classes", ())
    tokenizer = saved_tokenizer(RunDir(run_dir))
    return held_out(config.data, source, tokenizer, folder, classes=classes, report=report)
