"""The Transformer against an independent one in torch, and against itself by other ways."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.config import UserError, parse
from jaxlm.kernels.cross_entropy import cross_entropy
from jaxlm.mesh import MeshConfig, batch_sharding, param_shardings
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.params import split
from jaxlm.tree import flatten, unflatten
from tests.golden_nn import assert_close, load, under

MODELS = ["gated", "plain", "interleaved"]
VOCAB = 29
TINY = TransformerConfig(
    hidden_size=16, num_layers=3, num_heads=4, num_kv_heads=2, dtype="float32", intermediate_size=24
)


@functools.cache
def golden(name):
    arrays = load(f"nn_transformer_{name}")
    config = parse(TransformerConfig, json.loads(str(arrays["config"])))
    params = unflatten({k: jnp.asarray(v) for k, v in under(arrays, "params").items()})
    return arrays, config, params


def graphdef_of(config):
    return split(nnx.eval_shape(lambda: config.build(VOCAB, rngs=nnx.Rngs(0))))[0]


@functools.cache
def forward(config):
    """(params, tokens, positions, segment_ids, cache) -> (logits, cache)"""
    graphdef = graphdef_of(config)

    def call(params, tokens, positions, segment_ids, cache=None):
        model = nnx.merge(graphdef, params)
        hidden, cache = model(tokens, positions=positions, segment_ids=segment_ids, cache=cache)
        return model.logits(hidden), cache

    return jax.jit(call)


def loss_of(config, params, batch, key=None):
    """The mean loss of the tokens that are not padding."""
    model = nnx.merge(graphdef_of(config), params)
    hidden, _ = model(
        batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"], key=key
    )
    losses = cross_entropy(hidden, model.head(), batch["targets"])
    weights = batch["segment_ids"] != 0
    return jnp.sum(losses.loss * weights) / jnp.sum(weights)


def value_and_grad(config, params, batch, key=None):
    function = jax.jit(jax.value_and_grad(lambda p, b, k: loss_of(config, p, b, k)))
    return function(params, batch, key)


@functools.cache
def golden_gradients(name):
    arrays, config, params = golden(name)
    return value_and_grad(config, params, batch_of(arrays))


def initial(config):
    return jax.jit(lambda: split(config.build(VOCAB, rngs=nnx.Rngs(0)))[1])()


def batch_of(arrays):
    return {key: arrays[key] for key in ("tokens", "targets", "positions", "segment_ids")}


@pytest.mark.parametrize("name", MODELS)
def test_logits_loss_and_gradients_are_torchs(name):
    arrays, config, params = golden(name)
    real = arrays["segment_ids"] != 0
    rows = (arrays[key] for key in ("tokens", "positions", "segment_ids"))
    logits, _ = forward(config)(params, *rows)
    assert_close(logits[real], arrays["logits"][real], 1e-4)
    loss, grads = golden_gradients(name)
    assert float(loss) == pytest.approx(float(arrays["loss"]), abs=1e-5)
    wanted = under(arrays, "grads")
    assert flatten(grads).keys() == wanted.keys()
    for path, grad in flatten(grads).items():
        bound = max(1e-4 * np.abs(wanted[path]).max(), 1e-8)  # a key's bias has none
        np.testing.assert_allclose(grad, wanted[path], rtol=0, atol=bound, err_msg=path)


@pytest.mark.parametrize("name", MODELS)
def test_cache_equals_the_full_forward(name):
    """Prompts of 20 and 9 tokens, padded on the left, in two parts and then token by token."""
    arrays, config, params = golden(name)
    length, sizes = 20, np.array([[20], [9]])
    pads = length - sizes
    tokens = np.stack([np.roll(arrays["tokens"][b, :length], pads[b]) for b in range(2)])
    segments = (np.arange(length) >= pads).astype(np.int32)
    positions = np.maximum(np.arange(length) - pads, 0).astype(np.int32)
    model = nnx.merge(graphdef_of(config), params)
    cache, parts = model.init_cache(2, length + 3), []
    borders = [0, 8, 16, 17, 18, 19, 20]
    for start, stop in itertools.pairwise(borders):
        part = (x[:, start:stop] for x in (tokens, positions, segments))
        logits, cache = forward(config)(params, *part, cache)
        parts.append(logits)
    assert int(cache["length"]) == length
    cached = np.concatenate(parts, axis=1)
    for row in range(2):  # what torch says of the same documents, at once and without padding
        size = sizes[row, 0]
        assert_close(cached[row, -size:], arrays["logits"][row, :size])


@pytest.mark.parametrize("name", MODELS)
def test_packed_documents_do_not_see_one_another(name):
    arrays, config, params = golden(name)
    tokens, rest = arrays["tokens"], (arrays["positions"], arrays["segment_ids"])
    before = np.asarray(forward(config)(params, tokens, *rest)[0])
    ours = arrays["segment_ids"] == 2
    changed = np.where(ours, tokens, (tokens + 5) % VOCAB)
    after = np.asarray(forward(config)(params, changed, *rest)[0])
    assert (before[ours] == after[ours]).all()  # bit by bit
    assert (before[~ours] != after[~ours]).any()


def test_a_document_continued_from_an_earlier_row_reads_the_same():
    arrays, config, params = golden("plain")
    first = arrays["segment_ids"] == 1
    later = arrays["positions"] + 1000 * first
    logits, _ = forward(config)(params, arrays["tokens"], later, arrays["segment_ids"])
    assert_close(logits[first], arrays["logits"][first], 1e-4)


def test_a_token_influences_no_earlier_one():
    """Token i has id i, so the gradient of the table's row i is that of the token at place i.

    The tied head is read at ids 12 and above alone.
    """
    _, config, params = golden("gated")
    tokens = np.arange(12, dtype=np.int32)[None]

    def output(table, place):
        changed = {**params, "embed": {"table": table}}
        logits, _ = forward(config)(changed, tokens, tokens, np.ones_like(tokens))
        return jnp.sum(jnp.sin(logits[0, place, 12:]))

    gradient = jax.jit(jax.grad(output))
    for place in (0, 4, 11):
        grad = np.abs(np.asarray(gradient(params["embed"]["table"], place)))
        assert not grad[place + 1 : 12].any()
        assert grad[place].any()


@pytest.mark.parametrize(
    "change", [{"scan_layers": False}, {"attention_impl": "reference"}], ids=str
)
def test_other_programs_give_the_same_numbers(change):
    arrays, config, params = golden("gated")
    other = value_and_grad(config.replace(**change), params, batch_of(arrays))
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-6), golden_gradients("gated"), other)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_changes_memory_alone(remat):
    arrays, config, params = golden("plain")
    other = value_and_grad(config.replace(remat=remat), params, batch_of(arrays))
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-6), golden_gradients("plain"), other)


def wide_batch():
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, VOCAB, (2, 8, 12)).astype(np.int32)
    ones = np.ones((8, 12), np.int32)
    return {
        **{"tokens": tokens, "targets": targets, "segment_ids": ones},
        "positions": np.tile(np.arange(12, dtype=np.int32), (8, 1)),
    }


def test_a_mesh_changes_nothing():
    """Parameters at the start, dropout, loss and gradients on eight devices are those on one."""
    config = TINY.replace(num_layers=2, vocab_size=32, dropout=0.2, attention_dropout=0.2)
    graphdef, _, axes = split(nnx.eval_shape(lambda: config.build(VOCAB, rngs=nnx.Rngs(0))))

    def init():
        return split(config.build(VOCAB, rngs=nnx.Rngs(3)))[1]

    batch, key = wide_batch(), jax.random.key(1)
    params = jax.jit(init)()
    want = value_and_grad(config, params, batch, key)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    with jax.set_mesh(mesh):
        shardings = param_shardings(jax.eval_shape(init), axes, mesh)
        placed = jax.jit(init, out_shardings=shardings)()
        rows = {k: jax.device_put(v, batch_sharding(mesh, 2)) for k, v in batch.items()}
        got = value_and_grad(config, placed, rows, key)
    kernel = placed["layers"]["ffn"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    jax.tree.map(np.testing.assert_array_equal, params, placed)
    jax.tree.map(assert_close, got, want)


def test_dropout_differs_by_layer_and_key():
    """With blocks that add 1 everywhere, what is left of the sum shows each layer's mask."""
    config = TINY.replace(dropout=0.5, num_layers=2, hidden_size=64, bias=True, norm="layernorm")
    params = jax.tree.map(jnp.zeros_like, initial(config))
    params["final_norm"]["scale"] += 1
    ones = params["layers"]["ffn"]["down"]["bias"] + 1
    batch = wide_batch()
    rows = {name: batch[name] for name in ("positions", "segment_ids")}

    def hidden(layer, key):
        bias = jnp.zeros_like(ones).at[layer].set(1.0)
        down = {**params["layers"]["ffn"]["down"], "bias": bias}
        layers = {**params["layers"], "ffn": {**params["layers"]["ffn"], "down": down}}
        model = nnx.merge(graphdef_of(config), {**params, "layers": layers})
        return model(batch["tokens"], **rows, key=key)[0] > 0  # where the mask kept it

    call = jax.jit(hidden)
    first, again = call(0, jax.random.key(0)), call(0, jax.random.key(0))
    assert (first == again).all()
    assert 0.4 < (first != call(1, jax.random.key(0))).mean() < 0.6
    assert 0.4 < (first != call(0, jax.random.key(1))).mean() < 0.6
    assert not call(0, None).any()  # nothing dropped: all equal, so the centred values are 0


