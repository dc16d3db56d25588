"""Perplexity and distinct-n of what a model writes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.config import UserError
from jaxlm.evals.generation import Generation, distinct
from jaxlm.generate import Ends, encode_prompt
from jaxlm.training.session import Session
from tests import tiny


def test_distinct_counts_words_of_all_texts():
    assert distinct(["a b a", "b a"], 1) == 2 / 5
    assert distinct(["a b a", "b a"], 2) == 2 / 3  # a b, b a, b a; not a b over the border
    assert distinct(["春眠不覺曉 ok!"], 1) == 1.0 and distinct(["春春 go, go"], 1) == 3 / 5
    assert distinct(["", "a"], 2) == 0.0


def test_the_perplexity_is_the_models_own():
    words = ("sample.prompts=[ab, c]", "sample.max_tokens=6", "sample.temperature=0")
    config, data = tiny.prepared(tiny.load("transformer", *words).config)
    program = tiny.program(config)
    params = tiny.params_of(program)
    session = Session(config, data, program)
    measuring = Generation(texts=3).prepare(session)
    assert measuring.prompts == ["ab", "c", "ab"]
    (measures,) = measuring.after(params, [None])
    found = {m.name: m.value for m in measures}
    nll = []
    model = nnx.merge(program.graphdef, params)
    bos, eos = config.data.marks(data.manifest)
    logits_of = jax.jit(
        lambda ids, real: model.logits(
            model(ids, positions=jnp.arange(12)[None], segment_ids=real).hidden
        )
    )
    for prompt in measuring.prompts:
        ids, own = encode_prompt(data.tokenizer, prompt, config.model, Ends(bos, eos)), []
        while len(own) < 6 and data.tokenizer.eos_id not in ids[1:]:
            row, real = np.zeros((2, 1, 12), np.int32)
            row[0, : len(ids)], real[0, : len(ids)] = ids, 1
            log_probs = np.asarray(jax.nn.log_softmax(logits_of(row, real)[0, len(ids) - 1]))
            ids.append(int(log_probs.argmax()))
            own.append(-float(log_probs.max()))
        nll.append(np.mean(own))
    assert found["perplexity"] == pytest.approx(math.exp(np.mean(nll)), rel=1e-4)
    assert 0 <= found["distinct_2"] <= 1 and 0 < found["distinct_1"] <= 1


def test_a_model_that_writes_nothing():
    config, data = tiny.prepared(tiny.load("bert").config)
    with pytest.raises(UserError, match="this one fills masks and writes no text"):
        Generation().prepare(Session(config, data, tiny.program(config)))
