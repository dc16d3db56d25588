"""The recurrent language model: against torch, over documents, windows, steps, meshes, dropouts."""

from __future__ import annotations

import dataclasses
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten
from jaxlm.generate import Generator, Sampling
from jaxlm.kernels.cross_entropy import cross_entropy
from jaxlm.mesh import MeshConfig, batch_sharding, param_shardings
from jaxlm.models.rnn import RNNConfig
from jaxlm.nn.ngram_embed import NgramEmbeddingConfig
from jaxlm.nn.params import split
from jaxlm.nn.recurrent import CELLS
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.training.program import make_program
from tests.hlo import COLLECTIVE, loop_bodies
from tests.nn import golden_rnn

V, B, T = 32, 2, 8
SMALL = RNNConfig(hidden_size=16, num_layers=2, initializer_range=0.5, dtype="float32")
AWD = SMALL.replace(num_layers=3, embedding_size=8)  # 8 -> 16 -> 16 -> 8
DROPOUTS = {
    "dropout": 0.3,
    "dropout_input": 0.3,
    "dropout_hidden": 0.3,
    "dropout_embedding": 0.3,
    "dropout_recurrent": 0.3,
}


@cache
def applier(config: RNNConfig):
    """A jitted (params, tokens, positions, cache, key) -> (hidden, logits, cache)."""
    graph = split(nnx.eval_shape(lambda: config.build(V, rngs=nnx.Rngs(0))))[0]

    def apply(params, tokens, positions, cache=None, key=None):
        model = nnx.merge(graph, params)
        segments = jnp.ones_like(tokens)
        hidden, cache, *_ = model(
            tokens, positions=positions, segment_ids=segments, cache=cache, key=key
        )
        return hidden, model.logits(hidden), cache

    return jax.jit(apply)


def make_params(config: RNNConfig) -> dict:
    """Random parameters; normal ones, so that biases are not all equal."""
    abstract = split(nnx.eval_shape(lambda: config.build(V, rngs=nnx.Rngs(0))))[1]
    rng = np.random.default_rng(0)
    draw = lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, abstract)


def init_cache(config: RNNConfig, batch: int = B):
    return nnx.eval_shape(lambda: config.build(V, rngs=nnx.Rngs(0))).init_cache(batch, 0)


def make_tokens(shape=(B, T), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, shape).astype(np.int32)


def count(*lengths: int) -> np.ndarray:
    """Positions [B, T] of rows that hold documents of these lengths."""
    row = np.concatenate([np.arange(n) for n in lengths])
    return np.tile(row, (B, 1)).astype(np.int32)


close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", golden_rnn.CASES)
def test_layers_and_cache_equal_torch(name):
    golden = golden_rnn.load(name)
    cell, _, activation = name.partition("_")
    x = golden["x"]  # [T, B, D]
    length, batch, dim = x.shape
    vocab, hidden = length * batch, golden["h_0"].shape[-1]
    config = RNNConfig(
        cell=cell,
        hidden_size=hidden,
        embedding_size=dim,
        tie_embeddings=False,
        activation=activation or "tanh",
        dtype="float32",
    )
    config = config.replace(vocab_size=max(vocab, V))
    apply, params = applier(config), make_params(config)
    table = np.zeros_like(params["embed"]["table"])
    table[:vocab] = x.reshape(vocab, dim)  # a word for every input vector
    params = params | {"embed": {"table": table}}
    state = {}
    for i in range(2):
        add_layer_dim = partial(jax.tree.map, lambda a: a[None])
        params[f"layers_{i}"] = {"cell": add_layer_dim(golden_rnn.params(golden, i))}
        state[f"layers_{i}"] = add_layer_dim(golden_rnn.state(golden, i))
    tokens = np.arange(vocab, dtype=np.int32).reshape(length, batch).T
    positions = np.ones_like(tokens)
    outputs, _, state = apply(params, tokens, positions, state)
    close(outputs, golden["outputs"].swapaxes(0, 1))
    for i in range(2):
        end = jax.tree.map(lambda a: a[0], state[f"layers_{i}"])
        jax.tree.map(close, end, golden_rnn.state(golden, i, "n"))


