"""The Transformer against an independent one in torch, and against itself by other ways."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import re
import typing
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.ad_checkpoint import saved_residuals

from jaxlm.core import registry
from jaxlm.core.config import (
    Config,
    Layer,
    UserError,
    parse,
    read_overrides,
    to_dict,
)
from jaxlm.core.tree import flatten, unflatten
from jaxlm.kernels.cross_entropy import cross_entropy
from jaxlm.kernels.registry import target_platform
from jaxlm.mesh import MeshConfig, param_shardings
from jaxlm.models.blocks import CACHED, StackConfig
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.attention import MultiHeadConfig
from jaxlm.nn.ffn import DenseConfig
from jaxlm.nn.params import split
from jaxlm.nn.position import NoPositionConfig
from tests.nn.golden_nn import assert_close, load, under

MODELS = ["gated", "plain", "interleaved"]
VOCAB = 29
TINY = TransformerConfig(
    hidden_size=16,
    num_layers=3,
    attention=MultiHeadConfig(num_heads=4, num_kv_heads=2),
    ffn=DenseConfig(intermediate_size=24),
    dtype="float32",
)


def change(config, changes):
    """The config with other values at dotted paths."""
    layer = Layer(to_dict(config))
    layer.merge(read_overrides([f"{path}={json.dumps(v)}" for path, v in changes.items()]))
    values = layer.values
    values.pop("type", None)
    return parse(TransformerConfig, values)


@functools.cache
def golden(name):
    arrays = load(f"nn_transformer_{name}")
    config = parse(TransformerConfig, json.loads(str(arrays["config"])))
    params = unflatten({k: jnp.asarray(v) for k, v in under(arrays, "params").items()})
    return arrays, config, params


@functools.cache
def graph_of(config):
    """(graphdef, abstract parameters, axes)"""
    return split(nnx.eval_shape(lambda: config.build(VOCAB, rngs=nnx.Rngs(0))))


def graphdef_of(config):
    return graph_of(config)[0]


@functools.cache
def forward(config):
    """(params, tokens, positions, segment_ids, cache) -> (logits, cache)"""
    graphdef = graphdef_of(config)

    def call(params, tokens, positions, segment_ids, cache=None):
        model = nnx.merge(graphdef, params)
        out = model(tokens, positions=positions, segment_ids=segment_ids, cache=cache)
        return model.logits(out.hidden), out.cache

    return jax.jit(call)


def loss_of(config, params, batch, key=None):
    """The mean loss of the tokens that are not padding."""
    model = nnx.merge(graphdef_of(config), params)
    hidden, *_ = model(
        batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"], key=key
    )
    losses = cross_entropy(model.head_input(hidden), model.head(), batch["targets"])
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


def zeros_of(config):
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), graph_of(config)[1])


def batch_of(arrays):
    return {key: arrays[key] for key in ("tokens", "targets", "positions", "segment_ids")}


@pytest.mark.parametrize("name", MODELS)
def test_logits_loss_and_gradients_are_torchs(name):
    arrays, config, params = golden(name)
    real = arrays["segment_ids"] != 0
    rows = (arrays[key] for key in ("tokens", "positions", "segment_ids"))
    logits = np.asarray(forward(config)(params, *rows)[0])
    assert_close(logits[real], arrays["logits"][real], 1e-4)
    loss, grads = golden_gradients(name)
    assert float(loss) == pytest.approx(float(arrays["loss"]), abs=1e-5)
    wanted = under(arrays, "grads")
    assert flatten(grads).keys() == wanted.keys()
    for path, grad in flatten(grads).items():
        bound = max(1e-4 * np.abs(wanted[path]).max(), 1e-8)  # a key's bias has none
        np.testing.assert_allclose(grad, wanted[path], rtol=0, atol=bound, err_msg=path)


@pytest.mark.parametrize("name", ["gated", "plain"])
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
    for row in range(2):  # what torch says of the same documents, in one pass and without padding
        size = sizes[row, 0]
        assert_close(cached[row, -size:], arrays["logits"][row, :size])


@pytest.mark.parametrize("name", MODELS)
def test_packed_documents_do_not_see_each_other(name):
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
    rows = (arrays["tokens"], later, arrays["segment_ids"])
    logits = np.asarray(forward(config)(params, *rows)[0])
    assert_close(logits[first], arrays["logits"][first], 1e-4)


def test_remat_changes_memory_alone():
    """Full: models/test_families.py."""
    arrays, config, params = golden("plain")
    other = value_and_grad(config.replace(remat="dots"), params, batch_of(arrays))
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-6), golden_gradients("plain"), other)


def kept(config):
    """The shapes of what a gradient keeps between the passes, and how many of each."""
    arrays, _, params = golden("plain")
    loss = lambda p: loss_of(config, p, batch_of(arrays))  # noqa: E731
    return Counter(x.shape for x, _ in saved_residuals(loss, params))


@pytest.mark.parametrize("where", ["saved", "offloaded"])
def test_named_tensors_are_kept_and_nothing_else(where):
    """And the gradients are the same, from where they wait."""
    arrays, config, params = golden("plain")
    config = config.replace(scan_layers=True)
    names = ("query", "attention", "ffn_hidden")
    named = config.replace(remat="named", **{where: names})
    other = value_and_grad(named, params, batch_of(arrays))
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-6), golden_gradients("plain"), other)
    full, none = (kept(config.replace(remat=remat)) for remat in ("full", "none"))
    rows = (config.num_layers, *arrays["tokens"].shape)
    assert kept(named) - full == Counter({(*rows, 4, 4): 2, (*rows, 24): 1})
    assert (none - full).total() > 5


def wide_batch():
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, VOCAB, (2, 8, 12)).astype(np.int32)
    ones = np.ones((8, 12), np.int32)
    return {
        "tokens": tokens,
        "targets": targets,
        "segment_ids": ones,
        "positions": np.tile(np.arange(12, dtype=np.int32), (8, 1)),
    }


def test_what_is_between_the_products_is_split_as_heads_are():
    """A device keeps its part of the length of each layer's input for the backward pass."""
    whole = {"num_layers": 2, "vocab_size": 32, "remat": "full", "scan_layers": True}
    config = change(TINY, whole)
    axes = graph_of(config)[2]
    mesh = MeshConfig(data=1, tensor=2, num_devices=2).build()
    with jax.set_mesh(mesh):
        params = zeros_of(config)
        placed = jax.device_put(params, param_shardings(params, axes, mesh))
        grad = jax.jit(jax.grad(lambda p, b: loss_of(config, p, b, None)))
        text = grad.lower(placed, wide_batch()).compile().as_text()
    assert "f32[2,8,6,16]" in text  # [L, B, T / 2, D]
    assert "f32[2,8,12,16]" not in text


