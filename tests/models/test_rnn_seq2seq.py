"""The recurrent encoder-decoder: against torch, packed pairs, padding, steps, meshes, fields."""

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
from jaxlm.data.prompt_formats.encode_source import EncodeSource
from jaxlm.generate import Generator, Sampling
from jaxlm.kernels.cross_entropy import cross_entropy
from jaxlm.mesh import MeshConfig, batch_sharding, param_shardings
from jaxlm.models.rnn_encoder import EncoderConfig
from jaxlm.models.rnn_seq2seq import RNNSeq2SeqConfig
from jaxlm.nn.params import split
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.training.program import make_program
from tests.hlo import COLLECTIVE, loop_bodies
from tests.models import golden_seq2seq as golden_files

V, B, S, T = 32, 2, 7, 6
SMALL = RNNSeq2SeqConfig(hidden_size=16, embedding_size=8, dtype="float32", initializer_range=0.5)
ONE_WAY = EncoderConfig(bidirectional=False)
KINDS = {
    "bahdanau": SMALL.replace(cell="gru"),
    "general": SMALL.replace(attention="luong_general", num_layers=2),
    "feeding": SMALL.replace(attention="luong_concat", input_feeding=True, cell="elman"),
    "none": SMALL.replace(attention="none", bridge="copy", encoder=ONE_WAY),
}
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@cache
def graph_of(config: RNNSeq2SeqConfig, vocab: int = V):
    return split(nnx.eval_shape(lambda: config.build(vocab, rngs=nnx.Rngs(0))))


def make_params(config: RNNSeq2SeqConfig) -> dict:
    rng = np.random.default_rng(0)
    draw = lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, graph_of(config)[1])


def forward(config, params, source, text, key=None, vocab: int = V):
    """Hidden states and logits; source and text are (tokens, positions, segment_ids)."""
    model = nnx.merge(graph_of(config, vocab)[0], params)
    names = ("tokens", "positions", "segment_ids")
    keys = (None, None) if key is None else jax.random.split(key)
    encoded = model.encode(**dict(zip(names, source, strict=True)), key=keys[0])
    out = model(**dict(zip(names, text, strict=True)), encoded=encoded, key=keys[1])
    return out.hidden, model.logits(out.hidden)


@cache
def applier(config: RNNSeq2SeqConfig):
    return jax.jit(partial(forward, config))


def make_rows(*lengths: int, length: int, seed: int = 0, left: int = 0, batch: int = B):
    """Random tokens of rows that hold documents of these lengths: tokens, positions, segments."""
    pad = lambda x: np.pad(x, (left, length - left - len(x)))  # noqa: E731
    positions = pad(np.concatenate([np.arange(n) for n in lengths]))
    segments = pad(np.concatenate([np.full(n, i + 1) for i, n in enumerate(lengths)]))
    tokens = np.random.default_rng(seed).integers(0, V, (batch, length)).astype(np.int32)
    tile = lambda x: np.tile(x.astype(np.int32), (batch, 1))  # noqa: E731
    return tokens, tile(positions), tile(segments)


@pytest.mark.parametrize("name", golden_files.CASES)
def test_values_and_gradients_equal_torch(name):
    found = golden_files.errors(name)
    assert found["logits"] < 1e-5 and found["gradients"] < 1e-4


ATTENTIONS = ("gru_bahdanau", "elman_concat", "lstm_general", "gru_dot", "lstm_none")


@pytest.mark.parametrize("name", ATTENTIONS)  # one of each; the cells' own texts: test_rnn.py
def test_greedy_texts_are_torchs(name):
    """64 tokens to each source, of a batch of unequal lengths; torch reads all again each time."""
    golden, config = golden_files.load(f"seq2seq_{name}"), golden_files.config_of(name)
    config = config.replace(vocab_size=len(golden["head_bias"]), prompt=EncodeSource(start_id=0))
    program = make_program(
        mesh=MeshConfig(data=1, num_devices=1).build(), model=config, objective=CausalLM()
    )
    want = golden["greedy"].tolist()
    sampling = Sampling(max_tokens=len(want[0]), temperature=0)
    rows = zip(golden["source"], golden["lengths"], strict=True)
    sources = [row[:length].tolist() for row, length in rows]
    generate = Generator(program, sampling, eos_id=None, pad_id=0)
    assert generate(golden_files.tree(golden, config), sources) == want


