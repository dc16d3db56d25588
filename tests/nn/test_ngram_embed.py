"""Vectors of hashed n-grams: the rows by plain integers, documents apart, and the cache."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.config import UserError
from jaxlm.core.types import ModelConfig
from jaxlm.models.rnn import RNNConfig
from jaxlm.models.transformer import EmbeddingConfig, TransformerConfig
from jaxlm.nn.attention import MultiHeadConfig
from jaxlm.nn.ngram_embed import NgramEmbeddingConfig

VOCAB = 23
NGRAMS = NgramEmbeddingConfig(orders=(2, 4), buckets=61)
TINY = TransformerConfig(
    hidden_size=16,
    num_layers=2,
    attention=MultiHeadConfig(num_heads=2, num_kv_heads=1),
    embedding=EmbeddingConfig(ngrams=NGRAMS),
    dtype="float32",
)


def filled(config: ModelConfig = TINY) -> nnx.Module:
    """A model whose n-gram vectors are not 0."""
    model = config.build(VOCAB, rngs=nnx.Rngs(0))
    table = model.ngrams.table.table
    table.set_value(jax.random.normal(jax.random.key(1), table.shape))
    return model


def logits(model, tokens, positions, segment_ids, cache=None):
    out = model(tokens, positions=positions, segment_ids=segment_ids, cache=cache)
    return model.logits(out.hidden), out.cache


def row_of(ngram: list[int]) -> int:
    """The row of an n-gram, by Python's integers: the last token first."""
    value = 0
    for token in reversed(ngram):
        value = (value ^ (token + 1)) * 0x01000193 % 2**32
        value ^= value >> 15
    return (value * 0x9E3779B1 % 2**32 >> 4) % NGRAMS.buckets


def test_rows_are_those_of_the_last_tokens():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, (3, 9))
    positions = np.broadcast_to(np.arange(9), (3, 9))
    module = NGRAMS.build(8, std=0.02, dtype=jnp.float32, rngs=nnx.Rngs(0))
    for order, found in zip(
        NGRAMS.orders, module.rows(jnp.array(tokens), jnp.array(positions)), strict=True
    ):
        for row, place in itertools.product(range(3), range(9)):
            first = place - order + 1
            # -1 + 1 = 0 is what is before a document
            ngram = [-1] * max(0, -first) + tokens[row, max(0, first) : place + 1].tolist()
            assert found[row, place] == row_of(ngram)


def test_a_vector_is_the_sum_of_its_n_grams_rows():
    model = filled()
    tokens, positions = jnp.array([[3, 7, 7, 1]]), jnp.arange(4)[None]
    table = np.asarray(model.ngrams.table.table.get_value())
    first, second = model.ngrams.rows(tokens, positions)
    want = table[first] + table[second + NGRAMS.buckets]
    np.testing.assert_allclose(model.ngrams(tokens, positions), want, rtol=1e-6)


def test_the_model_starts_as_the_one_without():
    tokens = jax.random.randint(jax.random.key(0), (2, 8), 0, VOCAB)
    rows = jnp.broadcast_to(jnp.arange(8), (2, 8)), jnp.ones((2, 8), jnp.int32)
    plain = dataclasses.replace(TINY, embedding=EmbeddingConfig())
    both = [config.build(VOCAB, rngs=nnx.Rngs(0)) for config in (TINY, plain)]
    nnx.update(both[1], nnx.filter_state(nnx.state(both[0]), lambda path, _: "ngrams" not in path))
    np.testing.assert_array_equal(*(logits(model, tokens, *rows)[0] for model in both))


def test_an_n_gram_is_of_one_document():
    model = filled()
    tokens = jax.random.randint(jax.random.key(0), (1, 10), 0, VOCAB)
    segments = jnp.array([[1] * 6 + [2] * 4])
    positions = jnp.array([[*range(6), *range(4)]])
    packed = logits(model, tokens, positions, segments)[0]
    for part in (slice(0, 6), slice(6, 10)):
        alone = logits(model, tokens[:, part], positions[:, part], segments[:, part])[0]
        np.testing.assert_allclose(packed[:, part], alone, rtol=1e-5, atol=1e-5)


def test_the_cache_has_the_tokens_before():
    """Prompts of 9 and 5 tokens, padded on the left, in two parts and then token by token; after
    a rewind the tokens that were taken back are overwritten."""
    model, length = filled(), 9
    pads = jnp.array([[0], [4]])
    tokens = jax.random.randint(jax.random.key(0), (2, length), 1, VOCAB)
    segments = (jnp.arange(length) >= pads).astype(jnp.int32)
    positions = jnp.maximum(jnp.arange(length) - pads, 0)
    cache, parts = model.init_cache(2, length + 3), []
    for start, stop in itertools.pairwise([0, 3, 6, 7]):
        part = (x[:, start:stop] for x in (tokens, positions, segments))
        found, cache = logits(model, *part, cache)
        parts.append(found)
    _, cache = logits(model, tokens[:, :2] + 1, positions[:, 7:], segments[:, 7:], cache)
    cache = model.rewind(cache, 2)
    for start in (7, 8):
        part = (x[:, start : start + 1] for x in (tokens, positions, segments))
        found, cache = logits(model, *part, cache)
        parts.append(found)
    cached = np.concatenate(parts, axis=1)
    for row, pad in enumerate((0, 4)):
        alone = tokens[row : row + 1, pad:]
        rows = jnp.arange(length - pad)[None], jnp.ones((1, length - pad), jnp.int32)
        np.testing.assert_allclose(
            cached[row : row + 1, pad:], logits(model, alone, *rows)[0], rtol=1e-5, atol=1e-5
        )


def test_mistakes_are_named():
    for orders in ((), (2, 2)):
        with pytest.raises(UserError, match="orders: name one or more, each once"):
            NgramEmbeddingConfig(orders=orders).validate()


def test_a_recurrent_model_carries_the_tokens_before():
    """A text in two calls, with the cache of the first, is the text in one."""
    config = RNNConfig(hidden_size=16, num_layers=2, ngrams=NGRAMS, dtype="float32")
    model = filled(config)
    tokens = jax.random.randint(jax.random.key(0), (2, 9), 0, VOCAB)
    positions = jnp.array([[*range(9)], [*range(4), *range(5)]])
    rows = tokens, positions, jnp.where(jnp.arange(9) < 4, 1, jnp.array([[1], [2]]))
    whole, cache = logits(model, *rows, model.init_cache(2, 0))
    parts, cache = [], model.init_cache(2, 0)
    for start, stop in itertools.pairwise([0, 1, 6, 9]):
        found, cache = logits(model, *(x[:, start:stop] for x in rows), cache)
        parts.append(found)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-5, atol=1e-5)
    alone = logits(model, tokens[1:, 4:], jnp.arange(5)[None], jnp.ones((1, 5), jnp.int32))[0]
    np.testing.assert_allclose(whole[1:, 4:], alone, rtol=1e-5, atol=1e-5)
    assert (cache["tokens"][0] == tokens[:, -NGRAMS.reach :]).all()