def test_bfloat16_is_close_to_float32():
    arrays, config, params = golden("gated")
    batch = batch_of(arrays)
    loss, grads = value_and_grad(config.replace(dtype="bfloat16"), params, batch)
    assert float(loss) == pytest.approx(float(arrays["loss"]), rel=0.02)
    for path, grad in flatten(grads).items():
        want = under(arrays, "grads")[path]
        assert grad.dtype == jnp.float32
        assert np.abs(grad - want).max() < 0.1 * np.abs(want).max(), path


def test_initial_parameters():
    """Layers differ; what is added to the residual stream starts smaller by sqrt(2 layers)."""
    params = initial(TINY.replace(hidden_size=64, bias=True))
    layers = jax.tree.map(np.asarray, params["layers"])
    for part, name, small in (("attention", "out", 6), ("ffn", "down", 6), ("ffn", "up", 1)):
        kernel = layers[part][name]["kernel"]
        assert kernel.std() == pytest.approx(0.02 / np.sqrt(small), rel=0.05)
        assert (kernel[0] != kernel[1]).all()
        assert not layers[part][name]["bias"].any()
    assert np.std(params["embed"]["table"]) == pytest.approx(0.02, rel=0.1)
    assert (layers["ffn_norm"]["scale"] == 1).all()