@pytest.mark.parametrize("kind", KINDS)
def test_packed_pairs_do_not_see_each_other(kind):
    config = KINDS[kind]
    apply, params = applier(config), make_params(config)
    source, text = make_rows(3, 4, length=S), make_rows(2, 4, length=T, seed=1)
    both = np.asarray(apply(params, source, text)[1])
    for change_source in (True, False):
        tokens = (source if change_source else text)[0].copy()
        cut = 3 if change_source else 2
        tokens[:, :cut] = (tokens[:, :cut] + 1) % V
        changed = (tokens, *(source if change_source else text)[1:])
        given = (changed, text) if change_source else (source, changed)
        logits = np.asarray(apply(params, *given)[1])
        np.testing.assert_array_equal(logits[:, 2:], both[:, 2:])
        assert np.abs(logits[:, :2] - both[:, :2]).max() > 1e-4

    def take(rows, begin, end):
        tokens, positions, segments = (x[:, begin:end] for x in rows)
        return tokens, positions, np.ones_like(segments)

    close(apply(params, take(source, 0, 3), take(text, 0, 2))[1], both[:, :2])
    close(apply(params, take(source, 3, 7), take(text, 2, 6))[1], both[:, 2:])


@pytest.mark.parametrize("kind", KINDS)
def test_source_padding_is_never_read(kind):
    config = KINDS[kind]
    apply, params = applier(config), make_params(config)
    text = make_rows(T, length=T, seed=1)
    plain = np.asarray(apply(params, make_rows(4, length=4), text)[1])
    for left in (0, 2):
        padded = make_rows(4, length=S, left=left, seed=9)
        padded[0][:, left : left + 4] = make_rows(4, length=4)[0]
        logits = np.asarray(apply(params, padded, text)[1])
        close(logits, plain)
        other = np.where(padded[2] > 0, padded[0], (padded[0] + 1) % V)
        np.testing.assert_array_equal(apply(params, (other, *padded[1:]), text)[1], logits)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_with_a_cache_equal_the_whole_text(kind):
    config = KINDS[kind]
    params, source = make_params(config), make_rows(5, length=S, left=2)
    text = make_rows(T, length=T, seed=1)
    whole = applier(config)(params, source, text)[1]
    names = ("tokens", "positions", "segment_ids")

    @jax.jit
    def begin(params):
        model = nnx.merge(graph_of(config)[0], params)
        encoded = model.encode(**dict(zip(names, source, strict=True)))
        return model.init_cache(B, T, encoded)

    @jax.jit
    def step(params, rows, cache):
        model = nnx.merge(graph_of(config)[0], params)
        hidden, cache, *_ = model(**dict(zip(names, rows, strict=True)), cache=cache)
        return model.logits(hidden), cache

    for width in (1, 3):
        cache, parts = begin(params), []
        for i in range(0, T, width):
            logits, cache = step(params, [x[:, i : i + width] for x in text], cache)
            parts.append(np.asarray(logits))
        close(np.concatenate(parts, axis=1), whole)


def test_a_text_without_a_source_starts_from_zero_and_has_no_nan():
    config = SMALL
    source, text = make_rows(4, length=S), make_rows(3, 3, length=T, seed=1)
    hidden = applier(config)(make_params(config), source, text)[0]
    assert np.isfinite(hidden).all()
    grads = jax.jit(jax.grad(lambda p: (forward(config, p, source, text)[0][:, 3:] ** 2).sum()))(
        make_params(config)
    )
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert not any(np.any(g) for g in jax.tree.leaves(grads["encoder"]))


def test_sharded_equals_one_device():
    config = KINDS["feeding"].replace(dropout=0.3)
    source, text = make_rows(4, 3, length=S, batch=8), make_rows(2, 4, length=T, seed=1, batch=8)
    key = jax.random.key(0)

    def loss(params, source, text):
        return (forward(config, params, source, text, key)[1] ** 2).mean()

    step = jax.value_and_grad(loss)
    params = make_params(config)
    alone = jax.jit(step)(params, source, text)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    params = jax.device_put(params, param_shardings(params, graph_of(config)[2], mesh))
    source, text = jax.device_put((source, text), batch_sharding(mesh, 2))
    with jax.set_mesh(mesh):
        spread = jax.jit(step)(params, source, text)
    jax.tree.map(close, spread, alone)


