"""Products in 8 bits against numpy's integers, and within the rounding's bound of exact ones."""

from __future__ import annotations

import math
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding

from jaxlm.kernels.quantized import quantized_contract, quantized_grouped_matmul
from jaxlm.mesh import MeshConfig, shard, spec_of

pytest.importorskip("qwix")

CASES = {
    "BTD,DF->BTF": ((2, 5, 48), (48, 7), ("embed", "mlp"), 1),
    "BTD,DNH->BTNH": ((2, 5, 48), (48, 3, 4), ("embed", "heads", "head_dim"), 1),
    "BTNH,NHD->BTD": ((2, 5, 12, 4), (12, 4, 6), ("heads", "head_dim", "embed"), 2),
}
KINDS = ("int8", "fp8")
# what the largest number becomes: the middle between 127 and 128, or the largest of the type
TOPS = {"int8": (127.5, 127.5), "fp8": (448.0, 57344.0)}
TYPES = {
    "int8": (np.int8, np.int8),
    "fp8": (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
}


def rounded(a, kind, dims, gradient=False):
    """Rounded numbers and their scales, one for each index that is not of `dims`."""
    top = TOPS[kind][gradient]
    scale = np.abs(a).max(dims, keepdims=True).astype(np.float32) / np.float32(top)
    scale = np.where(scale == 0, np.float32(1), scale)
    divided = (a.astype(np.float32) / scale).astype(np.float32)
    if kind == "int8":
        return np.clip(np.rint(divided), -128, 127).astype(np.int64), scale
    return divided.astype(TYPES[kind][gradient]).astype(np.float64), scale


def plain(x, w, g, kind):
    """y, dx, dw of matrices, as the module's docstring has them."""
    (x_q, x_s), (w_q, w_s) = rounded(x, kind, 1), rounded(w, kind, 0)
    to_x, to_x_s = rounded(g * w_s, kind, 1, gradient=True)
    to_w, to_w_s = rounded(g * x_s, kind, 0, gradient=True)
    return x_s * w_s * (x_q @ w_q), to_x_s * (to_x @ w_q.T), to_w_s * (x_q.T @ to_w)


def off(a, dim, kind, gradient=False):
    """How far rounding may move each number: half a step.

    That is half the scale of an integer; 2^-4 of an e4m3 number and 2^-3 of an e5m2 one, or for the
    least of them half the least step.
    """
    scale = np.abs(a).max(dim, keepdims=True) / TOPS[kind][gradient]
    if kind == "int8":
        return np.broadcast_to(scale / 2, a.shape)
    return np.abs(a) * 2.0 ** (-3 if gradient else -4) + scale * 2.0**-10


def bound(a, off_a, b, off_b):
    """How far a product of matrices may be off that are off by so much."""
    return 1.001 * (np.abs(a) @ off_b + off_a @ np.abs(b) + off_a @ off_b)


def draws(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def up(a, dim, scale=1.0):
    """The same with a positive number where a * scale is largest.

    That is 127.5 steps, of which 127 are left; a negative one may become -127 or -128.
    """
    size = np.abs(a * scale)
    return np.where(size == size.max(dim, keepdims=True), np.abs(a), a).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("equation", CASES)
def test_contract_is_numpys_in_8_bits(equation, kind):
    x_shape, w_shape, axes, n = CASES[equation]
    size = int(np.prod(w_shape[:n]))
    outputs = int(np.prod(w_shape[n:]))
    x, w, g = draws((10, size), (size, outputs), (10, outputs))
    x[1] *= 1000  # a token's scale is its own
    x, w = up(x, 1), up(w, 0)
    x_s, w_s = rounded(x, kind, 1)[1], rounded(w, kind, 0)[1]
    g = up(up(g, 1, w_s), 0, x_s)

    @jax.jit
    def both(x, w, g):
        def product(x, w):
            y = quantized_contract(x.reshape(x_shape), w.reshape(w_shape), axes, n, kind)
            assert y.shape == (*x_shape[: len(x_shape) - n], *w_shape[n:])
            return y.reshape(g.shape)

        y, pull = jax.vjp(product, x, w)
        return y, *pull(g)

    y, d_x, d_w = both(x, w, g)
    for found, want in zip((y, d_x, d_w), plain(x, w, g, kind), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    # straight through: the gradients are those of the exact product, except for rounding
    off_x, off_w, to_x, to_w = off(x, 1, kind), off(w, 0, kind), g * w_s, g * x_s
    assert (np.abs(y - x @ w) <= bound(x, off_x, w, off_w)).all()
    limit = bound(to_x, off(to_x, 1, kind, True), (w / w_s).T, (off_w / w_s).T)
    assert (np.abs(d_x - g @ w.T) <= limit).all()
    limit = bound((x / x_s).T, (off_x / x_s).T, to_w, off(to_w, 0, kind, True))
    assert (np.abs(d_w - x.T @ g) <= limit).all()


@pytest.mark.parametrize("axes", [("embed", "mlp"), ("mlp", "embed")])
def test_scales_are_those_of_the_whole_array_on_a_mesh(axes):
    """The weight is split over fsdp and tensor, the tokens over data and fsdp."""
    x, w, g = draws((16, 64), (64, 32), (16, 32))
    x, w = up(x, 1), up(w, 0)
    g = up(up(g, 1, rounded(w, "int8", 0)[1]), 0, rounded(x, "int8", 1)[1])
    x, g = x.reshape(8, 2, 64), g.reshape(8, 2, 32)
    ways = ["act_embed" if axis == "embed" else "act_mlp" for axis in axes]

    def both(x, w, g):
        product = lambda x, w: quantized_contract(x, w, axes, 1, "int8")  # noqa: E731
        y, pull = jax.vjp(product, shard(x, "batch", None, ways[0]), w)
        return shard(y, "batch", None, ways[1]), *pull(g)

    want = jax.jit(both)(x, w, g)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    with jax.set_mesh(mesh):
        split = jax.device_put(w, NamedSharding(mesh, spec_of(axes)))
        compiled = jax.jit(both).lower(x, split, g).compile()
        found = compiled(x, split, g)
    assert found[2].sharding == split.sharding
    for a, b in zip(found, want, strict=True):  # int8 products are exact
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max())
    gathered = re.findall(r"= (\w+)\[(\d+),(\d+)\]\S* all-gather\(", compiled.as_text())
    weights = [kind for kind, *sizes in gathered if math.prod(map(int, sizes)) == w.size // 2]
    assert weights == ["s8"] * 2  # forward and backward


@pytest.mark.parametrize("kind", KINDS)
def test_groups_are_products_of_their_own(kind):
    x, w, g = draws((20, 48), (4, 48, 6), (20, 6))
    w[1] *= 100  # an expert's scales are its own
    x, w = up(x, 1), up(w, 1)
    groups = [(0, 7), (7, 7), (7, 15), (15, 18)]  # and two rows of none
    sizes = np.array([stop - start for start, stop in groups], np.int32)
    scales = np.ones((20, 6), np.float32)
    for e, (start, stop) in enumerate(groups):
        scales[start:stop] = rounded(w[e], kind, 0)[1]
    g = up(g, 1, scales)
    x_s = rounded(x, kind, 1)[1]
    g[:18] = up(g[:18], 0, x_s[:18])
    g[18:] *= 1000  # which has no say in any scale

    @jax.jit
    def both(x, w, g):
        y, pull = jax.vjp(lambda x, w: quantized_grouped_matmul(x, w, sizes, kind), x, w)
        return y, *pull(g)

    got = both(x, w, g)
    g[18:] = 0
    to_w, to_w_s = rounded(g * x_s, kind, 0, gradient=True)
    want = np.zeros(g.shape), np.zeros(x.shape), np.zeros(w.shape)
    for e, (start, stop) in enumerate(groups):
        if stop > start:
            rows = slice(start, stop)
            want[0][rows], want[1][rows], _ = plain(x[rows], w[e], g[rows], kind)
            want[2][e] = to_w_s * (rounded(x[rows], kind, 1)[0].T @ to_w[rows])
    for found, right in zip(got, want, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5 * np.abs(right).max())


@pytest.mark.parametrize(("kind", "names"), [("int8", {"i8"}), ("fp8", {"f8E4M3FN", "f8E5M2"})])
def test_all_products_are_of_8_bits(kind, names):
    x, w = draws((2, 5, 48), (48, 7))
    loss = lambda x, w: quantized_contract(x, w, ("embed", "mlp"), 1, kind).sum()  # noqa: E731
    text = jax.jit(jax.grad(lambda x, w: loss(x, w) ** 2, (0, 1))).lower(x, w).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 3
    found = set()
    for line in products:
        operands = line.split(" : (")[1].split(") ->")[0].split(", ")
        found |= {operand.rstrip(">").split("x")[-1] for operand in operands}
    assert found == names
