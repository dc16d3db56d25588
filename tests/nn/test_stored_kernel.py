"""Kernels in 4 and 8 bits against the levels of the paper, error bounds and plain rounding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import ndtri

from jaxlm.nn.stored_kernel import NF4, block_of, dequantize, plain_path, quantize

SHAPES = [(3, 5, 128), (2, 4, 8), (6, 66), (7, 160)]


def test_the_levels_are_the_quantiles_of_a_normal_distribution() -> None:
    """Appendix E of the paper, as bitsandbytes makes them: 8 levels above 0, 7 below, up to 1."""
    offset = 0.9677083
    above = ndtri(jnp.linspace(offset, 0.5, 9)[:-1])
    below = -ndtri(jnp.linspace(offset, 0.5, 8)[:-1])
    levels = np.sort(np.concatenate([above, below, [0.0]]))
    np.testing.assert_allclose(NF4, levels / levels.max(), atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_each_weight_is_the_nearest_level_of_its_block(shape, form) -> None:
    x = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)
    x[0] = 0.0  # a block without a scale
    stored = jax.jit(quantize, static_argnums=1)(x, form)
    block = {128: 64, 8: 8, 66: 33, 160: 40}[shape[-1]]
    assert block_of(shape[-1]) == block
    blocks = x.reshape(-1, block)
    scales = np.abs(blocks).max(-1, keepdims=True)
    levels = NF4 if form == "nf4" else np.arange(-127, 128) / 127
    nearest = np.abs((blocks / np.maximum(scales, 1e-30))[..., None] - levels).argmin(-1)
    want = (levels[nearest] * scales).reshape(shape)
    found = np.asarray(dequantize(stored))
    np.testing.assert_allclose(found, want, atol=1e-6)
    bound = scales * (1 / 254 if form == "int8" else np.diff(NF4).max() / 2)
    assert (np.abs(blocks - found.reshape(blocks.shape)) <= bound * 1.0001).all()
    size = x.size * (1 if form == "int8" else 0.5) + 4 * x.size / block
    assert sum(part.nbytes for part in stored) == size


def test_four_bits_of_normal_weights_lose_what_the_paper_says() -> None:
    """A root mean square error of a tenth of the weights' own, and a bias of none."""
    x = np.random.default_rng(1).normal(size=(64, 1024)).astype(np.float32)
    error = np.asarray(dequantize(quantize(jnp.asarray(x), "nf4"))) - x
    assert 0.085 < error.std() < 0.105 and abs(error.mean()) < 0.003
    assert np.asarray(dequantize(quantize(jnp.asarray(x), "int8")) - x).std() < 0.008


def test_the_path_of_a_part_is_that_of_its_kernel() -> None:
    assert plain_path("layers/attention/query/kernel/codes") == "layers/attention/query/kernel"
    assert plain_path("layers/attention/query/kernel/scales") == "layers/attention/query/kernel"
    for path in ("layers/norm/scale", "codes", "unembed/kernel", "x/scales"):
        assert plain_path(path) == path