def test_no_collective_runs_at_every_time_step():
    config = KINDS["feeding"].replace(num_layers=2)
    source, text = make_rows(S, length=S, batch=8), make_rows(T, length=T, batch=8)
    params = make_params(config)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    params = jax.device_put(params, param_shardings(params, graph_of(config)[2], mesh))
    rows = jax.device_put((source, text), batch_sharding(mesh, 2))
    with jax.set_mesh(mesh):
        step = jax.jit(lambda p, r: forward(config, p, *r)[0])
        text_of = step.lower(params, rows).compile().as_text()
    bodies = loop_bodies(text_of)
    assert len(bodies) >= 3  # both ways of the encoder, and the decoder
    assert not any(COLLECTIVE.search(body) for body in bodies)


def test_dropout_is_off_without_a_key_and_keys_decide_masks():
    config = SMALL.replace(dropout=0.3, num_layers=2)
    params = make_params(config)
    rows = make_rows(S, length=S), make_rows(T, length=T, seed=1)
    plain = applier(config.replace(dropout=0.0))(params, *rows)[1]
    apply = applier(config)
    np.testing.assert_array_equal(apply(params, *rows)[1], plain)
    a, b, c = (np.asarray(apply(params, *rows, jax.random.key(i))[1]) for i in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-2 and np.abs(a - plain).max() > 1e-2


def test_remat_changes_no_number():
    rows = make_rows(S, length=S), make_rows(T, length=T, seed=1)

    def grads(config):
        loss = lambda p: (forward(config, p, *rows)[1] ** 2).mean()  # noqa: E731
        return jax.jit(jax.grad(loss))(make_params(config))

    config = KINDS["feeding"]
    jax.tree.map(close, grads(config.replace(remat="full")), grads(config))


def test_bfloat16_computes_near_float32_and_keeps_float32_states():
    rows = make_rows(S, length=S), make_rows(T, length=T, seed=1)
    exact = applier(SMALL)(make_params(SMALL), *rows)[1]
    hidden, logits = applier(SMALL.replace(dtype="bfloat16"))(make_params(SMALL), *rows)
    assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    assert np.linalg.norm(logits - exact) / np.linalg.norm(exact) < 0.03
    cache = nnx.eval_shape(
        lambda: SMALL.replace(dtype="bfloat16").build(V, rngs=nnx.Rngs(0)).init_cache(B, 1)
    )
    assert {x.dtype for x in jax.tree.leaves(cache)} == {jnp.dtype("float32")}


def test_flops_are_those_of_the_products():
    model = nnx.eval_shape(lambda: SMALL.build(V, rngs=nnx.Rngs(0)))
    encoder = 2 * 4 * 16 * (8 + 16)
    decoder = 4 * 16 * (8 + 32 + 16)
    attention = 16 * (16 + 32) + (16 + 8 + 32) * 2 * 16  # query and key; the readout
    scores = 2 * 50 * (16 + 32)
    assert model.flops_per_token(50) == 2 * (encoder + decoder + attention + 16 * V) + scores
    config = SMALL.replace(attention="none", bridge="copy", encoder=ONE_WAY)
    plain = nnx.eval_shape(lambda: config.build(V, rngs=nnx.Rngs(0)))
    assert plain.flops_per_token(50) == 2 * (2 * 4 * 16 * (8 + 16) + 16 * V)


@pytest.mark.parametrize("kind", ["feeding", "none"])
def test_the_generator_writes_what_whole_forwards_say(kind):
    """Greedily, to sources of unequal length; and a search's score is its text's probability."""
    config = KINDS[kind].replace(vocab_size=V, prompt=EncodeSource(start_id=3))
    program = make_program(
        mesh=MeshConfig(data=1, num_devices=1).build(), model=config, objective=CausalLM()
    )
    params, sources, steps = make_params(config), [[5, 9, 11, 2, 7], [4, 8]], 5
    how = {"eos_id": None, "pad_id": 0}
    greedy = Generator(program, Sampling(max_tokens=steps, temperature=0), **how)(params, sources)
    beams = Sampling(max_tokens=steps, num_beams=3, length_penalty=0.0)
    searched = Generator(program, beams, **how).with_scores(params, sources)
    for source, written, (best, score) in zip(sources, greedy, searched, strict=True):
        read = make_rows(len(source), length=len(source), batch=1)
        totals = []
        for text in (written, best):
            rows = make_rows(steps, length=steps, batch=1)
            given = (np.asarray([[3, *text[:-1]]], np.int32), *rows[1:])
            logits = applier(config)(params, (np.asarray([source], np.int32), *read[1:]), given)[1]
            each = np.asarray(jax.nn.log_softmax(logits))[0, np.arange(steps), text]
            totals.append(each.sum())
            if text is written:
                np.testing.assert_array_equal(logits[0].argmax(-1), text)
        assert score == pytest.approx(totals[1], abs=1e-4) and totals[1] > totals[0] - 1e-4


CHANGES = {
    "cell": ({}, "gru"),
    "hidden_size": ({}, 8),
    "num_layers": ({}, 2),
    "encoder": ({}, EncoderConfig(num_layers=2)),
    "attention": ({}, "luong_general"),
    "attention_size": ({}, 4),
    "input_feeding": ({"attention": "luong_general"}, True),
    "bridge": ({}, "zero"),
    "embedding_size": ({}, 4),
    "vocab_size": ({}, 40),
    "share_embeddings": ({}, False),
    "tie_embeddings": ({}, True),
    "activation": ({"cell": "elman"}, "relu"),
    "dropout": ({}, 0.1),
    "initializer": ({}, "orthogonal"),
    "initializer_range": ({}, 0.02),
    "logit_softcap": ({}, 30.0),
    "remat": ({}, "full"),
    "recurrence": ({}, "reference"),
    "dtype": ({}, "bfloat16"),
}
READ_BY_OTHERS = {"prompt"}  # by the generator


def shapes_of(config: RNNSeq2SeqConfig):
    return graph_of(config)[1]


@cache
def init_program(config: RNNSeq2SeqConfig) -> str:
    def init():
        return nnx.to_pure_dict(nnx.split(config.build(V, rngs=nnx.Rngs(0)))[1])

    return text_of(jax.make_jaxpr(init)())


def text_of(jaxpr) -> str:
    """A traced program; the addresses of functions in it say nothing."""
    return re.sub(" at 0x[0-9a-f]+", "", str(jaxpr))


@cache
def loss_program(config: RNNSeq2SeqConfig) -> str:
    """The traced loss."""

    def loss(params, source, text, key):
        hidden, _ = forward(config, params, source, text, key)
        head = nnx.merge(graph_of(config)[0], params).head()
        return cross_entropy(hidden, head, text[0]).loss.sum()

    rows = make_rows(S, length=S), make_rows(T, length=T)
    return text_of(jax.make_jaxpr(loss)(shapes_of(config), *rows, jax.random.key(0)))


def differ(config: RNNSeq2SeqConfig, other: RNNSeq2SeqConfig) -> bool:
    """In parameters or programs; what is soonest known first."""
    views = (shapes_of, loss_program, init_program)
    return any(view(config) != view(other) for view in views)


@pytest.mark.parametrize(
    "name", [f.name for f in dataclasses.fields(RNNSeq2SeqConfig) if f.name not in READ_BY_OTHERS]
)
def test_every_field_changes_parameters_or_program(name):
    base, value = CHANGES[name]
    config = SMALL.replace(**base)
    assert getattr(config, name) != value
    assert differ(config.replace(**{name: value}), config)


def test_a_field_that_the_generator_reads_changes_neither():
    """So that what differs above does so by its field."""
    other = SMALL.replace(prompt=EncodeSource(start_id=3))
    assert other != SMALL and not differ(other, SMALL)


@pytest.mark.parametrize(
    "change", [{"hidden_size": 8}, {"num_layers": 2}, {"bidirectional": False}]
)
def test_every_field_of_the_encoder_changes_the_program(change):
    assert differ(SMALL.replace(encoder=EncoderConfig(**change)), SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "gur"}, "did you mean gru"),
        ({"cell": "mingru"}, "cell: unknown cell 'mingru'"),
        ({"activation": "relu"}, "activation: lstm has its own"),
        ({"input_feeding": True}, "input_feeding: attention bahdanau has no output"),
        ({"attention": "luong_general", "attention_size": 4}, "attention_size: attention luong"),
        ({"attention": "none", "bridge": "zero"}, "bridge: a decoder without attention"),
        ({"attention": "luong_dot"}, "luong_dot needs an encoder as wide as the decoder's 16, not"),
        ({"bridge": "copy"}, "bridge: copy needs 1 encoder layers that give 16, not 1 of 32"),
        ({"attention": "none", "tie_embeddings": True}, "tie_embeddings: without attention"),
        ({"vocab_size": V - 1}, "vocab_size: 31 is less than the tokenizer's 32"),
    ],
)
def test_mistakes_are_user_errors(change, message):
    with pytest.raises(UserError, match=message):
        SMALL.replace(**change).build(V, rngs=nnx.Rngs(0))