def test_dropout_differs_by_layer_and_key():
    """With blocks that add 1 everywhere, what is left of the sum shows each layer's mask."""
    layer = {"norm": {"type": "layernorm"}, "ffn.bias": True}
    config = change(TINY, {"dropout": 0.5, "num_layers": 2, "hidden_size": 64, **layer})
    params = zeros_of(config)
    params["final_norm"]["scale"] += 1
    ones = params["layers"]["ffn"]["down"]["bias"] + 1
    batch = wide_batch()
    rows = {name: batch[name] for name in ("positions", "segment_ids")}

    def hidden(layer, key):
        bias = jnp.zeros(ones.shape).at[layer].set(1.0)
        down = {**params["layers"]["ffn"]["down"], "bias": bias}
        layers = {**params["layers"], "ffn": {**params["layers"]["ffn"], "down": down}}
        model = nnx.merge(graphdef_of(config), {**params, "layers": layers})
        return model(batch["tokens"], **rows, key=key)[0] > 0  # where the mask kept it

    jitted = jax.jit(hidden)
    call = lambda *args: np.asarray(jitted(*args))  # noqa: E731
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
    biases = {"attention.out_bias": True, "ffn.bias": True}
    params = initial(change(TINY, {"hidden_size": 64, **biases}))
    layers = jax.tree.map(np.asarray, params["layers"])
    for part, name, small in (("attention", "out", 6), ("ffn", "down", 6), ("ffn", "up", 1)):
        kernel = layers[part][name]["kernel"]
        assert kernel.std() == pytest.approx(0.02 / np.sqrt(small), rel=0.05)
        assert (kernel[0] != kernel[1]).all()
        assert not layers[part][name]["bias"].any()
    assert np.std(params["embed"]["table"]) == pytest.approx(0.02, rel=0.1)
    assert (layers["ffn_norm"]["scale"] == 1).all()


