"""Naive Bayes and logistic regression against scikit-learn on the same counts (the golden file is
made by tools/make_golden_bow.py), and bags of hashed n-grams by hand.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.config import UserError
from jaxlm.core.tree import map_with_path
from jaxlm.data.tokenizers.words import Words, WordTokenizer
from jaxlm.models.bag_of_words import BagOfWordsConfig
from jaxlm.models.rnn import RNNConfig
from jaxlm.nn.bags import features
from jaxlm.nn.heads.bernoulli import Bernoulli
from jaxlm.nn.heads.logistic import Logistic
from jaxlm.nn.heads.multinomial import Multinomial
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.classification import Classification
from jaxlm.objectives.naive_bayes import NaiveBayes
from tests.objectives.bags import CLASSES, GOLDEN, batch_of, model_of

HEADS = {"multinomial": Multinomial, "multinomial_even": Multinomial, "bernoulli": Bernoulli}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    texts = lambda: iter(GOLDEN["texts"])  # noqa: E731
    return Words(ngrams=2).build(texts, "golden", tmp_path_factory.mktemp("words"))


def test_the_vocabulary_is_that_of_scikit_learn(tokenizer: WordTokenizer) -> None:
    assert set(tokenizer.names) == set(GOLDEN["names"])
    assert tokenizer.unk_id in tokenizer.encode("new")
    again = WordTokenizer.from_files(tokenizer.files())
    assert again.encode("ab cd ef") == tokenizer.encode("AB cd  ef")
    old = WordTokenizer.from_files(
        {"words.json": b'{"names": ["a"], "unit": "word", "ngrams": 1, "lowercase": true}'}
    )
    assert "counts" not in json.loads(old.files()["words.json"])  # so its fingerprint is as it was
    spelled = [tokenizer.name_of(i) for i in tokenizer.encode("it's ef")]
    assert [s for s in spelled if " " not in s] == ["it", "'", "s", "ef"]
    assert tokenizer.decode(tokenizer.encode("it's ef")) == " it ' s ef"
    chinese = WordTokenizer(["好", "看", "好看"], unit="character", ngrams=2)
    assert chinese.encode("好看好") == [2, 3, 4, 2] and chinese.decode([2, 3, 4, 2]) == "好看好"


@pytest.mark.parametrize("name", HEADS)
def test_naive_bayes_is_that_of_scikit_learn(name: str, tokenizer: Any) -> None:
    want = GOLDEN[name]
    head = HEADS[name](alpha=want["alpha"], bias=want["fit_prior"])
    objective = NaiveBayes(classes=CLASSES, head=head)
    model = model_of(objective, tokenizer)
    graphdef, state = nnx.split(model)
    tables: Any = nnx.to_pure_dict(state)
    whole = batch_of(tokenizer, GOLDEN["texts"], GOLDEN["labels"])
    tables["read"] = jnp.zeros(len(whole["row"]), jnp.int32)
    first, rest = np.r_[:9, 4, 17], np.r_[3:18]  # rows that come twice count once
    for rows in (first, rest):
        batch = {key: jnp.asarray(value[rows]) for key, value in whole.items()}
        tables = objective.count_with(nnx.merge(graphdef, tables), tables, batch)
    model = nnx.merge(graphdef, tables)
    order = [tokenizer.id_of(gram) for gram in GOLDEN["names"]]
    single = batch_of(tokenizer, GOLDEN["asked"], [0] * len(GOLDEN["asked"]))
    joint, _ = objective.scores(model, single)
    np.testing.assert_allclose(joint[:-1], want["joint"], rtol=1e-6)
    log_probs = np.array(want["log_probs"]).T
    strengths = np.asarray(model.task_head.strengths())
    apart = log_probs - log_probs.mean(-1, keepdims=True)
    np.testing.assert_allclose(strengths[order], apart, atol=1e-6)
    assert np.isneginf(strengths[:2]).all()
    predicted = objective.predict(model, single)
    np.testing.assert_allclose(np.sum(predicted["probs"], -1), 1, rtol=1e-6)


def test_logistic_loss_and_gradient_are_those_of_scikit_learn(tokenizer: Any) -> None:
    want = GOLDEN["logistic"]
    objective = Classification(classes=CLASSES, head=Logistic(l2=want["l2"]))
    model = model_of(objective, tokenizer)
    graphdef, state = nnx.split(model)
    given = np.array(want["coefficients"]).T
    order = np.array([tokenizer.id_of(gram) for gram in GOLDEN["names"]])
    kernel = np.zeros((tokenizer.vocab_size, 3), np.float32)
    kernel[order] = given[:-1]
    params = {"task_head": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(given[-1])}}
    batch = batch_of(tokenizer, GOLDEN["texts"], GOLDEN["labels"])

    def mean(params: Any) -> Any:
        params = map_with_path(lambda _, x: jnp.asarray(x, jnp.float32), params)
        found = objective.loss(nnx.merge(graphdef, params), batch, key=None, cache=None)
        return found.loss_sum / found.weight

    assert nnx.to_pure_dict(state)["task_head"].keys() == params["task_head"].keys()
    loss, gradient = jax.jit(jax.value_and_grad(mean))(params)
    assert loss == pytest.approx(want["loss"], rel=1e-6)
    own = np.concatenate([gradient["task_head"]["kernel"][order], [gradient["task_head"]["bias"]]])
    np.testing.assert_allclose(own.T, want["gradient"], atol=1e-6)


@pytest.mark.parametrize("hashing", [False, True])
def test_bags_have_the_n_grams_of_each_text(hashing: bool) -> None:
    tokens = np.array([[5, 6, 5, 6, 7], [6, 5, 6, 0, 0], [5, 5, 0, 0, 0]])
    segments = (np.arange(5) < np.array([[5], [3], [1]])).astype(np.int32)
    sizes: dict[str, Any] = {"vocab_size": 8, "ngrams": 3, "buckets": 2**20, "hashing": hashing}
    bag = features(jnp.asarray(tokens), jnp.asarray(segments), **sizes)
    name: dict[tuple[int, ...], int] = {}
    for row, (own, length) in enumerate(zip(tokens, (5, 3, 1), strict=True)):
        grams = [tuple(own[i : i + n].tolist()) for n in (1, 2, 3) for i in range(length - n + 1)]
        kept = np.asarray(bag.weights[row]) > 0
        found = np.asarray(bag.ids[row])[kept].tolist()
        for gram, i in zip(grams, found, strict=True):
            assert name.setdefault(gram, i) == i
            assert hashing or (i == gram[0] if len(gram) == 1 else i >= 8)
        once = bag.binary()
        seen = Counter(np.asarray(once.ids[row])[np.asarray(once.weights[row]) > 0].tolist())
        assert seen == Counter(set(found))
    assert len(set(name.values())) == len(name)


def test_what_does_not_fit_is_a_users_error() -> None:
    bags, cells = BagOfWordsConfig(vocab_size=9), RNNConfig(vocab_size=9)
    counts, descends = NaiveBayes(classes=CLASSES), Classification(classes=CLASSES)
    with pytest.raises(UserError, match="^objective: causal_lm reads hidden states, and model.ty"):
        CausalLM().check(bags)
    with pytest.raises(UserError, match="^objective.head: classify reads hidden states, and mode"):
        descends.check(bags)
    with pytest.raises(UserError, match="^objective.head: multinomial reads a bag of features, a"):
        counts.check(cells)
    with pytest.raises(UserError, match="^objective.head: multinomial is counted; use objective "):
        descends.replace(head=Multinomial()).check(bags)
    with pytest.raises(UserError, match="^objective: naive_bayes counts, and head logistic has a"):
        counts.replace(head=Logistic()).check(bags)
    with pytest.raises(UserError, match="^vocab_size: 9 is less than the tokenizer's 10; set it"):
        bags.build(10, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="label_smoothing: counts have none; leave it out"):
        counts.replace(label_smoothing=0.1).validate()
    with pytest.raises(UserError, match="dropout: counts have none; leave it out"):
        Multinomial(dropout=0.1).validate()
