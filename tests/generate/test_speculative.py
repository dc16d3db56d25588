"""Speculative decoding: the tokens of the large model alone, and its distribution."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.generate import Generator, Sampling, Stops
from jaxlm.generate.speculative import Options, Side, SpeculativeGenerator, most_likely, speculate
from tests import tiny
from tests.generate.golden_generation import STEPS as STEPS_OF_CASE
from tests.generate.golden_generation import Pieces, cases
from tests.generate.golden_programs import case_of, program_of, prompts_of

GREEDY = Sampling(max_tokens=40, temperature=0)


@pytest.mark.parametrize(("name", "drafts"), [("gpt2", 4), ("t5", 3)])
def test_greedy_tokens_are_the_large_models_own(name, drafts):
    """Those of the fixture, so of transformers; whether the guesses are right or wrong."""
    program, params = program_of(name)
    other = jax.tree.map(lambda x: x + 0.02 * jnp.sin(x * 99), params)
    generate = SpeculativeGenerator(
        program, program, GREEDY, num_drafts=drafts, eos_id=None, pad_id=0
    )
    want = case_of(name).arrays["greedy"][:, :40].tolist()
    for draft in (params, other):
        assert generate((params, draft), prompts_of(case_of(name))) == want


def test_the_end_of_text_ends_a_row_alone():
    program, params = program_of("gpt2")
    prompts, want = prompts_of(case_of("gpt2")), case_of("gpt2").arrays["greedy"].tolist()
    end, other = want[0][9], want[1][5]
    for ends in ((end,), (end, other)):
        generate = SpeculativeGenerator(program, program, GREEDY, eos_id=ends, pad_id=0)
        stops = [next((n for n, i in enumerate(ids) if i in ends), 40) for ids in want]
        expected = [ids[: min(n, 40)] for ids, n in zip(want, stops, strict=True)]
        assert generate((params, params), prompts) == expected


def test_penalties_and_ends_are_those_of_plain_generation():
    """Each drafted token is read with the states that the tokens before it make."""
    case = cases()["llama_all"]
    program, params = program_of(case.model)
    sampling = Sampling(max_tokens=STEPS_OF_CASE, temperature=0, **case.options)
    stops = Stops.of(sampling.stop, Pieces(program.model.vocab_size), program.model.vocab_size)
    ends = {"eos_id": case.eos_ids, "pad_id": 0, "stops": stops}
    generate = SpeculativeGenerator(program, program, sampling, num_drafts=3, **ends)
    rows = [
        list(itertools.takewhile(lambda i: i not in case.eos_ids, r))
        for r in case.arrays["ids"].tolist()
    ]
    want = [ids[: stops.end(ids)] for ids in rows]
    other = jax.tree.map(lambda x: x + 0.02 * jnp.sin(x * 99), params)
    assert generate((params, other), prompts_of(case_of(case.model))) == want


def test_pairs_that_do_not_go_together():
    config, _ = tiny.prepared(tiny.load("lstm").config)
    recurrent, (program, _) = tiny.program(config), program_of("gpt2")
    for pair, message in [
        ((program, recurrent), "a model of type rnn cannot take back what it has read"),
        ((program, program_of("qwen2")[0]), "its vocabulary has 91 ids, the model's 83"),
        ((program_of("llama_rope_dynamic")[0], program), "without dynamic scaling of positions"),
    ]:
        with pytest.raises(UserError, match=message):
            SpeculativeGenerator(*pair, GREEDY, eos_id=None, pad_id=0)
    with pytest.raises(UserError, match="320 new ones pass the model's 323 positions"):
        generate = SpeculativeGenerator(
            program, program, Sampling(max_tokens=316), eos_id=None, pad_id=0
        )
        generate((None, None), [[1] * 8])


# ------------------------------------------------------------- distribution, of tables as models

VOCAB, STEPS, RUNS, DRAFTS = 3, 4, 6000, 2


def side(logits: np.ndarray) -> Side:
    """A model whose next token hangs on the last one; its cache is how many tokens it has read."""

    def read(tokens, turn, cache):
        return jnp.asarray(logits)[tokens], cache + tokens.shape[1]

    return Side(read, lambda cache, count: cache - count)


@pytest.mark.parametrize(
    "likeness", [0.7, *(pytest.param(x, marks=pytest.mark.slow) for x in (0.0, 1.0))]
)
def test_texts_have_the_large_models_distribution(likeness):
    """All texts of four tokens, in rows of a batch that keep unequal numbers of guesses."""
    rng = np.random.default_rng(0)
    target, other = rng.normal(size=(2, VOCAB, VOCAB)) * 1.2
    draft = likeness * target + (1 - likeness) * other
    options = Options(
        **{"num_drafts": DRAFTS, "max_tokens": STEPS, "eos_id": None, "pad_id": 0},
        probs=jax.nn.softmax,
    )

    def texts(key):
        zero = jnp.zeros((), jnp.int32)
        keys, first = jax.random.split(key, 2), jnp.array([0, 1])
        return speculate(
            side(target), side(draft), (zero, zero), first, jnp.ones(2, bool), keys, options
        )

    found = np.asarray(jax.jit(jax.vmap(texts))(jax.random.split(jax.random.key(1), RUNS)))
    probs = np.exp(target) / np.exp(target).sum(-1, keepdims=True)
    for row in range(2):
        every = list(itertools.product(range(VOCAB), repeat=STEPS - 1))
        steps = [zip((row, *text), text, strict=False) for text in every]
        want = np.array([np.prod([probs[a, b] for a, b in pairs]) for pairs in steps])
        index = found[:, row, 1:] @ VOCAB ** np.arange(STEPS - 1)[::-1]
        seen = np.bincount(index, minlength=len(every)) / RUNS
        # a statistic of the chi-squared distribution with 26 degrees of freedom: 60 has p < 2e-4
        assert RUNS * ((seen - want) ** 2 / want).sum() < 60
        assert (found[:, row, 0] == row).all()


def test_greedy_tables_keep_whole_drafts():
    logits = np.eye(VOCAB)[[1, 2, 0]]
    options = Options(
        **{"num_drafts": 2, "max_tokens": 5, "eos_id": 2, "pad_id": 9}, probs=most_likely
    )
    keys, alive = jax.random.split(jax.random.key(0), 3), jnp.array([True, True, False])
    zero = jnp.zeros((), jnp.int32)
    found = speculate(
        side(logits), side(logits), (zero, zero), jnp.array([0, 2, 1]), alive, keys, options
    )
    assert found.tolist() == [[0, 1, 2, 9, 9], [2, 9, 9, 9, 9], [9] * 5]


def test_sampled_text_is_cut_as_without_a_draft():
    program, params = program_of("gpt2")
    prompts = prompts_of(case_of("gpt2"))
    one = Sampling(max_tokens=6, temperature=0.7, top_k=1)
    generate = SpeculativeGenerator(program, program, one, eos_id=None, pad_id=0)
    plain = Generator(program, one, eos_id=None, pad_id=0)
    assert generate((params, params), prompts, seed=3) == plain(params, prompts)