# --------------------------------------------------------------------------- every field counts

# field -> (what the other fields must be for it to matter, another value)
FIELDS = {
    "hidden_size": ({}, 32),
    "num_layers": ({}, 2),
    "num_heads": ({}, 8),
    "num_kv_heads": ({}, 4),
    "head_dim": ({}, 6),
    "intermediate_size": ({}, 20),
    "activation": ({}, "geglu"),
    "norm": ({}, "layernorm"),
    "norm_eps": ({}, 1e-3),
    "position": ({}, "none"),
    "max_seq_len": ({"position": "learned", "max_seq_len": 12}, 13),
    "rope_theta": ({}, 500.0),
    "rope_scaling": ({}, 2.0),
    "rope_fraction": ({}, 0.5),
    "rope_interleaved": ({}, True),
    "tie_embeddings": ({}, False),
    "bias": ({}, True),
    "qkv_bias": ({}, True),
    "qk_norm": ({}, True),
    "window": ({}, (3, None)),
    "attention_scale": ({}, 0.3),
    "attention_softcap": ({}, 5.0),
    "logit_softcap": ({}, 5.0),
    "embedding_scale": ({}, 4.0),
    "dropout": ({}, 0.1),
    "attention_dropout": ({}, 0.1),
    "initializer_range": ({}, 0.1),
    "vocab_size": ({}, 32),
    "dtype": ({}, "bfloat16"),
    "remat": ({}, "full"),
    "scan_layers": ({}, False),
    "attention_impl": ({}, "reference"),
}
VALUES = {  # every further choice of a field with named choices
    "activation": ["gelu", "gelu_tanh", "relu", "silu", "geglu_tanh"],
    "position": ["sinusoidal"],
    "remat": ["minimal", "dots"],
    "initializer_range": [None],
}
CHANGES = [(name, FIELDS[name][1]) for name in FIELDS]
CHANGES += [(name, value) for name, values in VALUES.items() for value in values]


