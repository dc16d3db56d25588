"""Training in 8 bits: near the losses of float32, near each other on any mesh, 8 bits in fact."""

from __future__ import annotations

import re
import sys
from functools import cache
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.config import UserError
from jaxlm.mesh import MeshConfig, param_shardings
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.dense import Dense
from jaxlm.nn.experts import ExpertKernels
from jaxlm.nn.moe import MoEConfig
from jaxlm.nn.params import split
from tests import tiny

STEPS = 20
EIGHT = MeshConfig(data=2, fsdp=2, tensor=2)
MOE = MoEConfig(num_experts=4, intermediate_size=24, shared_size=16)
needs_qwix = pytest.mark.skipif(find_spec("qwix") is None, reason="qwix is not here")


@cache
def trained(quantization, mesh=tiny.ONE, *overrides):
    """(losses of 20 steps on two batches in turn, the compiled step's text)"""
    low = f"model.quantization={quantization or 'null'}"
    shared = ("model.dropout=0", "optimizer.learning_rate=0.01", low)
    config, _ = tiny.prepared(tiny.load("transformer", *shared, *overrides).config)
    learner = tiny.learner(config, mesh)
    batches = [tiny.on_mesh(tiny.ragged_batch(i, rows=16, vocab=16), learner) for i in range(2)]
    step = learner.compile(tiny.spec_of(batches[0]))
    state, found = tiny.state_of(learner), []
    for i in range(STEPS):
        state, metrics = step(state, {}, batches[i % 2])
        found.append(metrics["objective"])
    assert {x.dtype.name for x in jax.tree.leaves(state["params"])} == {"float32"}
    sums = np.array(jax.device_get(found))
    return sums[:, 0] / sums[:, 1], step.as_text()


@needs_qwix
@pytest.mark.parametrize(
    ("quantization", "limit"),
    [("int8", 2e-3), pytest.param("fp8", 1e-2, marks=pytest.mark.slow)],
)
def test_a_run_is_near_that_of_float32(quantization, limit):
    plain, low = trained(None)[0], trained(quantization)[0]
    assert plain[0] - plain[-1] > 2.4  # it has learnt
    distance = np.abs(plain - low)
    assert 1e-6 < distance.max() < limit


@needs_qwix
def test_a_run_hardly_depends_on_how_it_is_computed():
    """On a mesh, recomputed, in parts of the batch: sums in another order now and then move a
    number to the next of the 255 integers.
    """
    other = trained("int8", EIGHT, "train.accumulation=2", "model.remat=full")
    distance = np.abs(trained("int8")[0] - other[0])
    assert distance[0] < 2e-4 and distance.max() < 2e-3


@needs_qwix
def test_products_with_weights_are_of_integers_and_no_others():
    """7 in a layer, forward and twice backward; float32 are attention's 6 and the head's 3."""
    text = trained("int8", tiny.ONE, "model.scan_layers=true")[1]
    products = re.findall(r"= (\w+)\[.* dot\(", text)
    assert (products.count("s32"), set(products)) == (21, {"s32", "f32"})
    assert {x for x in re.findall(r"= (\w+)\[.* dot\(", trained(None)[1])} == {"f32"}


@needs_qwix
def test_experts_are_near_those_of_float32():
    """Gradients by parameters and input, as vectors, on eight devices."""
    x = np.random.default_rng(0).normal(size=(8, 16, 32)).astype(np.float32)
    ids = np.ones((8, 16), np.int32)
    layer = MOE.build(32, rngs=nnx.Rngs(0))

    def gradients(quantization, mesh):
        for part in (layer.gate, layer.up, layer.down):
            part.quantization = quantization
        graphdef, params, axes = split(layer)
        loss = lambda p, x: jnp.square(nnx.merge(graphdef, p)(x, ids)[0]).sum()  # noqa: E731
        where = mesh.build()
        with jax.set_mesh(where):
            params = jax.device_put(params, param_shardings(params, axes, where))
            return jax.device_get(jax.jit(jax.grad(loss, (0, 1)))(params, x))

    plain = gradients(None, tiny.ONE)
    split_up = MeshConfig(data=1, fsdp=2, expert=2, tensor=2)
    for quantization, limit in (("int8", 0.04), ("fp8", 0.12)):
        low = gradients(quantization, split_up)
        for a, b in zip(jax.tree.leaves(low), jax.tree.leaves(plain), strict=True):
            assert 1e-6 < np.linalg.norm(a - b) / np.linalg.norm(b) < limit


@needs_qwix
def test_routers_and_what_is_outside_the_layers_stay_as_they_are():
    config = TransformerConfig(hidden_size=16, num_layers=1, ffn=MOE, quantization="fp8")
    config = config.replace(head=config.head.replace(pooler=True))
    model = nnx.eval_shape(lambda: config.build(16, rngs=nnx.Rngs(0)))
    found = {
        path: part.quantization
        for path, part in nnx.iter_modules(model)
        if isinstance(part, Dense | ExpertKernels)
    }
    plain = {path for path, kind in found.items() if kind is None}
    assert plain == {("layers", "ffn", "router"), ("pooler", "dense")}
    assert len(found) == 12 and set(found.values()) == {None, "fp8"}


def test_without_qwix_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    config = TransformerConfig(hidden_size=16, num_layers=1, quantization="int8")
    with pytest.raises(UserError, match=r"pip install 'jaxlm\[quant\]'"):
        nnx.eval_shape(lambda: config.build(16, rngs=nnx.Rngs(0)))
