"""A stack of layers as a pipeline: stages of the mesh hold its parts, and micro-batches pass them.

    turn       0    1    2    3    4    5        4 micro-batches, 3 stages
    stage 0   a0   b0   c0   d0
    stage 1        a1   b1   c1   d1             GPipe (Huang et al. 2018, arXiv:1811.06965)
    stage 2             a2   b2   c2   d2

A stage idles in S - 1 of M + S - 1 turns. With `repeats` R the stack is cut into R S pieces, which
are dealt out in turn, and a micro-batch goes round R times: R M + S - 1 turns, each of 1/R the work
(the interleaved schedule of Narayanan et al. 2021, arXiv:2104.04473).

    with pipelined(PipelineSchedule(microbatches=8, repeats=2)):
        x, found = apply_stack(layers, body, x, keys=keys, rows=rows, num_layers=L)

Micro-batch i has the rows i, i + M, ..., as in the accumulation of gradients, so that no row moves
to another device and dropout draws the same masks. The backward pass is the transposed program: the
micro-batches come back in the other order. What a stage holds of a micro-batch until then is up to
remat, as in any stack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.config import UserError
from jaxlm.kernels.registry import platform
from jaxlm.mesh import (
    cut_rows,
    from_first_stage,
    is_split,
    join_rows,
    num_parts,
    on_each_stage,
)
from jaxlm.nn.given import Found, Given

# (parameters [n, ...], x, given, n) -> (x, found): n layers in turn
RunLayers = Callable[[Any, jax.Array, Given, int], tuple[jax.Array, Found]]


class PipelineSchedule(NamedTuple):
    """The schedule of a batch through the stages."""

    microbatches: int
    repeats: int = 1


_SCHEDULE: ContextVar[PipelineSchedule | None] = ContextVar("schedule", default=None)


@contextmanager
def pipelined(plan: PipelineSchedule) -> Iterator[None]:
    """Within it, stacks of layers are pipelines where the mesh has stages."""
    token = _SCHEDULE.set(plan)
    try:
        yield
    finally:
        _SCHEDULE.reset(token)


def schedule() -> PipelineSchedule | None:
    """The schedule of the pipeline that a stack has to be, if it is to be one."""
    return _SCHEDULE.get() if is_split("stage") else None


def check_layers(num_layers: int, period: int, stages: int, repeats: int) -> None:
    """Raises `UserError` where stages cannot have equal parts of so many layers."""
    pieces = stages * repeats
    if num_layers % pieces:
        raise UserError(
            f"mesh.stage: {num_layers} layers cannot be cut into {stages} stages x {repeats} "
            "repeats; choose mesh.stage and mesh.stage_repeats whose product divides them"
        )
    if num_layers // pieces % period:
        raise UserError(
            f"mesh.stage: pieces of {num_layers // pieces} layers differ where layers "
            f"repeat after {period}; make them a multiple of that"
        )


def run_pipeline(
    plan: PipelineSchedule,
    run: RunLayers,
    params: Any,
    x: jax.Array,  # [B, T, D]
    given: Given,  # xs [L, B, ...], key [L, M], rows [B, ...]
    *,
    num_layers: int,
    period: int,
) -> tuple[jax.Array, Found]:
    """The result of `run(params, x, given, num_layers)`, from stages that work at the same time."""
    count, repeats = plan
    stages = num_parts("stage")
    check_layers(num_layers, period, stages, repeats)
    size = num_layers // (stages * repeats)

    def dealt(x: jax.Array) -> jax.Array:  # [L, ...] -> [R, S, n, ...]
        return x.reshape(repeats, stages, size, *x.shape[1:])

    cut = partial(jax.tree.map, partial(cut_rows, count=count))
    xs = jax.tree.map(lambda x: dealt(cut_rows(x, count, dim=1)), given.xs)
    keys = jax.tree.map(dealt, given.key)
    work = _with_wide_sums(_Stage(run, count, repeats, size, stages))
    x, found = work(params, cut(x), (xs, keys, cut(given.rows), given.shared))

    def collected(x: jax.Array) -> jax.Array:  # [R, S, n, ...] -> [L, ...]
        return x.reshape(num_layers, *x.shape[3:])

    by_row = jax.tree.map(lambda x: join_rows(collected(x), dim=1), found.by_row)
    sums = jax.tree.map(collected, found.sums)
    return join_rows(from_first_stage(x)), found._replace(by_row=by_row, sums=sums)


def _with_wide_sums(stage: _Stage) -> Callable[..., Any]:
    """The stages; on CPUs what all of them are given comes as float32, and is narrowed there.

    Its gradient is a sum over the stages, and over one of bfloat16 here XLA for CPUs aborts (of jax
    0.10). One of them alone is not zero, so it is exact in any dtype.
    """
    if platform() != "cpu":
        return on_each_stage(stage)

    def run(params: Any, *given: Any) -> Any:
        narrow = jax.tree.map(lambda x: getattr(x, "dtype", None) == jnp.bfloat16, given)

        def cast(given: Any, dtype: Any) -> Any:
            return jax.tree.map(lambda x, low: x.astype(dtype) if low else x, given, narrow)

        inner = on_each_stage(lambda params, *given: stage(params, *cast(given, jnp.bfloat16)))
        return inner(params, *cast(given, jnp.float32))

    return run


@dataclass(frozen=True)
class _Stage:
    """The work of one stage; all of its devices do the same."""

    run: RunLayers
    count: int  # M, micro-batches
    repeats: int  # R
    size: int  # n, layers of a piece
    stages: int  # S

    def __call__(self, params: Any, x: jax.Array, given: Any) -> tuple[jax.Array, Found]:
        """x [M, B / M, ...] -> [1, M, B / M, ...], and what each piece found: [R, 1, n, M, ...].

        `held` is the micro-batch that came from the stage before. `store` holds all micro-batches:
        on stage 0, what has still to begin its next round, and what has ended its last.
        """
        stage = jax.lax.axis_index("stage")
        pieces = jax.tree.map(lambda x: x.reshape(self.repeats, self.size, *x.shape[1:]), params)
        if self.repeats > 1:
            pieces = jax.tree.map(partial(self._deal, stage), pieces)
        round_trip = [(i, (i + 1) % self.stages) for i in range(self.stages)]

        def turn(carry: tuple, time: jax.Array) -> tuple[tuple, Any]:
            held, store = carry
            piece, micro, _ = self._work(time - stage)
            x = jnp.where(stage == 0, _at(store, micro), held)
            x, found = self._one(pieces, x, given, piece, micro)
            held = jax.lax.ppermute(x, "stage", round_trip)
            _, ended, is_work = self._work(time - self.stages + 1)
            value = jnp.where(is_work, held, _at(store, ended))
            store = jax.lax.dynamic_update_index_in_dim(store, value, ended, 0)
            return (held, store), found

        turns = self.repeats * self.round + self.stages - 1
        (_, store), found = jax.lax.scan(turn, (jnp.zeros_like(x[0]), x), jnp.arange(turns))
        by_row = jax.tree.map(partial(self._own, stage), found.by_row)
        sums = jax.tree.map(lambda x: self._own(stage, x).sum(3), found.sums)
        return store[None], found._replace(by_row=by_row, sums=sums)

    @property
    def round(self) -> int:
        """Turns from a micro-batch's start on stage 0 to its next."""
        return max(self.count, self.stages) if self.repeats > 1 else self.count

    def _work(self, number: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(piece, micro-batch, whether it is one) of a stage's turn of this number, from 0."""
        piece = jnp.clip(number // self.round, 0, self.repeats - 1)
        micro = number % self.round
        is_work = (number >= 0) & (micro < self.count)
        return piece, jnp.minimum(micro, self.count - 1), is_work

    def _one(
        self, pieces: Any, x: jax.Array, given: Any, piece: jax.Array, micro: jax.Array
    ) -> tuple[jax.Array, Found]:
        """One piece of the stack for one micro-batch."""
        xs, keys, rows, shared = given
        if self.repeats == 1:  # else the compiler would have to see that there is but one
            piece = jnp.zeros((), jnp.int32)
            params = jax.tree.map(lambda x: x[0], pieces)
        else:
            params = jax.tree.map(lambda x: _at(x, piece), pieces)
        xs, keys = (jax.tree.map(lambda x: _at(_at(x, piece)[0], micro, 1), x) for x in (xs, keys))
        rows = jax.tree.map(lambda x: _at(x, micro), rows)
        return self.run(params, x, Given(xs, keys, rows, shared), self.size)

    def _own(self, stage: jax.Array, found: jax.Array) -> jax.Array:
        """[turns, n, ...] of this stage, idle turns among them -> [R, 1, n, M, ...]."""
        found = jax.lax.dynamic_slice_in_dim(found, stage, self.repeats * self.round)
        found = found.reshape(self.repeats, self.round, *found.shape[1:])[:, : self.count]
        return jnp.moveaxis(found, 1, 2)[:, None]

    def _deal(self, stage: jax.Array, pieces: jax.Array) -> jax.Array:
        """[R, n, ...]: R neighbouring pieces of each stage -> pieces s, s + S, ... of stage s.

        Parameters are stored in the order of the layers, whatever the mesh. In each of R exchanges
        a stage sends one piece and gets one.
        """
        numbers, permutations, places = _exchanges(self.stages, self.repeats)
        came = [
            jax.lax.ppermute(_at(pieces, jnp.asarray(numbers[k])[stage]), "stage", permutations[k])
            for k in range(self.repeats)
        ]
        return jnp.stack(came)[jnp.asarray(places)[stage]]


def _at(x: jax.Array, index: jax.Array, dim: int = 0) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, index, dim, keepdims=False)


def _exchanges(stages: int, repeats: int) -> tuple[np.ndarray, list[list[tuple]], np.ndarray]:
    """The plan of R exchanges that deal out R pieces of each stage.

    Piece p = R s + j is on stage s and goes to stage p % S, as its number p // S. Exchange
    (j + s g // S) % R, g = gcd(R, S), has each stage once as sender and once as receiver: the
    pieces that one stage gets have R / g different j, and their senders g different s g // S.

    Returns for exchange k: [k][s] which of its pieces stage s sends; the (sender, receiver) pairs;
    and [s][r] in which exchange stage s gets its r-th piece.
    """
    common = math.gcd(stages, repeats)
    numbers = np.zeros((repeats, stages), np.int32)
    places = np.zeros((stages, repeats), np.int32)
    pairs: list[list[tuple]] = [[] for _ in range(repeats)]
    for sender in range(stages):
        for number in range(repeats):
            k = (number + sender * common // stages) % repeats
            piece = sender * repeats + number
            numbers[k, sender] = number
            pairs[k].append((sender, piece % stages))
            places[piece % stages, piece // stages] = k
    return numbers, pairs, places
