"""The options of LoRA, and DoRA, against closed forms on the parameters."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.adapters.dora import DoRA
from jaxlm.adapters.lora import LoRA
from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten, join, unflatten
from jaxlm.nn.adapter_key import adapter_key, key_of_adapter
from jaxlm.nn.dense import Dense
from jaxlm.nn.dropout import dropout
from jaxlm.nn.given import Found
from jaxlm.nn.stack import apply_stack, stack
from tests import tiny
from tests.adapters.test_adapters import config_of, loss, program_of

OWN = ("lora_a", "lora_b", "magnitude")


def drawn(program: Any) -> dict[str, Any]:
    """Parameters whose adapters all differ from their start, on the host."""
    return tiny.near_fresh(program.abstract_params)


def by_hand(flat: dict[str, Any], scale: dict[str, float]) -> dict[str, Any]:
    """The merged parameters in float64: W + s A B, or m (W + s A B) / ||W + s A B||."""
    out = {path: x for path, x in flat.items() if not path.endswith(OWN)}
    for path in [p for p in flat if p.endswith("lora_a")]:
        where = path.removesuffix("/adapter/lora_a")
        leaf = f"{where}/kernel" if f"{where}/kernel" in flat else f"{where}/table"
        a, b, w = (np.float64(flat[p]) for p in (path, f"{where}/adapter/lora_b", leaf))
        stack = a.ndim + b.ndim - 2 - w.ndim
        inputs = tuple(range(stack, a.ndim - 1))
        layers = []
        for index in np.ndindex(*w.shape[:stack]):
            one, rank = w[index], a.shape[-1]
            change = a[index].reshape(-1, rank) @ b[index].reshape(rank, -1)
            new = one + scale[where] * change.reshape(one.shape)
            if (m := flat.get(f"{where}/adapter/magnitude")) is not None:
                axes = tuple(i - stack for i in inputs)
                norm = lambda x, axes=axes: np.sqrt((x**2).sum(axes))  # noqa: E731
                new = new * (norm(one) + m[index]) / norm(new)
            layers.append(new)
        out[leaf] = np.float32(np.reshape(layers, w.shape))
    return unflatten(out)


CASES = {
    "rank and alpha by pattern, rslora": (
        LoRA(
            rank=4,
            alpha=3.0,
            rslora=True,
            targets=("q_proj", "down", "embed"),
            rank_pattern={"down": 2},
            alpha_pattern={"layers/.*query": 5.0},
        ),
        {"layers/attention/query": 5 / 2, "layers/ffn/down": 3 / 2**0.5, "embed": 3 / 2},
    ),
    "dora": (
        DoRA(rank=2, alpha=4.0, targets=("c_attn", "ffn/down")),
        {
            **{f"layers/attention/{name}": 2.0 for name in ("query", "key", "value")},
            "layers/ffn/down": 2.0,
        },
    ),
}


def logits(program: Any, params: Any) -> np.ndarray:
    batch = tiny.ragged_batch(0)
    rows = {key: batch[key] for key in ("positions", "segment_ids")}

    @jax.jit
    def forward(params: Any) -> jax.Array:
        model = nnx.merge(program.graphdef, params)
        return model.logits(model(batch["tokens"], **rows).hidden)

    return np.asarray(forward(params))


@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_the_closed_form_of_its_kernels_computes(case: str) -> None:
    adapter, scale = CASES[case]
    program, plain = program_of("transformer", adapter), program_of("transformer", None)
    params = drawn(program)
    want = by_hand(flatten(params), scale)
    got, merged = flatten(jax.jit(adapter.merge)(params)), flatten(want)
    assert got.keys() == merged.keys()
    for path, value in merged.items():
        np.testing.assert_allclose(got[path], value, atol=1e-6, err_msg=path)
    np.testing.assert_allclose(logits(program, params), logits(plain, want), atol=1e-5)
    start = tiny.params_of(program)
    base = program.base(start)
    np.testing.assert_allclose(logits(program, start), logits(plain, base), atol=1e-6)


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_the_gradients_of_dora_take_the_norm_as_a_constant(name: str) -> None:
    """dm = sum dW' V / ||V||, dA = s (dW' m / ||V||) B^T, with dW' the plain model's gradient."""
    adapter = DoRA(rank=2, alpha=6.0)
    program, plain = program_of(name, adapter), program_of(name, None)
    params, batch = drawn(program), tiny.on_mesh(tiny.ragged_batch(0), program)
    trained, base = program.trained(params), program.base(params)

    @jax.jit
    def gradient(trained: Any) -> Any:
        return jax.grad(lambda t: loss(program, join(t, base), batch))(trained)

    grads = flatten(jax.device_get(gradient(trained)))
    merged = jax.jit(adapter.merge)(params)
    whole = flatten(jax.device_get(jax.jit(jax.grad(partial(loss, plain)))(merged, batch)))
    flat = flatten(params)
    paths = [p.removesuffix("/adapter/magnitude") for p in grads if p.endswith("magnitude")]
    assert len(grads) == 3 * len(paths) >= 6
    for path in paths:
        a, b, m = (np.float64(flat[f"{path}/adapter/{x}"]) for x in OWN)
        w, dw = (np.float64(x[f"{path}/kernel"]) for x in (flat, whole))
        for i in range(len(w)):  # layers
            rank, shape = a.shape[-1], (int(np.prod(a.shape[1:-1])), -1)
            ai, bi = a[i].reshape(-1, rank), b[i].reshape(rank, -1)
            wi, di, mi = w[i].reshape(shape), dw[i].reshape(shape), m[i].reshape(-1)
            v = wi + 3.0 * ai @ bi
            norm = np.linalg.norm(v, axis=0)
            dv = di * (np.linalg.norm(wi, axis=0) + mi) / norm
            for x, want in {
                "magnitude": (di * v / norm).sum(0),
                "lora_a": 3.0 * dv @ bi.T,
                "lora_b": 3.0 * ai.T @ dv,
            }.items():
                got = np.asarray(grads[f"{path}/adapter/{x}"][i]).reshape(want.shape)
                atol = 1e-4 * (np.abs(want).max() + 1e-3)
                np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=f"{path} {x}")


def test_dropout_is_on_the_input_of_a_and_differs_between_layers_and_adapters() -> None:
    def layer(rngs: Any) -> Dense:
        return Dense({"embed": 64}, {"mlp": 64}, std=0.0, rngs=rngs)

    layers = stack(layer, 3, rngs=nnx.Rngs(0))
    model = nnx.Dict(layers=layers)
    LoRA(rank=64, alpha=64.0, dropout=0.25).apply(model, rngs=nnx.Rngs(1))
    eye = jnp.broadcast_to(jnp.eye(64), (3, 64, 64))
    layers.adapter.lora_a[...], layers.adapter.lora_b[...] = eye, eye
    x, keys = jnp.ones((8, 64)), jax.random.split(jax.random.key(0), 3)

    def body(layer: Any, x: jax.Array, given: Any) -> Any:
        return x, Found(layer(x))

    @jax.jit
    def outputs(keys: Any) -> jax.Array:
        return apply_stack(layers, body, x, keys=keys, num_layers=3)[1].by_row

    found = np.asarray(outputs(keys))
    for i in range(3):
        with adapter_key(keys[i]):
            np.testing.assert_array_equal(found[i], dropout(x, 0.25, key_of_adapter(0)))
            assert (found[i] != dropout(x, 0.25, key_of_adapter(1))).any()
    assert (found[0] != found[1]).any() and 0.15 < (found == 0).mean() < 0.35
    np.testing.assert_array_equal(outputs(None), np.ones((3, 8, 64)))


def test_mistakes_in_the_options_are_one_line() -> None:
    for adapter, said in (
        (
            LoRA(rank_pattern={"donw": 2}),
            r"adapter.rank_pattern.donw: 'donw' matches nothing.*down",
        ),
        (LoRA(exclude=("embedd",)), "adapter.exclude: 'embedd' matches nothing; there are embed"),
        (DoRA(targets=("embed",)), "adapter.targets: 'embed' matches nothing"),
    ):
        with pytest.raises(UserError, match=f"^{said}"):
            program_of("transformer", adapter)
    with pytest.raises(UserError, match="^adapter.dropout: layers/cell/recurrent has no input"):
        tiny.program(config_of("lstm"), adapter=LoRA(dropout=0.1))
    with pytest.raises(UserError, match="^rank_pattern.up: 0 is too small"):
        LoRA(rank_pattern={"up": 0}).validate()