# --------------------------------------------------------------------------- every field counts

# A field of a part is named by the part and, where it is not the usual one, its type.
# field -> (what the other fields must be for it to matter, another value)
LEARNED = {"position": {"type": "learned", "max_seq_len": 12}}
BLOCKS = {"position": {"type": "learned_blocks", "max_seq_len": 12}}
RELATIVE = {"position": {"type": "relative", "num_buckets": 8, "max_distance": 8}}
SINES = {"position": {"type": "sinusoidal"}}
LAYERNORM = {"norm": {"type": "layernorm"}}
OTHER = {"other_ffn": {"layers": [0], "ffn": {"intermediate_size": 20}}}
POOLER = {"head.pooler": True}
LATENT = {"attention": {"type": "latent", "kv_rank": 6, "nope_dim": 4, "rope_dim": 2, "v_dim": 5}}
MOE = {"ffn": {"type": "moe", "num_experts": 4, "intermediate_size": 12}}
READER = {"hidden_size": 16, "attention": {"is_causal": False}, "dtype": "float32"}
GROUPS = {"ffn": {**MOE["ffn"], "num_groups": 2}}


def scaled(kind, **values):
    return {"position.scaling": {"type": kind, "factor": 4.0, **values}}


TRAINED = {"original_max_positions": 8}
YARN = {**scaled("yarn", original_max_positions=64), "position.theta": 10.0}
FIELDS = {
    "hidden_size": ({}, 32),
    "num_layers": ({}, 2),
    "attention.num_heads": ({}, 8),
    "attention.num_kv_heads": ({}, 4),
    "attention.head_dim": ({}, 6),
    "attention.bias": ({}, True),
    "attention.out_bias": ({}, True),
    "attention.qk_norm": ({}, True),
    "attention.window": ({}, [3, None]),
    "attention.scale": ({}, 0.3),
    "attention.softcap": ({}, 5.0),
    "attention.is_causal": ({}, False),
    "attention.dropout": ({}, 0.1),
    "attention.impl": ({}, "reference"),
    "attention.context": ({}, "ring"),
    "attention": ({}, LATENT["attention"]),
    "attention.latent.num_heads": (LATENT, 8),
    "attention.latent.window": (LATENT, [3, None]),
    "attention.latent.scale": (LATENT, 0.3),
    "attention.latent.softcap": (LATENT, 5.0),
    "attention.latent.is_causal": (LATENT, False),
    "attention.latent.dropout": (LATENT, 0.1),
    "attention.latent.impl": (LATENT, "reference"),
    "attention.latent.context": (LATENT, "ring"),
    "attention.latent.q_rank": (LATENT, 6),
    "attention.latent.kv_rank": (LATENT, 8),
    "attention.latent.nope_dim": (LATENT, 6),
    "attention.latent.rope_dim": (LATENT, 4),
    "attention.latent.v_dim": (LATENT, 4),
    "attention.latent.norm_eps": (LATENT, 1e-2),
    "ffn": ({}, MOE["ffn"]),
    "ffn.moe.num_experts": (MOE, 6),
    "ffn.moe.experts_per_token": (MOE, 1),
    "ffn.moe.intermediate_size": (MOE, 20),
    "ffn.moe.activation": (MOE, "geglu"),
    "ffn.moe.shared_size": (MOE, 8),
    "ffn.moe.scores": (MOE, "sigmoid"),
    "ffn.moe.normalize": (MOE, False),
    "ffn.moe.scaling": (MOE, 2.0),
    "ffn.moe.num_groups": (MOE, 2),
    "ffn.moe.groups_per_token": (GROUPS, 2),
    "ffn.moe.choice_bias": (MOE, 0.1),
    "ffn.moe.capacity_factor": (MOE, 0.5),
    "ffn.moe.balance_loss": (MOE, 0.1),
    "ffn.moe.router_z_loss": (MOE, 0.1),
    "ffn.intermediate_size": ({}, 20),
    "ffn.activation": ({}, "geglu"),
    "ffn.bias": ({}, True),
    "other_ffn": ({}, OTHER["other_ffn"]),
    "other_ffn.layers": (OTHER, [1]),
    "other_ffn.ffn": (OTHER, {"intermediate_size": 12}),
    "norm": ({}, LAYERNORM["norm"]),
    "norm.eps": ({}, 1e-3),
    "norm.one_plus": ({}, True),
    "norm.layernorm.eps": (LAYERNORM, 1e-3),
    "norm.layernorm.bias": (LAYERNORM, False),
    "norm_placement": ({}, "post"),
    "position": ({}, {"type": "none"}),
    "position.theta": ({}, 500.0),
    "position.fraction": ({}, 0.5),
    "position.interleaved": ({}, True),
    "position.scaling": ({}, scaled("linear")["position.scaling"]),
    "position.scaling.linear.factor": (scaled("linear"), 2.0),
    "position.scaling.dynamic.factor": (scaled("dynamic", **TRAINED), 2.0),
    "position.scaling.dynamic.original_max_positions": (scaled("dynamic", **TRAINED), 4),
    "position.scaling.yarn.factor": (scaled("yarn", **TRAINED), 2.0),
    "position.scaling.yarn.original_max_positions": (scaled("yarn", **TRAINED), 4096),
    "position.scaling.yarn.beta_fast": (YARN, 1.5),
    "position.scaling.yarn.beta_slow": (YARN, 4.0),
    "position.scaling.yarn.attention_factor": (scaled("yarn", **TRAINED), 1.5),
    "position.scaling.yarn.truncate": (YARN, False),
    "position.scaling.llama3.factor": (scaled("llama3", **TRAINED), 2.0),
    "position.scaling.llama3.original_max_positions": (scaled("llama3", **TRAINED), 4096),
    "position.scaling.llama3.low_freq_factor": (scaled("llama3", **TRAINED), 0.5),
    "position.scaling.llama3.high_freq_factor": (scaled("llama3", **TRAINED), 2.0),
    "position.learned.max_seq_len": (LEARNED, 13),
    "position.learned.offset": (LEARNED, 2),
    "position.learned_blocks.max_seq_len": (BLOCKS, 13),
    "position.learned_blocks.offset": (BLOCKS, 2),
    "position.sinusoidal.theta": (SINES, 100.0),
    "position.relative.num_buckets": (RELATIVE, 10),
    "position.relative.max_distance": (RELATIVE, 16),
    "dropout": ({}, 0.1),
    "initializer_range": ({}, 0.1),
    "vocab_size": ({}, 32),
    "embedding.scale": ({}, 4.0),
    "embedding.norm": ({}, True),
    "embedding.token_types": ({}, 2),
    "embedding.ngrams": ({}, {"orders": [2]}),
    "embedding.ngrams.orders": ({"embedding.ngrams": {"orders": [2]}}, [3]),
    "embedding.ngrams.buckets": ({"embedding.ngrams": {"orders": [2]}}, 31),
    "embedding.ngrams.dim": ({"embedding.ngrams": {"orders": [2]}}, 6),
    "head.tied": ({}, False),
    "head.bias": ({}, True),
    "head.scale": ({}, 0.25),
    "head.softcap": ({}, 5.0),
    "head.transform": ({}, "gelu"),
    "head.pooler": ({}, True),
    "head.num_relations": (POOLER, 2),
    "encoder": ({}, {"num_layers": 1, **READER}),
    "dtype": ({}, "bfloat16"),
    "quantization": ({}, "int8"),
    "remat": ({}, "full"),
    "saved": ({"remat": "named", "offloaded": ["query"]}, ["ffn_gate"]),
    "offloaded": ({"remat": "named", "saved": ["query"]}, ["ffn_gate"]),
    "scan_layers": ({}, True),  # few layers are unrolled on CPUs
}
# which tensors' names a file of another program uses, and what the generator begins with
NAMES_ALONE = {"family", "prompt"}
VALUES = {  # every further choice of a field with named choices
    "ffn.activation": ["gelu", "gelu_tanh", "relu", "silu", "geglu_tanh"],
    "position": [SINES["position"], LEARNED["position"], BLOCKS["position"], RELATIVE["position"]],
    "norm_placement": ["both"],
    "remat": ["minimal", "dots"],
    "quantization": ["fp8"],
    "initializer_range": [None],
}
CHANGES = [(name, FIELDS[name][1]) for name in FIELDS]
CHANGES += [(name, value) for name, values in VALUES.items() for value in values]


