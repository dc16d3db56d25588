"""The loss that forms its gradient in the forward pass: against torch, on one device and eight."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding, PartitionSpec

from jaxlm.kernels.cross_entropy import HeadParams
from jaxlm.kernels.head_loss import head_loss, head_loss_kernels, splits_vocabulary
from jaxlm.kernels.registry import target_platform
from jaxlm.mesh import MeshConfig, shard
from jaxlm.plan.hlo.count import count
from tests.nn.golden_nn import assert_close, load, under

module = sys.modules[head_loss.__module__]

CASES = {
    "plain": {},
    "smooth": {"label_smoothing": 0.1},
    "z": {"z_loss": 0.01},
    "all": {"label_smoothing": 0.2, "z_loss": 0.02, "softcap": 3.0},
}


def run(impl, arrays, **options):
    """((sum, token), gradients of twice the sum) of (hidden, kernel, bias)."""
    softcap = options.pop("softcap", None)
    *inputs, targets, weights = arrays

    @jax.jit
    def both(*inputs):
        def loss(hidden, kernel, bias):
            head = HeadParams(kernel, bias, softcap)
            out = head_loss(hidden, head, targets, weights, impl=impl, **options)
            return 2 * out[0] + out[1].nll.sum(), out  # the figures have no gradient

        gradients, out = jax.grad(loss, (0, 1, 2), has_aux=True)(*inputs)
        return out, gradients

    return jax.device_get(both(*inputs))


@pytest.mark.parametrize("impl", ["reference", "chunked"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_torchs(case, impl, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    golden = load("nn_cross_entropy")
    want, names = under(golden, case), ("hidden", "kernel", "bias")
    arrays = [golden[name] for name in (*names, "targets", "weights")]
    (loss_sum, token), gradients = run(impl, arrays, **CASES[case])
    assert_close(token.loss, want["loss"])
    assert_close(loss_sum, (want["loss"] * golden["weights"]).sum())
    for name, gradient in zip(names, gradients, strict=True):
        assert_close(gradient, 2 * want[f"d{name}"])
    if case == "plain":
        assert_close(token.nll, want["loss"])
        plain = run("reference", arrays)[0][1]
        np.testing.assert_array_equal(token.correct, plain.correct)


def made(batch=8, length=24, dim=16, vocab=32):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, vocab, (batch, length)).astype(np.int32)
    weights = (rng.random((batch, length)) < 0.7).astype(np.float32)
    shapes = (batch, length, dim), (dim, vocab), (vocab,)
    return [*(rng.normal(size=s).astype(np.float32) for s in shapes), targets, weights]


@pytest.mark.parametrize("way", ["by tokens", "by vocabulary"])
@pytest.mark.parametrize("length", [24, 25], ids=["split", "whole"])
def test_a_mesh_changes_nothing(length, way, monkeypatch):
    """Rows, length and vocabulary over two devices each; a length of 25 is not split."""
    monkeypatch.setattr(module, "CHUNK", 5)
    monkeypatch.setattr(module, "MOST_TOKENS", {"by tokens": 0, "by vocabulary": 100}[way])
    options = CASES["all"]
    want = run("reference", made(length=length), **options)
    with jax.set_mesh(MeshConfig(data=1, fsdp=2, context=2, tensor=2).build()):
        found = run("chunked", made(length=length), **options)
    jax.tree.map(assert_close, found, want)


@pytest.mark.parametrize(("fsdp", "vocab"), [(8, 9), (4, 18)], ids=["fsdp", "tensor too"])
@pytest.mark.parametrize("case", CASES)
def test_a_vocabulary_that_the_devices_do_not_divide(case, fsdp, vocab, monkeypatch):
    """With 9 entries over 8 devices, some have two, one has one and some have none; with two halves
    of 9 entries over 4 devices each, the last of each half has none.
    """
    monkeypatch.setattr(module, "CHUNK", 5)
    monkeypatch.setattr(module, "MOST_TOKENS", 100)
    arrays = made(length=6, vocab=vocab)
    want = run("reference", arrays, **CASES[case])
    with jax.set_mesh(MeshConfig(data=1, fsdp=fsdp, tensor=8 // fsdp).build()):
        found = run("chunked", arrays, **CASES[case])
    jax.tree.map(assert_close, found, want)


@pytest.mark.parametrize(("tokens", "by_vocabulary"), [(85, True), (86, False)])
def test_the_vocabulary_is_split_for_few_tokens(tokens, by_vocabulary):
    """At most two of all that meet one kernel for three of its 128 columns."""
    mesh, gathers_none = MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=4, tensor=2)
    with target_platform("tpu"):
        with jax.set_mesh(mesh.build()):
            assert splits_vocabulary((2, tokens), 256) == by_vocabulary
        with jax.set_mesh(gathers_none.build()):
            assert not splits_vocabulary((2, tokens), 256)
    with jax.set_mesh(mesh.build()):
        assert not splits_vocabulary((2, tokens), 256)  # the reference does not


def sent(mesh, **sizes):
    """What the gradients of hidden states and of a head's kernel send, which fsdp splits:
    (counts, elements of the kernel).
    """
    hidden, kernel, bias, targets, weights = made(**sizes)

    @jax.jit
    def gradient(kernel):
        return jax.grad(
            lambda k, x: head_loss(x, HeadParams(k, bias), targets, weights, impl="chunked")[0],
            (0, 1),
        )(kernel, shard(hidden, "batch", None, None))

    devices = mesh.build()
    with jax.set_mesh(devices):
        split = jax.device_put(kernel, NamedSharding(devices, PartitionSpec("fsdp")))
        text = gradient.lower(split).compile().as_text()
    return count(text, mesh={axis: n for axis, n in devices.shape.items() if n > 1}), kernel.size


def test_the_kernels_gradient_is_summed_into_the_parts_that_devices_keep(monkeypatch):
    """Over fsdp half of what an all-reduce sends, over data a part of it."""
    monkeypatch.setattr(module, "MOST_TOKENS", 0)
    counts, size = sent(MeshConfig(data=2, fsdp=4))
    assert counts.wire_bytes("reduce-scatter", "fsdp") == 4 * size * 3 / 4
    summed = counts.wire_bytes("all-reduce")
    assert size <= summed < 2 * size  # the parts over data, and sums of single numbers


def test_tokens_are_sent_instead_of_a_larger_kernel():
    """All of it moves once to its columns and back; hidden states are gathered, and summed."""
    batch, length, dim, vocab = 8, 3, 16, 2048
    counts, size = sent(MeshConfig(data=2, fsdp=4), batch=batch, length=length, vocab=vocab)
    own = 4 * size / 4  # bytes of a part
    assert counts.wire_bytes("all-to-all", "fsdp") == 2 * own * 3 / 4
    tokens = 4 * batch // 2 * length * dim  # bytes, of those that meet one kernel
    numbers = 2 * 4 * batch // 2 * length  # targets and weights
    gathered = counts.wire_bytes("all-gather")
    assert gathered == (tokens + numbers) * 3 / 4
    assert counts.wire_bytes("reduce-scatter", "fsdp") == tokens * 3 / 4
    assert counts.wire_bytes("all-reduce") < 1.2 * own  # the part over data, and single numbers


def products(function, *arrays):
    """The matrix products in a traced function and all that it calls."""

    def count(jaxpr):
        inner = [j for eqn in jaxpr.eqns for j in jaxprs_in_params(eqn.params)]
        own = sum(eqn.primitive.name == "dot_general" for eqn in jaxpr.eqns)
        return own + sum(map(count, inner))

    return count(jax.make_jaxpr(function)(*arrays).jaxpr)


def test_three_products_with_the_head_and_never_all_logits():
    """Where one chunk is made at a time, and none is made again."""
    hidden, kernel, bias, targets, weights = made(batch=4, length=2048, dim=8, vocab=512)

    def loss(hidden, kernel):
        return head_loss(hidden, HeadParams(kernel), targets, weights, impl="chunked")[0]

    assert products(loss, hidden, kernel) == 1
    assert products(jax.grad(loss, (0, 1)), hidden, kernel) == 3
    step = jax.jit(jax.grad(loss, (0, 1))).lower(hidden, kernel).compile()
    all_logits = 4 * targets.size * 512
    assert step.memory_analysis().temp_size_in_bytes < all_logits
    assert "[4,2048,512]" not in step.as_text()


def test_accelerators_take_it():
    for platform, name in {"tpu": "chunked", "gpu": "chunked", "cpu": "reference"}.items():
        with target_platform(platform):
            assert head_loss_kernels.pick() is head_loss_kernels.pick(name)


def test_bfloat16_is_near_float32():
    arrays = made(dim=32)
    (want, _), grads = run("chunked", arrays)
    narrow = [jnp.asarray(x, jnp.bfloat16) for x in arrays[:2]] + arrays[2:]
    (found, token), narrow_grads = run("chunked", narrow)
    assert token.loss.dtype == np.float32
    assert found == pytest.approx(want, rel=0.02)
    for a, b in zip(narrow_grads[:2], grads, strict=False):
        assert a.dtype == jnp.bfloat16
        assert np.abs(a.astype(np.float32) - b).max() < 0.05 * np.abs(b).max()