@pytest.mark.parametrize("name", [n for n in golden_rnn.CASES if n != "elman_relu"])
def test_greedy_texts_are_torchs(name):
    """64 tokens after each prompt alone, and after all as a batch of unequal lengths."""
    golden = golden_rnn.load(name)
    cell, _, activation = name.partition("_")
    vocab, dim = golden["embedding"].shape
    config = RNNConfig(
        **{"cell": cell, "activation": activation or "tanh", "vocab_size": vocab},
        **{"hidden_size": golden["h_0"].shape[-1], "embedding_size": dim, "num_layers": 2},
        **{"tie_embeddings": False, "dtype": "float32"},
    )
    params = {
        "embed": {"table": golden["embedding"]},
        "unembed": {"kernel": golden["head_weight"].T, "bias": golden["head_bias"]},
    }
    for i in range(2):
        layer = golden_rnn.params(golden, i)
        params[f"layers_{i}"] = {"cell": jax.tree.map(lambda a: a[None], layer)}
    mesh = MeshConfig(data=3, num_devices=3).build()  # one and three: one program
    program = make_program(mesh=mesh, model=config, objective=CausalLM(), batch_size=3)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, program.abstract_params)
    rows = zip(golden["prompts"], golden["prompt_lengths"], strict=True)
    prompts = [row[:length].tolist() for row, length in rows]
    generate = Generator(program, Sampling(max_tokens=64, temperature=0), eos_id=None, pad_id=0)
    want = golden["greedy"].tolist()
    assert generate(params, prompts) == want
    assert [ids for prompt in prompts for ids in generate(params, [prompt])] == want


@pytest.mark.parametrize("cell", CELLS)
def test_packed_documents_do_not_see_each_other(cell):
    config = SMALL.replace(cell=cell)
    apply, params = applier(config), make_params(config)
    tokens, positions = make_tokens(), count(4, 4)
    both = np.asarray(apply(params, tokens, positions)[1])
    other_first, other_second = tokens.copy(), tokens.copy()
    other_first[:, :4] = (tokens[:, :4] + 1) % V
    other_second[:, 4:] = (tokens[:, 4:] + 1) % V
    changed = np.asarray(apply(params, other_first, positions)[1])
    np.testing.assert_array_equal(changed[:, 4:], both[:, 4:])
    assert np.abs(changed[:, :4] - both[:, :4]).max() > 1e-3
    changed = np.asarray(apply(params, other_second, positions)[1])
    np.testing.assert_array_equal(changed[:, :4], both[:, :4])
    close(apply(params, tokens[:, :4], count(4))[1], both[:, :4])
    close(apply(params, tokens[:, 4:], count(4))[1], both[:, 4:])


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        AWD.replace(cell="gru", num_layers=2),
        SMALL.replace(cell="mingru", residual=True, norm="rmsnorm"),
        AWD.replace(cell="rglru"),
        AWD.replace(cell="rglru", recurrence="associative"),
    ],
)
def test_windows_and_single_steps_equal_one_long_row(config):
    apply, params = applier(config), make_params(config)
    tokens, positions = make_tokens(), count(6, 2)
    _, whole, end = apply(params, tokens, positions, init_cache(config))
    for width in (4, 1):
        state, parts = init_cache(config), []
        for i in range(0, T, width):
            at = slice(i, i + width)
            _, logits, state = apply(params, tokens[:, at], positions[:, at], state)
            parts.append(np.asarray(logits))
        close(np.concatenate(parts, axis=1), whole)
        jax.tree.map(close, state, end)
    # the cache matters: without what came before, the second window is another
    fresh = apply(params, tokens[:, 4:], positions[:, 4:], init_cache(config))[1]
    assert np.abs(fresh - whole[:, 4:]).max() > 1e-3


def test_no_cache_is_an_empty_cache():
    apply, params = applier(SMALL), make_params(SMALL)
    tokens, positions = make_tokens(), count(T) + 5  # a document's later part
    hidden, _, none = apply(params, tokens, positions)
    assert none is None
    np.testing.assert_array_equal(apply(params, tokens, positions, init_cache(SMALL))[0], hidden)


def test_left_padding_changes_nothing():
    config = SMALL
    apply, params = applier(config), make_params(config)
    tokens, pad = make_tokens(), 3
    padded = np.concatenate([make_tokens((B, pad), seed=1), tokens], axis=1)
    positions = np.concatenate([np.zeros((B, pad), np.int32), count(T)], axis=1)
    _, plain, end = apply(params, tokens, count(T), init_cache(SMALL))
    _, shifted, padded_end = apply(params, padded, positions, init_cache(SMALL))
    close(shifted[:, pad:], plain)
    jax.tree.map(close, padded_end, end)


