"""Attention against torch's, and its implementations against each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.kernels import attention as module
from jaxlm.kernels import flash
from jaxlm.kernels.attention import attention
from tests.nn.golden_nn import assert_close, load, under

IMPLS = ["reference", "blocked", "flash", "loops"]  # loops: flash as for long rows
CASES = {"full": None, "window": 7}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks, the last one ragged, in the rows of these tests."""
    monkeypatch.setattr(module, "MIN_BLOCK", 16)
    monkeypatch.setattr(module, "MAX_BLOCKS", 4)
    for name, size in {"BLOCK": 16, "SHORT": 8, "LONG_QUERIES": 8, "LONG_KEYS": 16}.items():
        monkeypatch.setattr(flash, name, size)


def run(q, k, v, positions, segment_ids, **options):
    if options.get("impl") == "loops":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flash, "SHORT", 0)
            return run(q, k, v, positions, segment_ids, **{**options, "impl": "flash"})
    return attention(
        q,
        k,
        v,
        q_positions=positions,
        k_positions=positions,
        q_segment_ids=segment_ids,
        k_segment_ids=segment_ids,
        **({"same_rows": True} | options),
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_torchs(impl, case):
    golden = load("nn_attention")
    want = under(golden, case)

    @jax.jit
    def both(q, k, v):
        def loss(q, k, v):
            out = run(q, k, v, golden["positions"], golden["segment_ids"], impl=impl, **options)
            return jnp.sum(out * golden["cotangent"]), out

        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)

    options = {"window": CASES[case]}
    (_, out), grads = both(golden["q"], golden["k"], golden["v"])
    assert_close(out, want["out"])
    for name, grad in zip("qkv", grads, strict=True):
        assert_close(grad, want[f"d{name}"])


@pytest.mark.parametrize(
    "options",
    [{"scale": 0.7, "window": 1}, {"softcap": 1.0, "window": 13}],
    ids=str,
)
def test_all_are_reference(options):
    golden = load("nn_attention")

    def loss(q, k, v, impl):
        out = run(q, k, v, golden["positions"], golden["segment_ids"], impl=impl, **options)
        return jnp.sum(jnp.sin(out) * golden["cotangent"])

    results = [
        jax.jit(jax.value_and_grad(lambda q, k, v, i=impl: loss(q, k, v, i), argnums=(0, 1, 2)))(
            golden["q"], golden["k"], golden["v"]
        )
        for impl in IMPLS
    ]
    for other in results[1:]:
        jax.tree.map(assert_close, results[0], other)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_query_that_sees_nothing_gives_zeros_and_finite_gradients(impl):
    golden = load("nn_attention")
    segments = golden["segment_ids"].copy()
    segments[1] = 0

    def loss(q, k, v):
        out = run(q, k, v, golden["positions"], segments, impl=impl)
        return jnp.sum(out**2), out

    grads, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(
        golden["q"], golden["k"], golden["v"]
    )
    assert not np.asarray(out[1]).any() and np.asarray(out[0]).any()
    for grad in grads:
        assert np.isfinite(grad).all() and not np.asarray(grad[1]).any()


@pytest.mark.parametrize("impl", IMPLS)
def test_other_documents_do_not_change_a_bit(impl):
    golden = load("nn_attention")
    ours = golden["segment_ids"] == 2
    call = jax.jit(
        lambda q, k, v: run(q, k, v, golden["positions"], golden["segment_ids"], impl=impl)
    )
    before = call(golden["q"], golden["k"], golden["v"])
    changed = [
        np.where(ours[..., None, None], golden[name], 100 * golden[name] + 3) for name in "qkv"
    ]
    after = call(*changed)
    assert (np.asarray(before)[ours] == np.asarray(after)[ours]).all()
    assert (np.asarray(before) != np.asarray(after)).any()


def test_both_directions_see_the_whole_document():
    golden = load("nn_attention")
    q, k, v = (jnp.asarray(golden[name][:1]) for name in "qkv")
    positions, segments = golden["positions"][:1], golden["segment_ids"][:1]
    out = run(q, k, v, positions, segments, is_causal=False)
    reverse = run(*(x[:, ::-1] for x in (q, k, v)), positions, segments, is_causal=False)
    assert_close(out, reverse[:, ::-1])
    assert np.abs(np.asarray(out - run(q, k, v, positions, segments))).max() > 0.1


@pytest.mark.parametrize("impl", IMPLS)
def test_dropout_keeps_the_mean(impl):
    golden = load("nn_attention")
    arrays = [golden[name][:1, :26] for name in ("q", "k", "v", "positions", "segment_ids")]
    call = jax.jit(jax.vmap(lambda key: run(*arrays, dropout_rate=0.3, dropout_key=key, impl=impl)))
    outs = np.asarray(call(jax.random.split(jax.random.key(0), 200)))
    want = under(golden, "full")["out"][:1, :26]
    error = np.abs(outs.mean(0) - want) / (outs.std(0) / np.sqrt(len(outs)) + 1e-6)
    assert error.max() < 6  # standard errors
    assert (outs[0] != outs[1]).any()


def test_blocked_refuses_rows_that_are_not_the_same():
    golden = load("nn_attention")
    with pytest.raises(UserError, match="blocked.*cannot do.*same_rows=False.*use"):
        run(
            *(golden[name] for name in ("q", "k", "v", "positions", "segment_ids")),
            impl="blocked",
            same_rows=False,
        )
