"""Weights of bags against scikit-learn's TfidfVectorizer and HashingVectorizer, NBSVM against its
LinearSVC (tools/make_golden_bow.py), the averaged embeddings against numpy, and pairs by hand.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.config import UserError
from jaxlm.data.tokenizers.hashed_words import HashedWords, HashedWordTokenizer, murmur3
from jaxlm.data.tokenizers.words import Words
from jaxlm.models.bag_of_words import BagOfWordsConfig
from jaxlm.nn.heads.averaged import Averaged
from jaxlm.nn.heads.nbsvm import NBSVM
from jaxlm.objectives.classification import Classification
from jaxlm.objectives.counted_first import CountedFirst
from jaxlm.objectives.naive_bayes import NaiveBayes
from tests.objectives.bags import (
    CLASSES,
    GOLDEN,
    asked_batch,
    batch_of,
    dense,
    model_of,
    order_of,
    training_batch,
)

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {"norm": "l2"},
    "sublinear": {"norm": "l2", "sublinear": True},
    "binary": {"norm": "l2", "binary": True},
    "l1": {"norm": "l1"},
    "no_norm": {},
}
HASHED: dict[str, tuple[bool, dict[str, Any]]] = {
    "signed": (True, {}),
    "unsigned": (False, {}),
    "signed_l2": (True, {"norm": "l2"}),
    "signed_binary": (True, {"binary": True}),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    texts = lambda: iter(GOLDEN["texts"])  # noqa: E731
    return Words(ngrams=2).build(texts, "golden", tmp_path_factory.mktemp("words"))


def counted(objective: Any, tokenizer: Any, passes: int, **settings: Any) -> Any:
    """The model after passes over the training texts, in batches that overlap."""
    graphdef, state = nnx.split(model_of(objective, tokenizer, **settings))
    tables: Any = nnx.to_pure_dict(state)
    whole = training_batch(tokenizer)
    tables["read"] = jnp.zeros(len(whole["row"]), jnp.int32)
    order = np.resize(np.r_[:17], (17 * passes + 11) // 12 * 12)
    step = jax.jit(lambda t, b: objective.count_with(nnx.merge(graphdef, t), t, b))
    for rows in order.reshape(-1, 12):  # a border of two passes is within a batch
        tables = step(tables, {key: jnp.asarray(value[rows]) for key, value in whole.items()})
    return nnx.merge(graphdef, tables)


@pytest.mark.parametrize("name", SETTINGS)
def test_tf_idf_is_that_of_scikit_learn(name: str, tokenizer: Any) -> None:
    model = counted(CountedFirst(classes=CLASSES), tokenizer, 1, idf=True, **SETTINGS[name])
    assert model.texts[...] == len(GOLDEN["texts"])
    bag = CountedFirst(classes=CLASSES).output_of(model, asked_batch(tokenizer)).hidden
    own = dense(bag, tokenizer.vocab_size)
    np.testing.assert_allclose(own[:-1, order_of(tokenizer)], GOLDEN["tfidf"][name], atol=1e-6)
    assert not own[:, :2].any()  # what no training text has


def test_naive_bayes_over_tf_idf_is_that_of_scikit_learn(tokenizer: Any) -> None:
    objective = NaiveBayes(classes=CLASSES)
    model = counted(objective, tokenizer, 2, idf=True, norm="l2")
    joint, _ = objective.scores(model, asked_batch(tokenizer))
    np.testing.assert_allclose(joint[:-1], GOLDEN["tfidf_bayes"], rtol=1e-6)
    again = counted(objective, tokenizer, 3, idf=True, norm="l2")
    for one, other in zip(*(jax.tree.leaves(nnx.state(m)) for m in (model, again)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)  # a third pass adds nothing


def test_the_hash_is_that_of_scikit_learn() -> None:
    assert {gram: murmur3(gram) for gram in GOLDEN["murmur3"]} == GOLDEN["murmur3"]


@pytest.mark.parametrize("name", HASHED)
def test_hashed_words_are_those_of_scikit_learn(name: str, tmp_path: Any) -> None:
    signed, settings = HASHED[name]
    buckets = GOLDEN["hashing"]["buckets"]
    config = HashedWords(ngrams=2, buckets=buckets, signed=signed)
    made = config.build(lambda: iter([]), "", tmp_path)
    tokenizer: Any = HashedWordTokenizer.from_files(made.files())
    model = BagOfWordsConfig(vocab_size=tokenizer.vocab_size, **settings).for_data({}, tokenizer)  # type: ignore[arg-type]
    assert model.signed is signed and model.output_size == 1 + buckets
    batch = asked_batch(tokenizer)
    built = model.build(tokenizer.vocab_size, rngs=nnx.Rngs(0))
    keys = ("tokens", "segment_ids", "positions")
    bag = built(**{key: jnp.asarray(batch[key]) for key in keys}).hidden
    own = dense(bag, 1 + buckets)
    np.testing.assert_allclose(own[:-1, 1:], GOLDEN["hashing"][name], atol=1e-6)


def test_nbsvm_has_its_minimum_where_scikit_learn_has_it(tokenizer: Any) -> None:
    want, order = GOLDEN["nbsvm"], order_of(tokenizer)
    objective = CountedFirst(classes=CLASSES, head=NBSVM(C=want["C"], beta=want["beta"]))
    model = counted(objective, tokenizer, 1)
    head = model.task_head
    ratios = np.asarray(head.ratios(head.counts[...]))
    np.testing.assert_allclose(ratios[order].T, want["ratios"], atol=1e-6)
    kernel = np.zeros(head.kernel[...].shape, np.float32)
    kernel[order] = np.array(want["weights"]).T
    head.kernel[...], head.bias[...] = jnp.asarray(kernel), jnp.asarray(want["biases"])
    graphdef, state = nnx.split(model)
    params: Any = nnx.to_pure_dict(state)
    batch = {k: jnp.asarray(v) for k, v in training_batch(tokenizer).items()}

    def mean(own: Any) -> Any:
        merged = nnx.merge(graphdef, {**params, "task_head": {**params["task_head"], **own}})
        found = objective.loss(merged, batch, key=jax.random.key(0), cache=None)
        return found.loss_sum / found.weight

    own = {name: params["task_head"][name] for name in ("kernel", "bias")}
    loss, gradient = jax.jit(jax.value_and_grad(mean))(own)
    scale = want["C"] * len(GOLDEN["texts"])
    assert scale * loss == pytest.approx(want["objective"], rel=1e-6)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient))
    assert largest < 1e-6
    assert scale * jax.jit(mean)({**own, "bias": own["bias"] + 0.1}) > 1.001 * want["objective"]
    scores, _ = objective.scores(model, asked_batch(tokenizer))  # of the interpolated weights
    np.testing.assert_allclose(scores[:-1].T, want["scores"], atol=1e-5)
    strengths = np.asarray(head.strengths())
    assert np.isneginf(strengths[:2]).all() and np.isfinite(strengths[order]).all()


def test_texts_that_are_counted_in_a_step_are_not_learnt_in_it(tokenizer: Any) -> None:
    objective = CountedFirst(classes=CLASSES, head=NBSVM())
    config = BagOfWordsConfig(vocab_size=tokenizer.vocab_size, idf=True)
    batch = {k: jnp.asarray(v[:4]) for k, v in training_batch(tokenizer).items()}
    tables = {"read": jnp.array([0, 1, 2, 2])}
    assert objective.passes(config) == 2
    assert objective.learnt(config, tables, batch)["example_weights"].tolist() == [0, 0, 1, 1]
    twice = {key: value[np.array([1, 1, 3, 1])] for key, value in batch.items()}
    assert objective.times_read(tables, twice).tolist() == [1, 2, 2, 3]


def test_averaged_embeddings_are_those_of_numpy(tokenizer: Any) -> None:
    objective = Classification(classes=CLASSES, head=Averaged(hidden_size=4))
    model = model_of(objective, tokenizer, ngrams=2, buckets=50)
    drawn = np.asarray(model.task_head.embedding[...], np.float64)
    assert np.abs(drawn).max() <= 0.25 < 2 * np.abs(drawn).max() and not model.task_head.bias
    kernel = np.random.default_rng(0).normal(size=(4, 3))
    model.task_head.kernel[...] = jnp.asarray(kernel, jnp.float32)
    batch = {k: jnp.asarray(v) for k, v in training_batch(tokenizer).items()}
    graphdef, state = nnx.split(model)

    def total(params: Any) -> Any:
        return objective.loss(nnx.merge(graphdef, params), batch, key=None, cache=None).loss_sum

    loss, gradient = jax.value_and_grad(total)(nnx.to_pure_dict(state))
    bag = objective.output_of(model, batch).hidden
    x = dense(bag, len(drawn))[:-1]
    shares = x / x.sum(1, keepdims=True)
    h = shares @ drawn
    probs = np.exp(h @ kernel)
    probs /= probs.sum(1, keepdims=True)
    labels = np.array(GOLDEN["labels"])
    assert loss == pytest.approx(-np.log(probs[np.arange(len(labels)), labels]).sum(), rel=1e-5)
    error = probs - np.eye(3)[labels]
    own = gradient["task_head"]
    np.testing.assert_allclose(own["kernel"], h.T @ error, atol=1e-5)
    np.testing.assert_allclose(own["embedding"], shares.T @ error @ kernel.T, atol=1e-5)


def test_the_texts_of_a_pair_have_features_of_their_own(tokenizer: Any) -> None:
    settings: dict[str, Any] = {"ngrams": 2, "buckets": 64}
    plain, pairs = (model_of(Classification(classes=CLASSES, head=Averaged()), tokenizer, **own)
                    for own in (settings, {**settings, "pairs": True}))  # fmt: skip
    size = plain.config.output_size
    assert pairs.config.output_size == 2 * size and pairs.config.row_keys == {"token_types"}
    a, b = tokenizer.encode("ab cd"), tokenizer.encode("cd gh ab")
    both = batch_of(tokenizer, ["ab cd", "cd gh ab"], [0, 0])
    joined = {key: jnp.asarray(value[:1]) for key, value in both.items()}
    row = np.zeros((1, 48), np.int32)
    row[0, : len(a) + len(b)] = [*a, *b]
    joined |= {"tokens": jnp.asarray(row), "segment_ids": jnp.asarray((row > 0).astype(np.int32))}
    joined["token_types"] = jnp.asarray((np.arange(48)[None] >= len(a)).astype(np.int32))
    objective = Classification(classes=CLASSES)
    found = dense(objective.output_of(pairs, joined).hidden, 2 * size)[0]
    sides = dense(objective.output_of(plain, both).hidden, size)
    np.testing.assert_array_equal(found, np.concatenate([sides[0], sides[1]]))


def test_what_does_not_fit_is_a_users_error() -> None:
    bags = BagOfWordsConfig(vocab_size=9, idf=True)
    with pytest.raises(UserError, match="^objective: classification does not count, and mode"):
        Classification(classes=CLASSES, head=Averaged()).check(bags)
    with pytest.raises(UserError, match="^objective: classification does not count, and head"):
        Classification(classes=CLASSES, head=NBSVM()).check(BagOfWordsConfig(vocab_size=9))
    with pytest.raises(UserError, match="^sublinear: with binary each feature occurs once; "):
        BagOfWordsConfig(binary=True, sublinear=True).validate()
    with pytest.raises(UserError, match="^hashing: ids with signs are those of a tokenizer "):
        BagOfWordsConfig(signed=True, hashing=True).validate()