def fields_of(cls, path=""):
    """Names, as in FIELDS, of all fields of a config class and of its parts."""
    hints = typing.get_type_hints(cls)
    for spec in dataclasses.fields(cls):
        here = f"{path}{spec.name}"
        yield here
        hint = hints[spec.name]
        parts = [hint, *typing.get_args(hint)]
        part = next((p for p in parts if isinstance(p, type) and issubclass(p, Config)), None)
        if part is None or here in NAMES_ALONE or spec.name in ("encoder", "ffn") and path:
            continue
        if part is StackConfig:
            continue
        for name in registry.names(part) if registry.is_base(part) else [None]:
            usual = name is None or name == part.kind.default
            concrete = part if name is None else registry.find(part, name)
            yield from fields_of(concrete, f"{here}." if usual else f"{here}.{name}.")


def shapes_of(config):
    return graph_of(config)[1]


@functools.cache
def traced(config, backward, devices=1):
    """The traced loss, or its gradient; over devices that split the length."""
    batch, graphdef, params = wide_batch(), graphdef_of(config), shapes_of(config)

    def loss(params, key):
        model = nnx.merge(graphdef, params)
        rows = {name: batch[name] for name in ("positions", "segment_ids")}
        source = (
            model.encode(batch["targets"], **rows, key=key) if config.is_encoder_decoder else None
        )
        hidden, _, losses, *_ = model(batch["tokens"], **rows, encoded=source, key=key)
        total = jnp.sum(model.logits(hidden)) + sum(x.sum() for x in losses.values())
        if config.head.pooler:
            pooled = model.pool(hidden)
            total += pooled.sum()
        if config.head.num_relations:
            total += model.relation(pooled).sum()
        return total

    function = jax.grad(loss) if backward else loss
    return jax.jit(function).trace(params, jax.random.key(0))


