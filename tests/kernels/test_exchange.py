"""Rows sent to other devices and back, against a loop in numpy; gradients by transposition."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxlm.kernels.exchange import Route, send, send_back

P, M, D, N = 4, 6, 3, 2  # devices, rows of each, their size, groups of each device
SIZES = np.array(  # rows that device i has for each group of device j
    [
        [[1, 0], [0, 2], [1, 1], [0, 1]],
        [[0, 0], [6, 0], [0, 0], [0, 0]],
        [[0, 0], [0, 0], [0, 0], [0, 0]],
        [[0, 1], [0, 0], [0, 0], [2, 1]],
    ],
    np.int32,
)
ROWS = np.random.default_rng(0).normal(size=(P, M, D)).astype(np.float32)


def on_devices(function):
    """A function of (rows [M, D], sizes [P, N]) on each device, of arrays [P, ...]."""
    mesh = jax.make_mesh((P,), ("expert",), (AxisType.Auto,), devices=jax.devices()[:P])
    split = PartitionSpec("expert")

    def one(x, sizes):
        return jax.tree.map(lambda y: y[None], function(x[0], Route.of(sizes[0], "expert")))

    return jax.jit(
        jax.shard_map(one, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False)
    )


def there(x, route):
    return send(x, route, "expert")


def there_and_back(x, route):
    return send_back(send(x, route, "expert"), route, "expert")


def sent(rows):
    """What each device gets: those of device 0 first."""
    out = np.zeros((P, P * M, rows.shape[-1]), rows.dtype)
    filled = [0] * P
    for source in range(P):
        start = 0
        for target in range(P):
            count = SIZES[source, target].sum()
            here = filled[target]
            out[target, here : here + count] = rows[source, start : start + count]
            start, filled[target] = start + count, here + count
    return out


def test_rows_come_to_their_devices():
    np.testing.assert_array_equal(on_devices(there)(ROWS, SIZES), sent(ROWS))
    got = on_devices(lambda x, route: route.sizes)(ROWS, SIZES)
    np.testing.assert_array_equal(got, SIZES.swapaxes(0, 1))


def test_rows_come_back_to_their_places():
    back = on_devices(there_and_back)(ROWS, SIZES)
    count = SIZES.sum((1, 2))[:, None, None]
    np.testing.assert_array_equal(back, np.where(np.arange(M)[:, None] < count, ROWS, 0))


@pytest.mark.parametrize("function", [there, there_and_back])
def test_gradients_are_the_transpose(function):
    """<f(x), y> = <x, f'(y)> for the linear maps that these are."""
    run = on_devices(function)
    out = run(ROWS, SIZES)
    upstream = np.random.default_rng(1).normal(size=out.shape).astype(np.float32)
    gradient = jax.grad(lambda x: (run(x, SIZES) * upstream).sum())(jnp.asarray(ROWS))
    other = np.random.default_rng(2).normal(size=ROWS.shape).astype(np.float32)
    assert np.vdot(run(other, SIZES), upstream) == pytest.approx(np.vdot(other, gradient), rel=1e-5)


def test_what_accelerators_take_sends_rows_alone():
    """Lowered alone: CPUs have no exchange of unequal parts."""
    how = {"axis": "expert", "impl": "ragged"}
    run = on_devices(lambda x, route: send_back(send(x, route, **how), route, **how))
    text = run.trace(ROWS, SIZES).lower(lowering_platforms=("tpu",)).as_text()
    assert len(re.findall("ragged_all_to_all", text)) == 2
