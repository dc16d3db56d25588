"""L layers of one kind as one module with stacked parameters [L, ...], run by a scan.

A scan compiles one layer instead of L, and keeps one layer's gathered weights alive at a time:

    layers = stack(lambda rngs: Block(config, rngs=rngs), num_layers, rngs=rngs)
    x, found = apply_stack(layers, body, x, rows=rows, keys=keys, num_layers=num_layers)

where `body(layer, x, given)` returns (x, `Found`) for one layer and what it is `Given`. A pattern
of layers (every sixth with full attention, say) is a `period`: `given.kind` is the layer's place in
the period, known when compiling, while the parameters stay one stack whatever the pattern.

A body sees of the rows of x what it is given, and closes over none of it: in a pipeline
(`jaxlm.nn.pipeline`) only some of the rows are there at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxlm.nn.adapter_key import adapter_key
from jaxlm.nn.given import Found, Given
from jaxlm.nn.pipeline import run_pipeline, schedule

Body = Callable[[Any, jax.Array, Given], tuple[jax.Array, Found]]

# What the backward pass finds saved; the rest is computed again.
_policies = jax.checkpoint_policies
REMAT: dict[str, Callable[..., Any]] = {
    "minimal": _policies.dots_saveable,  # results of all matmuls, attention scores among them
    "dots": _policies.dots_with_no_batch_dims_saveable,  # results of matmuls with weights
    "full": _policies.nothing_saveable,  # the layer's input alone
}


@dataclass(frozen=True)
class Remat:
    """The tensors of a layer kept for the backward pass: a policy, or those that `named` names."""

    policy: str = "none"  # a key of `REMAT`; "none": everything is saved; "named"
    saved: tuple[str, ...] = ()  # on the device
    offloaded: tuple[str, ...] = ()  # kept in host memory until the backward pass

    def apply(self, function: Callable, *, in_scan: bool) -> Callable:
        """The function whose backward pass finds that much."""
        if self.policy == "none":
            return function
        policy = REMAT.get(self.policy)
        if policy is None:
            policy = _policies.save_and_offload_only_these_names(
                names_which_can_be_saved=self.saved,
                names_which_can_be_offloaded=self.offloaded,
                offload_src="device",
                offload_dst="pinned_host",
            )
        return jax.checkpoint(function, policy=policy, prevent_cse=not in_scan)


NO_REMAT = Remat()


def named(x: jax.Array, name: str) -> jax.Array:
    """x itself, under a name that `Remat` knows it by."""
    return checkpoint_name(x, name)


@dataclass(frozen=True)
class Run:
    """Neighbouring layers of one kind, `first` to `first + count - 1`: one stack."""

    name: str  # "layers" where all are of one kind, else "layers_" and the first one's number
    first: int
    count: int
    kind: Any


def runs_of(kinds: Sequence[Hashable]) -> tuple[Run, ...]:
    """The runs of equal kinds in a list with a kind for each layer."""
    groups = [(kind, len(list(group))) for kind, group in itertools.groupby(kinds)]
    runs, first = [], 0
    for kind, count in groups:
        runs.append(Run("layers" if len(groups) == 1 else f"layers_{first}", first, count, kind))
        first += count
    return tuple(runs)


def stack(make: Callable[[nnx.Rngs], nnx.Module], num_layers: int, *, rngs: nnx.Rngs) -> Any:
    """One module whose parameters are those of `num_layers` independent ones, stacked in front."""
    keys = jax.random.split(rngs.params(), num_layers)
    return nnx.vmap(lambda key: make(nnx.Rngs(params=key)))(keys)


class Apart(NamedTuple):
    """Arrays of several layers that are not stacked: each layer's own, in the order of the layers.

    A loop that changes the arrays in place, as generation does its cache, copies what is stacked.
    """

    layers: list[Any]


def taken_apart(num_layers: int, x: jax.Array) -> Apart:
    """An array [L, ...] as one array for each of its layers."""
    return Apart([x[index] for index in range(num_layers)])


def apply_stack(
    layers: Any,
    body: Body,
    x: jax.Array,
    xs: Any = None,
    *,
    keys: jax.Array | None = None,
    rows: Any = None,
    shared: Any = None,
    num_layers: int,
    period: int = 1,
    scan: bool = True,
    remat: Remat = NO_REMAT,
) -> tuple[jax.Array, Found]:
    """Runs x [B, ...] through the layers; returns it with what all of them found, stacked [L, ...].

    `xs` is a pytree of arrays [L, ...], `keys` [L]; `rows` and `shared` are as `Given` has them.
    `scan` False unrolls the loop: the same numbers from a longer program, in which a part of `xs`,
    and of what a layer finds, may be `Apart`. Layers that do not fill a
    last period follow it unrolled. Within `pipelined`, on a mesh with stages, the layers are a
    pipeline: `keys` are [L, k] for its k micro-batches, and xs are [L, B, ...].
    """
    graphdef, state = nnx.split(layers)
    params = nnx.to_pure_dict(state)

    def run(params: Any, x: jax.Array, given: Given, count: int) -> tuple[jax.Array, Found]:
        one = _Layer(graphdef, body, given.rows, given.shared, remat)
        return _loop(one, x, (params, given.xs, given.key), count, period, count // period * scan)

    given = Given(xs, keys, rows, shared)
    plan = schedule()
    if plan is not None:
        return run_pipeline(plan, run, params, x, given, num_layers=num_layers, period=period)
    return run(params, x, given, num_layers)


@dataclass(frozen=True)
class _Layer:
    """One layer as a function of the stream and its slice of what is stacked."""

    graphdef: Any
    body: Body
    rows: Any
    shared: Any
    remat: Remat

    def __call__(
        self, x: jax.Array, data: Any, kind: int, *, in_scan: bool
    ) -> tuple[jax.Array, Found]:
        def run(x: jax.Array, data: Any) -> tuple[jax.Array, Found]:
            params, xs, key = data
            given = Given(xs, key, self.rows, self.shared, kind)
            with adapter_key(key):
                return self.body(nnx.merge(self.graphdef, params), x, given)

        return self.remat.apply(run, in_scan=in_scan)(x, data)


def _loop(
    layer: _Layer, x: jax.Array, data: Any, num_layers: int, period: int, whole: int
) -> tuple[jax.Array, Found]:
    """The layers in turn: `whole` periods of them by a scan, the rest unrolled."""

    def one_period(x: jax.Array, kinds: Any) -> tuple[jax.Array, Any]:
        ys = []
        for kind, data in enumerate(kinds):
            x, y = layer(x, data, kind, in_scan=True)
            ys.append(y)
        return x, ys

    parts = []
    if whole:
        # The scan's own slices go to the layers as they are: a slice of a slice would be saved for
        # the backward pass, a second copy of all parameters.
        every = [
            jax.tree.map(lambda a, kind=kind: a[kind : whole * period : period], data)
            for kind in range(period)
        ]
        x, ys = jax.lax.scan(one_period, x, every)
        parts.append(jax.tree.map(_interleave, *ys))
    rest = []
    for index in range(whole * period, num_layers):
        x, y = layer(x, _at(data, index), index % period, in_scan=False)
        rest.append(y)
    if rest:
        parts.append(_stacked(rest))
    if len(parts) == 1:
        return x, parts[0]
    return x, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *parts)


def _is_apart(x: Any) -> bool:
    return isinstance(x, Apart)


def _at(data: Any, index: int) -> Any:
    def one(x: Any) -> Any:
        return x.layers[index] if _is_apart(x) else x[index]

    return jax.tree.map(one, data, is_leaf=_is_apart)


def _interleave(*arrays: jax.Array) -> jax.Array:
    """[n, ...] of every kind in the period -> [n * period, ...] in the order of the layers."""
    return jnp.stack(arrays, axis=1).reshape(-1, *arrays[0].shape[1:])


def _stacked(trees: list[Any]) -> Any:
    def one(*leaves: Any) -> Any:
        if _is_apart(leaves[0]):
            return Apart([layer for leaf in leaves for layer in leaf.layers])
        return jnp.stack(leaves)

    return jax.tree.map(one, *trees, is_leaf=_is_apart)