def differ(config, changed, backward, devices):
    """Whether parameters or programs do; what is soonest known first."""
    if shapes_of(config) != shapes_of(changed):
        return True
    mesh = MeshConfig(data=1, context=devices, num_devices=devices).build()
    with jax.set_mesh(mesh) if devices > 1 else contextlib.nullcontext():
        both = [traced(x, backward, devices) for x in (config, changed)]
        if not backward:  # what is recomputed is a function there, of which the text says nothing
            a, b = (re.sub(" at 0x[0-9a-f]+", "", str(x.jaxpr)) for x in both)
            if a != b:
                return True
        return both[0].lower().as_text() != both[1].lower().as_text()


def test_the_table_names_every_field():
    """A part that is a group of fields and never absent is named by its fields alone."""
    whole = {"embedding", "head", "attention", "ffn"}
    assert set(FIELDS) | NAMES_ALONE | whole == set(fields_of(TransformerConfig))


@pytest.mark.parametrize(("name", "value"), CHANGES, ids=str)
def test_every_field_changes_parameters_or_program(name, value):
    if name == "quantization":
        pytest.importorskip("qwix")
    config = change(TINY, FIELDS[name][0])
    words = name.split(".")
    types = {"layernorm", "learned", "learned_blocks", "sinusoidal", "relative", "latent", "moe"}
    types |= {"linear", "dynamic", "yarn", "llama3"}
    changed = change(config, {".".join(w for w in words if w not in types): value})
    assert config != changed
    if name == "initializer_range":  # the one field that acts when parameters are made
        a, b = (np.std(initial(c)["layers"]["ffn"]["up"]["kernel"]) for c in (config, changed))
        want = 1 / np.sqrt(16) if value is None else value
        assert b == pytest.approx(want, rel=0.1) and a == pytest.approx(0.02, rel=0.1)
    else:
        backward = name in ("remat", "saved", "offloaded")
        assert differ(config, changed, backward, devices=2 if name.endswith("context") else 1)