@functools.cache
def program(config, backward):
    """The lowered loss, or its gradient."""
    batch, graphdef = wide_batch(), graphdef_of(config)
    params = split(nnx.eval_shape(lambda: config.build(VOCAB, rngs=nnx.Rngs(0))))[1]

    def loss(params, key):
        model = nnx.merge(graphdef, params)
        rows = {name: batch[name] for name in ("positions", "segment_ids")}
        hidden, _ = model(batch["tokens"], **rows, key=key)
        return jnp.sum(model.logits(hidden))

    function = jax.grad(loss) if backward else loss
    return jax.jit(function).lower(params, jax.random.key(0)).as_text()


def test_the_table_names_every_field():
    assert set(FIELDS) == {f.name for f in dataclasses.fields(TransformerConfig)}


@pytest.mark.parametrize(("name", "value"), CHANGES, ids=str)
def test_every_field_changes_parameters_or_program(name, value):
    config = TINY.replace(**FIELDS[name][0])
    changed = config.replace(**{name: value})
    config.validate(), changed.validate()
    if name == "initializer_range":  # the one field that acts when parameters are made
        a, b = (np.std(initial(c)["layers"]["ffn"]["up"]["kernel"]) for c in (config, changed))
        want = 1 / np.sqrt(16) if value is None else value
        assert b == pytest.approx(want, rel=0.1) and a == pytest.approx(0.02, rel=0.1)
    else:
        backward = name == "remat"
        assert program(config, backward) != program(changed, backward)


# --------------------------------------------------------------------------- counts, mistakes


def test_flops_are_those_of_the_compiled_program():
    """Unrolled and with all scores: the compiler counts a loop once, and what is masked too."""
    config = TransformerConfig(
        **{"hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, "num_layers": 2},
        **{"dtype": "float32", "scan_layers": False, "attention_impl": "reference"},
        **{"position": "none"},
    )
    graphdef, params, _ = split(nnx.eval_shape(lambda: config.build(512, rngs=nnx.Rngs(0))))
    rows = jax.ShapeDtypeStruct((2, 64), jnp.int32)

    def logits(params, tokens, positions, segment_ids):
        model = nnx.merge(graphdef, params)
        return model.logits(model(tokens, positions=positions, segment_ids=segment_ids)[0])

    cost = jax.jit(logits).lower(params, rows, rows, rows).compile().cost_analysis()
    full = 128 * nnx.merge(graphdef, params).flops_per_token(64, causal=False)
    assert full < cost["flops"] < 1.06 * full  # the rest: norms, softmax, activations


@pytest.mark.parametrize("window", [(None,), (4, None), (100, 7)], ids=str)
def test_causal_flops_by_hand(window):
    config = TransformerConfig(
        hidden_size=64, num_heads=4, num_kv_heads=2, num_layers=2, window=window
    )
    model = nnx.eval_shape(lambda: config.build(512, rngs=nnx.Rngs(0)))
    keys = [sum(min(i + 1, w or 64) for i in range(64)) / 64 for w in 2 * window][:2]
    matmuls = 2 * (2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 192) + 512 * 64)
    assert model.flops_per_token(64) == pytest.approx(matmuls + 4 * 64 * sum(keys))


def test_derived_sizes():
    gated = TransformerConfig(hidden_size=384, num_heads=6)
    assert (gated.head_size, gated.kv_heads, gated.ffn_size) == (64, 6, 1024)
    assert gated.replace(activation="relu").ffn_size == 1536


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads: 3 does not divide num_heads 4"),
        ({"num_heads": 3, "num_kv_heads": None}, "num_heads: 3 does not divide hidden_size 16"),
        ({"position": "learned"}, "max_seq_len: is required"),
        ({"rope_fraction": 0.3}, "rope_fraction: 0.3 of head_dim 4 is odd"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(UserError, match=message):
        TINY.replace(**change).validate()


def test_vocabulary_and_length_must_fit():
    with pytest.raises(UserError, match="model.vocab_size: 20 is less than the tokenizer's 29"):
        TINY.replace(vocab_size=20).build(29, rngs=nnx.Rngs(0))
    config = TINY.replace(position="learned", max_seq_len=8)
    rows = np.zeros((1, 9), np.int32)
    with pytest.raises(UserError, match="max_seq_len: 8 learned positions, but rows have 9"):
        forward(config)(initial(config), rows, rows, rows + 1)
