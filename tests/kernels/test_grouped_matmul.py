"""The implementations of the grouped matmul against a loop over experts, values and gradients."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.kernels import megablox
from jaxlm.kernels.grouped_matmul import grouped_matmul, grouped_matmul_kernels
from jaxlm.kernels.registry import target_platform

IMPLEMENTATIONS = ["reference", "ragged_dot", "blocks", "megablox"]
SIZES = {  # group sizes, rows; what is left over is of no group. Equal shapes are one program
    "ragged": ([1, 17, 6, 8, 8, 43], 83),
    "empty groups": ([0, 70, 0, 0, 13, 0], 83),
    "rows of no group": ([5, 0, 9, 0, 0, 0], 83),
    "no rows of any group": ([0, 0, 0, 0, 0, 0], 83),
    "many blocks": ([200, 3, 129], 400),
}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setattr(megablox, "INTERPRET", True)


def case(name):
    sizes, rows = SIZES[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 5))
    kernels = rng.normal(size=(len(sizes), 5, 7))
    return x, kernels, np.array(sizes, np.int32), rng.normal(size=(rows, 7))


def by_loop(x, kernels, sizes, upstream):
    """(y, dx, dkernels), expert by expert."""
    y, dx, dkernels = np.zeros((len(x), kernels.shape[2])), np.zeros_like(x), np.zeros_like(kernels)
    start = 0
    for e, size in enumerate(sizes):
        rows = slice(start, start + size)
        y[rows] = x[rows] @ kernels[e]
        dx[rows] = upstream[rows] @ kernels[e].T
        dkernels[e] = x[rows].T @ upstream[rows]
        start += size
    return y, dx, dkernels


@cache
def call(impl, **options):
    """(x, kernels, sizes, upstream) -> (y, dx, dkernels)"""

    @jax.jit
    def values_and_gradients(x, kernels, sizes, upstream):
        y, pull = jax.vjp(
            lambda x, k: grouped_matmul(x, k, sizes, impl=impl, **options), x, kernels
        )
        return y, *pull(upstream)

    return values_and_gradients


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["rows of no group", "no rows of any group", "many blocks"])
def test_rows_of_no_group_may_be_anything(name, impl):
    """And what comes out of theirs, and in as its gradient: nothing of it is in what counts."""
    x, kernels, sizes, upstream = case(name)
    real = np.arange(len(x))[:, None] < sizes.sum()
    want = by_loop(x, kernels, sizes, upstream)

    x, upstream = (np.where(real, n, np.nan) for n in (x, upstream))
    arrays = (jnp.asarray(a, jnp.float32) for a in (x, kernels))
    run = call(impl, fill=False)
    y, dx, dkernels = run(*arrays, sizes, jnp.asarray(upstream, jnp.float32))
    count = sizes.sum()
    for got, expected in ((y[:count], want[0][:count]), (dx[:count], want[1][:count])):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dkernels, want[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", SIZES)
def test_values_and_gradients_are_those_of_a_loop(name, impl):
    x, kernels, sizes, upstream = case(name)
    want = by_loop(x, kernels, sizes, upstream)
    got = call(impl)(jnp.float32(x), jnp.float32(kernels), sizes, jnp.float32(upstream))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_what_is_of_no_group_has_no_part(impl):
    """NaNs after the last group reach neither results nor gradients."""
    x, kernels, sizes, upstream = case("rows of no group")
    x[14:], upstream[14:] = np.nan, 1.0
    want = by_loop(x, kernels, sizes, upstream)
    _, dx, dkernels = call(impl)(jnp.float32(x), jnp.float32(kernels), sizes, jnp.float32(upstream))
    assert np.abs(dx - want[1]).max() < 1e-5
    if impl == "blocks":  # the plain forms multiply such rows by 0
        assert np.abs(dkernels - want[2]).max() < 1e-5


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_row_does_not_depend_on_its_place(impl):
    """The same row among other rows, at another place of a group of another size: the same bits."""
    rng = np.random.default_rng(1)
    kernels = jnp.float32(rng.normal(size=(4, 33, 20)))
    run = jax.jit(lambda x, sizes: grouped_matmul(x, kernels, sizes, impl=impl))
    row = rng.normal(size=33)
    seen = set()
    for _ in range(20):
        x, sizes = rng.normal(size=(150, 33)), rng.multinomial(150, [0.2, 0.3, 0.1, 0.4])
        place = sizes[0] + rng.integers(sizes[1])
        x[place] = row
        seen.add(np.asarray(run(jnp.float32(x), jnp.int32(sizes))[place]).tobytes())
    assert len(seen) == 1


def test_bfloat16_is_close():
    x, kernels, sizes, upstream = case("many blocks")
    want = by_loop(x, kernels, sizes, upstream)
    narrow = [jnp.asarray(a, jnp.bfloat16) for a in (x, kernels, upstream)]
    found = call("blocks")(*narrow[:2], sizes, narrow[2])
    for a, b in zip(found, want, strict=True):
        assert a.dtype == jnp.bfloat16
        assert np.abs(a.astype(np.float32) - b).max() < 0.02 * np.abs(b).max()


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_each_platform_has_its_form(platform):
    with target_platform(platform):
        chosen = grouped_matmul_kernels.pick()
    name = {"cpu": "blocks", "gpu": "ragged_dot", "tpu": "megablox"}[platform]
    assert chosen is grouped_matmul_kernels.implementations[name].function