def test_a_field_that_the_generator_reads_changes_neither():
    """So that what differs above does so by its field."""
    config = dataclasses.replace(TINY, family="gpt2")
    assert config != TINY and not differ(config, TINY, backward=False, devices=1)


# --------------------------------------------------------------------------- counts, mistakes


def test_flops_are_those_of_the_compiled_program():
    """Unrolled and with all scores: the compiler counts a loop once, and what is masked too."""
    attention = MultiHeadConfig(num_heads=4, num_kv_heads=2, impl="reference")
    config = TransformerConfig(
        **{"hidden_size": 64, "num_layers": 2, "dtype": "float32", "scan_layers": False},
        **{"attention": attention, "position": (NoPositionConfig(),)},
    )
    graphdef, params, _ = split(nnx.eval_shape(lambda: config.build(512, rngs=nnx.Rngs(0))))
    rows = jax.ShapeDtypeStruct((2, 64), jnp.int32)

    def logits(params, tokens, positions, segment_ids):
        model = nnx.merge(graphdef, params)
        return model.logits(model(tokens, positions=positions, segment_ids=segment_ids).hidden)

    cost = jax.jit(logits).lower(params, rows, rows, rows).compile().cost_analysis()
    full = 128 * nnx.merge(graphdef, params).flops_per_token(64, is_causal=False)
    assert full < cost["flops"] < 1.06 * full  # the rest: norms, softmax, activations


@pytest.mark.parametrize("window", [(None,), (4, None), (100, 7)], ids=str)
def test_causal_flops_by_hand(window):
    attention = MultiHeadConfig(num_heads=4, num_kv_heads=2, window=window)
    config = TransformerConfig(hidden_size=64, num_layers=2, attention=attention)
    model = nnx.eval_shape(lambda: config.build(512, rngs=nnx.Rngs(0)))
    keys = [sum(min(i + 1, w or 64) for i in range(64)) / 64 for w in 2 * window][:2]
    matmuls = 2 * (2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 192) + 512 * 64)
    assert model.flops_per_token(64) == pytest.approx(matmuls + 4 * 64 * sum(keys))