def test_without_a_key_there_is_no_dropout_and_keys_decide_masks():
    config = SMALL.replace(**DROPOUTS)
    apply, params = applier(config), make_params(config)
    tokens, positions = make_tokens(), count(T)
    plain = applier(SMALL)(params, tokens, positions)[1]
    np.testing.assert_array_equal(apply(params, tokens, positions)[1], plain)
    a, b, c = (apply(params, tokens, positions, None, jax.random.key(i))[1] for i in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-2 and np.abs(a - plain).max() > 1e-2


@pytest.mark.parametrize("variational", [True, False])
def test_output_mask_is_shared_over_time_if_variational(variational):
    config = SMALL.replace(dropout=0.5, variational=variational)
    apply, params = applier(config), make_params(config)
    hidden = apply(params, make_tokens(), count(T), None, jax.random.key(0))[0]
    dropped = np.asarray(hidden) == 0  # [B, T, D]
    assert 0.25 < dropped.mean() < 0.75
    assert (dropped == dropped[:, :1]).all() == variational
    assert (dropped[0] != dropped[1]).any()  # rows have masks of their own


def test_hidden_dropout_spares_the_last_output():
    config = SMALL.replace(dropout_hidden=0.5)
    apply, params = applier(config), make_params(config)
    plain, dropped = (
        np.asarray(apply(params, make_tokens(), count(T), None, key)[0])
        for key in (None, jax.random.key(0))
    )
    assert (dropped != 0).all() and np.abs(dropped - plain).max() > 1e-2


def test_input_mask_is_shared_over_time_and_each_layer_has_its_own_masks():
    """What was dropped has no gradient: units in the table's, weights in their own."""
    config = SMALL.replace(
        cell="elman", num_layers=3, dropout_input=0.5, dropout_hidden=0.5, dropout_recurrent=0.5
    )
    apply, params = applier(config), make_params(config)
    key, tokens = jax.random.key(2), np.arange(B * T, dtype=np.int32).reshape(B, T)
    loss = lambda p: (apply(p, tokens, count(T), None, key)[0] ** 2).sum()  # noqa: E731
    grads = jax.device_get(jax.jit(jax.grad(loss))(params))
    table = grads["embed"]["table"][: B * T].reshape(B, T, -1) == 0
    assert 0.25 < table.mean() < 0.75 and (table == table[:, :1]).all()
    weights = grads["layers"]["cell"]["recurrent"]["kernel"] == 0  # [L, H, H]
    for i in range(3):
        assert 0.35 < weights[i].mean() < 0.65
        assert (weights[i] != weights[(i + 1) % 3]).mean() > 0.3
    # units of layers 1 and 2 whose input is dropped in all rows get no input gradient
    inputs = (grads["layers"]["cell"]["input"]["kernel"] == 0).all(axis=2)  # [L, D]
    assert inputs[1].any() and inputs[2].any() and (inputs[1] != inputs[2]).any()


def on_mesh(config: RNNConfig, tokens: np.ndarray):
    """(mesh, params, tokens) spread over data 2, fsdp 2, tensor 2."""
    axes = split(nnx.eval_shape(lambda: config.build(V, rngs=nnx.Rngs(0))))[2]
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    params = make_params(config)
    params = jax.device_put(params, param_shardings(params, axes, mesh))
    return mesh, params, jax.device_put(tokens, batch_sharding(mesh, 2))


@pytest.mark.parametrize(
    "change",
    [
        {"dropout_recurrent": 0.3},
        {"cell": "rglru"},
    ],
    ids=lambda change: "-".join(map(str, change.values())),
)
def test_sharded_equals_one_device(change):
    rates = {"dropout_embedding": 0.3, "dropout_hidden": 0.3}
    config = SMALL.replace(norm="layernorm", **rates, **change)
    tokens, apply, key = make_tokens((8, T)), applier(config).__wrapped__, jax.random.key(0)
    positions = np.tile(count(5, 3), (4, 1))

    def loss(params, tokens):
        hidden, _, state = apply(params, tokens, positions, init_cache(config, 8), key)
        return (hidden**2).mean(), (hidden, state)

    step = jax.value_and_grad(loss, has_aux=True)
    alone = jax.jit(step)(make_params(config), tokens)
    mesh, params, tokens = on_mesh(config, tokens)
    with jax.set_mesh(mesh):
        spread = jax.jit(step)(params, tokens)
    assert len(spread[0][1][0].devices()) == 8
    jax.tree.map(close, spread, alone)


def test_no_collective_runs_at_every_time_step():
    config = SMALL.replace(num_layers=1)  # one layer is not scanned, so all loops are over time
    apply = applier(config).__wrapped__
    mesh, params, tokens = on_mesh(config, make_tokens((8, T)))
    with jax.set_mesh(mesh):
        grad = jax.grad(lambda p, t: (apply(p, t, t)[0] ** 2).mean())
        text = jax.jit(grad).lower(params, tokens).compile().as_text()
    bodies = loop_bodies(text)
    assert len(bodies) == 2  # forward and backward
    assert COLLECTIVE.search(text)
    for body in bodies:
        assert " dot(" in body or "fusion(" in body
        assert not COLLECTIVE.search(body)


def test_linear_cells_stay_split_over_time():
    """The loop is elementwise: no product, no collective, and its width split over tensor."""
    config = SMALL.replace(num_layers=1, cell="mingru")
    apply = applier(config).__wrapped__
    mesh, params, tokens = on_mesh(config, make_tokens((8, T)))
    with jax.set_mesh(mesh):
        grad = jax.grad(lambda p, t: (apply(p, t, t)[0] ** 2).mean())
        text = jax.jit(grad).lower(params, tokens).compile().as_text()
    bodies = loop_bodies(text)
    assert len(bodies) == 2  # forward and backward
    for body in bodies:
        assert f"f32[{T},2,{SMALL.hidden_size // 2}]" in body  # [T, B / 4, H / 2]
        assert not COLLECTIVE.search(body) and " dot(" not in body


CHANGES = {
    "cell": ({}, "gru"),
    "hidden_size": ({}, 8),
    "num_layers": ({}, 3),
    "embedding_size": ({}, 8),
    "vocab_size": ({}, 40),
    "ngrams": ({}, NgramEmbeddingConfig(orders=(2,), buckets=31)),
    "tie_embeddings": ({}, False),
    "activation": ({"cell": "elman"}, "relu"),
    "residual": ({}, True),
    "norm": ({}, "rmsnorm"),
    "dropout": ({}, 0.1),
    "dropout_input": ({}, 0.1),
    "dropout_hidden": ({}, 0.1),
    "dropout_embedding": ({}, 0.1),
    "dropout_recurrent": ({}, 0.1),
    "variational": ({"dropout": 0.1}, False),
    "penalty_activation": ({}, 2.0),
    "penalty_change": ({}, 1.0),
    "carry_state": ({}, True),
    "initializer": ({}, "orthogonal"),
    "initializer_range": ({}, 0.02),
    "logit_softcap": ({}, 30.0),
    "remat": ({}, "full"),
    "unroll": ({}, 4),
    "recurrence": ({}, "reference"),
    "dtype": ({}, "bfloat16"),
}


@cache
def abstract_of(config: RNNConfig):
    return split(nnx.eval_shape(lambda: config.build(V, rngs=nnx.Rngs(0))))[:2]


def shapes_of(config: RNNConfig):
    return abstract_of(config)[1]


@cache
def init_program(config: RNNConfig) -> str:
    def init():
        return nnx.to_pure_dict(nnx.split(config.build(V, rngs=nnx.Rngs(0)))[1])

    return text_of(jax.make_jaxpr(init)())


def text_of(jaxpr) -> str:
    """A traced program; the addresses of functions in it say nothing."""
    return re.sub(" at 0x[0-9a-f]+", "", str(jaxpr))


@cache
def loss_program(config: RNNConfig) -> str:
    """The traced loss as a train step would run it."""
    graph, abstract = abstract_of(config)

    def loss(params, tokens, key, state):
        model = nnx.merge(graph, params)
        out = model(tokens, positions=tokens, segment_ids=tokens, cache=state, key=key)
        loss = cross_entropy(out.hidden, model.head(), tokens).loss.sum()
        return loss + sum(by_row.sum() for by_row in out.losses.values())

    tokens = jax.ShapeDtypeStruct((B, T), jnp.int32)
    state = jax.eval_shape(lambda: init_cache(config)) if config.carries_state else None
    return text_of(jax.make_jaxpr(loss)(abstract, tokens, jax.random.key(0), state))


VIEWS = (shapes_of, loss_program, init_program)  # of a config; what is soonest known first


# What fields of the linear cells are changed to, where it is not the same; None: it is an error.
LINEAR_CHANGES = CHANGES | {
    "activation": None,
    "dropout_recurrent": None,
    "initializer": None,
    "unroll": None,
    "recurrence": ({}, "associative"),
}


@pytest.mark.parametrize("cell", ["lstm", "rglru"])  # minGRU has the fields of the RG-LRU
@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(RNNConfig)])
def test_every_field_changes_parameters_or_program(name, cell):
    change = CHANGES[name] if cell == "lstm" else LINEAR_CHANGES[name]
    if change is None:
        with pytest.raises(UserError, match=f"{name}: {cell} has"):
            SMALL.replace(**{"cell": cell, name: CHANGES[name][1]}).validate()
        return
    base, value = change
    config = SMALL.replace(**{"cell": cell, **base})
    assert getattr(config, name) != value
    changed = config.replace(**{name: value})
    assert any(view(changed) != view(config) for view in VIEWS)


