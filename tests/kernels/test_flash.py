"""Attention that keeps no scores: all that it can do against the reference, and its memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.kernels import flash
from jaxlm.kernels.attention import attention
from jaxlm.kernels.registry import target_platform
from tests.nn.golden_nn import assert_close

B, N, K, H, V = 2, 4, 2, 8, 12  # V: the size of values
CASES = {
    "both directions": {"is_causal": False},
    "both directions, window": {"is_causal": False, "window": 9, "softcap": 2.0},
    "prefix": {"same_rows": True, "prefix": True},
    "causal, window": {"same_rows": True, "window": 11},
    "another text": {"is_causal": False, "keys": 53},
    "narrow": {"same_rows": True, "dtype": jnp.bfloat16},
}


@pytest.fixture(params=[False, True], ids=["short", "loops"])
def loops(request, monkeypatch):
    sizes = {"BLOCK": 16, "SHORT": 0 if request.param else 99, "LONG_QUERIES": 8, "LONG_KEYS": 16}
    for name, size in sizes.items():
        monkeypatch.setattr(flash, name, size)


def rows(length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(positions, segments) of two rows of documents, the second with padding."""
    segments = np.ones((B, length), np.int32)
    segments[0, length // 3 :] = 2
    segments[1, length // 2 :] = 0
    positions = np.tile(np.arange(length, dtype=np.int32), (B, 1))
    positions[0, length // 3 :] -= length // 3
    return positions, segments


def arrays(length: int, keys: int, dtype=jnp.float32) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    shapes = (B, length, N, H), (B, keys, K, H), (B, keys, K, V), (B, length, N, V)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def call(impl: str, length: int, keys: int, *, prefix: bool = False, **options):
    rng = np.random.default_rng(1)
    (q_positions, q_segments), (k_positions, k_segments) = rows(length, rng), rows(keys, rng)
    places = {"q_positions": q_positions, "k_positions": k_positions}
    places |= {"q_segment_ids": q_segments, "k_segment_ids": k_segments}
    if prefix:
        places["k_prefix"] = k_positions < 5
    return lambda q, k, v: attention(q, k, v, impl=impl, **places, **options)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_reference(case):
    options = dict(CASES[case])
    length, dtype = 43, options.pop("dtype", jnp.float32)
    keys = options.pop("keys", length)
    *given, cotangent = arrays(length, keys, dtype)

    def both(impl):
        def loss(q, k, v):
            out = call(impl, length, keys, **options)(q, k, v)
            return (out * cotangent).astype(jnp.float32).sum(), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*given)

    ((_, out), grads), ((_, want), wanted) = both("flash"), both("reference")
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    for a, b in zip([out, *grads], [want, *wanted], strict=True):
        assert a.dtype == b.dtype == dtype and np.abs(np.asarray(b, np.float32)).max() > 0.1
        assert_close(np.asarray(a, np.float32), np.asarray(b, np.float32), tolerance)


def test_narrow_blocks_of_a_usual_size_run():
    """XLA for CPUs has no product of narrow arrays with a float32 result for some of them."""
    length = 256
    places = jnp.tile(jnp.arange(length), (2, 1))
    options = {"q_positions": places, "k_positions": places, "same_rows": True}
    options |= {"q_segment_ids": jnp.ones_like(places), "k_segment_ids": jnp.ones_like(places)}
    rng = np.random.default_rng(0)
    shapes = (2, length, 6, 32), (2, length, 3, 32), (2, length, 3, 32)
    given = [jnp.asarray(rng.standard_normal(shape), jnp.bfloat16) for shape in shapes]

    def gradients(impl, *given):
        loss = lambda *x: (attention(*x, impl=impl, **options).astype(jnp.float32) ** 2).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, (0, 1, 2)))(*given)

    wanted = gradients("reference", *(x.astype(jnp.float32) for x in given))
    for found, want in zip(gradients("flash", *given), wanted, strict=True):
        assert_close(np.asarray(found, np.float32), np.asarray(want), 3e-2)


@pytest.mark.usefixtures("loops")
def test_the_backward_pass_drops_what_the_forward_pass_dropped():
    *given, cotangent = arrays(43, 43)
    direction = [jnp.cos(7 * x) for x in given]
    options = {"same_rows": True, "dropout_rate": 0.4, "dropout_key": jax.random.key(3)}
    attend = call("flash", 43, 43, **options)
    loss = jax.jit(lambda *x: (attend(*x) * cotangent).sum())
    slope = sum(
        jnp.vdot(g, d) for g, d in zip(jax.grad(loss, (0, 1, 2))(*given), direction, strict=True)
    )
    step = 2e-3
    moved = lambda s: [x + s * d for x, d in zip(given, direction, strict=True)]  # noqa: E731
    ends = [loss(*moved(s)) for s in (step, -step)]
    assert float(slope) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=2e-3)
    plain = call("flash", 43, 43, same_rows=True)(*given)
    assert np.abs(np.asarray(attend(*given) - plain)).max() > 0.1


def test_memory_grows_with_the_length_and_not_with_its_square():
    def bytes_of(length: int) -> int:
        shape = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)
        places = jnp.arange(length)[None]

        def loss(q, k, v):
            out = attention(
                q,
                k,
                v,
                q_positions=places,
                k_positions=places,
                q_segment_ids=jnp.ones_like(places),
                k_segment_ids=jnp.ones_like(places),
                same_rows=True,
                impl="flash",
            )
            return (out**2).sum()

        step = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*[shape] * 3).compile()
        return step.memory_analysis().temp_size_in_bytes

    assert bytes_of(8192) < 2.1 * bytes_of(4096)


def test_cpus_take_it_and_decoding_does_not():
    can = {"is_causal": True, "prefix": False, "window": False, "same_rows": True, "split": False}
    can |= {"bias": False, "dropout": False, "length": 64, "keys": 64, "softcap": False}
    can |= {"dtype": "float32", "head_dims": (16, 16)}
    pick = flash.attention_kernels.pick
    with target_platform("cpu"):
        assert pick(**can) is pick("flash", **can)
        for other in ({"length": 1}, {"bias": True}, {"split": True}, {"same_rows": False}):
            assert pick(**can | other) is not pick("flash", **can)
    with target_platform("gpu"):
        assert pick(**can) is pick("blocked", **can)
