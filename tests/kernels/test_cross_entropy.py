"""The head's loss against torch's, and its implementations against each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.kernels.cross_entropy import HeadParams, cross_entropy, logits
from tests.nn.golden_nn import assert_close, load, under

CASES = {
    "plain": {},
    "smooth": {"label_smoothing": 0.1},
    "z": {"z_loss": 0.01},
    "all": {"label_smoothing": 0.2, "z_loss": 0.02, "softcap": 3.0},
}


@pytest.mark.parametrize("impl", ["reference", "gather"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_torchs(case, impl):
    golden, options = load("nn_cross_entropy"), dict(CASES[case])
    want = under(golden, case)
    softcap = options.pop("softcap", None)

    @jax.jit
    def both(*inputs):
        def loss(hidden, kernel, bias):
            head = HeadParams(kernel, bias, softcap)
            out = cross_entropy(hidden, head, golden["targets"], impl=impl, **options)
            return jnp.sum(out.loss * golden["weights"]), out

        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*inputs)

    names = ("hidden", "kernel", "bias")
    (_, out), grads = both(*(golden[name] for name in names))
    assert_close(out.loss, want["loss"])
    for name, grad in zip(names, grads, strict=True):
        assert_close(grad, want[f"d{name}"])
    if case == "plain":
        assert_close(out.nll, want["loss"])
        best = logits(golden["hidden"], HeadParams(golden["kernel"], golden["bias"])).argmax(-1)
        assert (np.asarray(out.correct) == (best == golden["targets"])).all()


def test_smoothing_and_z_loss_leave_the_reported_loss_alone():
    golden = load("nn_cross_entropy")
    head = HeadParams(golden["kernel"], golden["bias"])
    out = cross_entropy(golden["hidden"], head, golden["targets"], label_smoothing=0.3, z_loss=0.1)
    assert_close(out.nll, under(golden, "plain")["loss"])


def test_of_equal_logits_only_the_first_is_the_argmax():
    head = HeadParams(jnp.zeros((2, 5)))
    out = cross_entropy(jnp.ones((1, 5, 2)), head, jnp.arange(5)[None], impl="reference")
    assert out.correct.tolist() == [[1, 0, 0, 0, 0]]


def test_statistics_are_float32_under_bfloat16():
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(1, 4, 32)), jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(32, 50)), jnp.bfloat16)
    out = cross_entropy(hidden, HeadParams(kernel), jnp.arange(4)[None])
    z = np.asarray(hidden, np.float64)[0] @ np.asarray(kernel, np.float64)
    want = np.log(np.exp(z).sum(-1)) - z[np.arange(4), np.arange(4)]
    assert out.loss.dtype == jnp.float32
    assert_close(out.loss[0], want)