def test_causal_flops_of_a_pair_by_hand():
    """An encoder sees all of its text, what is written half of its own and all of the source."""
    attention, ffn = MultiHeadConfig(num_heads=4), DenseConfig(intermediate_size=96)
    sizes = {"hidden_size": 64, "attention": attention, "ffn": ffn}
    encoder = StackConfig(**sizes | {"attention": attention.replace(is_causal=False)}, num_layers=3)
    config = TransformerConfig(**sizes, num_layers=2, encoder=encoder)
    model = nnx.eval_shape(lambda: config.build(512, rngs=nnx.Rngs(0)))
    look, think = 4 * 64 * 64, 3 * 64 * 96
    matmuls = 2 * (3 * (look + think) + 2 * (2 * look + think) + 512 * 64)
    for is_causal, own in ((True, 65 / 2), (False, 64)):
        want = matmuls + 4 * 64 * (3 * 64 + 2 * own + 2 * 64)
        assert model.flops_per_token(64, is_causal=is_causal) == pytest.approx(want)


def test_derived_sizes():
    heads = MultiHeadConfig(num_heads=6)
    assert (heads.head_size(384), heads.kv_heads, DenseConfig().width(384)) == (64, 6, 1024)
    assert DenseConfig(activation="relu").width(384) == 1536


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention.num_kv_heads": 3}, "num_kv_heads: 3 does not divide num_heads 4"),
        ({"hidden_size": 18}, "num_heads: 4 does not divide hidden_size 18"),
        ({"position.type": "learned"}, "position.max_seq_len: is required"),
        ({"position.fraction": 0.3}, "position.fraction: 0.3 of head_dim 4 is odd"),
        ({"position": [{"type": "rotary"}, {"type": "relative"}]}, "relative cannot be cycled"),
        ({"other_ffn": {"layers": [3], "ffn": {}}}, "there is no layer 3; number the 3 layers"),
        ({"head.num_relations": 2}, "needs the pooled vector"),
        ({"remat": "named"}, "remat: what saved and offloaded name is kept where"),
        ({"saved": ["query"]}, "remat: what saved and offloaded name is kept where"),
        ({"prompt": {"type": "fill_blank"}}, "prompt: this model fills no blanks"),
        ({"prompt": {"type": "encode_source"}}, "encode_source is for a model with an encoder"),
        (
            {"attention.context": "rign"},
            "context: unknown 'rign'; use one of auto, reference, ring",
        ),
        (
            {"attention.context": "ring", "attention.dropout": 0.1},
            "context: a ring drops no weights",
        ),
        ({"remat": "named", "saved": ["q"]}, "no tensor of a layer is called 'q'; there are query"),
        ({"remat": "named", "saved": ["key"], "offloaded": ["key"]}, "'key' is named twice"),
        ({"encoder": {"hidden_size": 16}}, "an encoder sees all of its text"),
        ({"encoder": READER | {"dtype": "bfloat16"}}, "encoder.dtype: bfloat16, but the decoder"),
        ({"encoder": READER | {"ffn": MOE["ffn"]}}, "only a decoder's experts are balanced"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        change(TINY, changes)


def test_vocabulary_and_length_must_fit():
    with pytest.raises(UserError, match="model.vocab_size: 20 is less than the tokenizer's 29"):
        TINY.replace(vocab_size=20).build(29, rngs=nnx.Rngs(0))
    config = change(TINY, {"position": {"type": "learned", "max_seq_len": 8}})
    rows = np.zeros((1, 9), np.int32)
    with pytest.raises(UserError, match="max_seq_len: 8 learned positions, but rows have 9"):
        forward(config)(zeros_of(config), rows, rows, rows + 1)


def test_few_layers_are_unrolled_on_cpus_alone():
    config = TransformerConfig(num_layers=4)
    with target_platform("cpu"):
        assert [config.scans(n) for n in (1, 8, 9)] == [False, False, True]
        assert [config.scans(n, CACHED) for n in (9, 12, 13)] == [False, False, True]
        with jax.set_mesh(MeshConfig(data=8).build()):
            assert not config.scans(2)
        with jax.set_mesh(MeshConfig(data=4, fsdp=2).build()):
            assert config.scans(2)
        assert config.replace(scan_layers=True).scans(2)
    with target_platform("tpu"):
        assert [config.scans(n) for n in (1, 2)] == [False, True]
        assert not config.replace(scan_layers=False).scans(40)