@pytest.mark.parametrize("cell", ["lstm", "rglru"])
def test_a_program_reads_the_same_each_time_it_is_traced(cell):
    """So that what differs above does so by its field."""
    for view in VIEWS[1:]:
        assert view.__wrapped__(SMALL.replace(cell=cell)) == view(SMALL.replace(cell=cell))


def test_remat_changes_no_number():
    tokens, positions, params = make_tokens(), count(5, 3), make_params(SMALL)

    def grads(config):
        loss = lambda p: (applier(config)(p, tokens, positions)[1] ** 2).mean()  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(close, grads(SMALL.replace(remat="full")), grads(SMALL))


def test_bfloat16_computes_near_float32_and_keeps_float32_state():
    tokens, positions = make_tokens(), count(T)
    exact = applier(SMALL)(make_params(SMALL), tokens, positions)[1]
    config = SMALL.replace(dtype="bfloat16")
    apply, params = applier(config), make_params(config)
    hidden, logits, state = apply(params, tokens, positions, init_cache(SMALL))
    assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves((params, state))} == {jnp.dtype("float32")}
    assert np.linalg.norm(logits - exact) / np.linalg.norm(exact) < 0.02


def test_parameters_flops_and_widths():
    model = nnx.eval_shape(lambda: AWD.build(V, rngs=nnx.Rngs(0)))
    _, params, axes = split(model)
    shapes = {path: x.shape for path, x in flatten(params).items()}
    assert shapes["layers_0/cell/input/kernel"] == (1, 8, 64)
    assert shapes["layers_2/cell/recurrent/kernel"] == (1, 8, 32)
    assert flatten(axes)["layers_1/cell/recurrent/kernel"] == ("layers", "hidden", "gates")
    assert AWD.output_size == 8
    gates = 4 * (16 * (8 + 16) + 16 * (16 + 16) + 8 * (16 + 8))
    assert model.flops_per_token(100) == 2 * (gates + 8 * V)
    untied = nnx.eval_shape(lambda: SMALL.replace(tie_embeddings=False).build(V, rngs=nnx.Rngs(0)))
    assert untied.flops_per_token(100) == 2 * (2 * 4 * 16 * 32 + 16 * V)
    inputs = {"mingru": 2 * 16 * 16, "minlstm": 3 * 16 * 16, "rglru": 3 * 16 * 16}
    for cell, kernels in inputs.items():
        make = lambda cell=cell: SMALL.replace(cell=cell).build(V, rngs=nnx.Rngs(0))  # noqa: E731
        assert nnx.eval_shape(make).flops_per_token(100) == 2 * (2 * kernels + 16 * V)
    assert not SMALL.carries_state and SMALL.replace(carry_state=True).carries_state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "lstn"}, "did you mean lstm"),
        ({"activation": "relu"}, "activation: lstm has its own"),
        (
            {"cell": "mingru", "dropout_recurrent": 0.1},
            "dropout_recurrent: mingru has no recurrent kernel to drop from; leave it at 0.0",
        ),
        ({"cell": "rglru", "initializer": "orthogonal"}, "initializer: rglru has no recurrent"),
        ({"cell": "minlstm", "unroll": 2}, "unroll: minlstm has no recurrent kernel"),
        ({"embedding_size": 8, "residual": True}, "residual"),
        ({"embedding_size": 8, "num_layers": 1}, "hidden_size: one layer"),
        ({"vocab_size": V - 1}, "vocab_size: 31 is less than the tokenizer's 32"),
    ],
)
def test_mistakes_are_user_errors(change, message):
    with pytest.raises(UserError, match=message):
        SMALL.replace(**change).build(V, rngs=nnx.Rngs(0))
