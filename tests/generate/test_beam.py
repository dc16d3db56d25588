"""Beam search against transformers' texts, and against a slow one that keeps lists of texts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.generate import Generator, Sampling
from jaxlm.generate.beam import Search, beam_search
from tests.generate.golden_programs import case_of, generator_of, program_of, prompts_of
from tests.nn.golden_nn import assert_close, load

# One of each kind of cache; greedy texts of all families: models/test_families.py.
CACHES = ("t5_v1_1", "chatglm3", "gemma3", "deepseek_v3")  # a source, shared heads, windows, latent
VOCAB, STEPS, END = 7, 9, 3


@pytest.mark.parametrize("name", CACHES)
def test_texts_and_scores_are_transformers(name):
    """Two prompts of unequal length in one batch, as each of them was searched for alone."""
    a = case_of(name).arrays
    generator = generator_of(name, max_tokens=a["beam"].shape[1], num_beams=4)
    found = generator.with_scores(program_of(name)[1], prompts_of(case_of(name)))
    np.testing.assert_array_equal([ids for ids, _ in found], a["beam"])
    assert_close([score for _, score in found], a["beam_score"], 1e-4)


def searches() -> dict[str, dict[str, np.ndarray]]:
    """{"model,beams,length penalty": what transformers found}"""
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, array in load("beams").items():
        name, _, kind = key.partition("/")
        found.setdefault(name, {})[kind] = array
    return found


@pytest.mark.parametrize("search", searches())
def test_texts_that_end_are_transformers(search):
    """One or both end early; what follows the end is padding."""
    name, beams, penalty = search.split(",")
    want = searches()[search]
    sampling = Sampling(
        max_tokens=want["ids"].shape[1], num_beams=int(beams), length_penalty=float(penalty)
    )
    program, params = program_of(name)
    generator = Generator(program, sampling, eos_id=int(want["end"]), pad_id=0)
    found = generator.with_scores(params, prompts_of(case_of(name)))
    np.testing.assert_array_equal([ids for ids, _ in found], want["ids"])
    assert_close([score for _, score in found], want["scores"], 1e-4)
    assert min(want["lengths"]) < want["ids"].shape[1]


# ------------------------------------------------------------------- texts that end, a slow search


def next_log_probs(table: np.ndarray, text: list[int]) -> np.ndarray:
    """A language model whose next token hangs on the last two and on the length."""
    first, second = ([0, 0] + text)[-2:]
    logits = table[first, second] + 0.3 * np.sin(np.arange(VOCAB) * (len(text) + 1))
    return logits - np.log(np.exp(logits).sum())


def slow_search(table: np.ndarray, beams: int, penalty: float) -> tuple[list[int], float]:
    """The definition, with lists of (score, text)."""
    begun, ended = [(0.0, [])], []
    for turn in range(1, STEPS + 1):
        longer = [
            (score + log_prob, [*text, token])
            for score, text in begun
            for token, log_prob in enumerate(next_log_probs(table, text))
        ]
        longer = sorted(longer, key=lambda pair: -pair[0])[: 2 * beams]
        is_last = turn == STEPS
        ended += [
            (score / turn**penalty, text)
            for score, text in longer[:beams]
            if is_last or text[-1] == END
        ]
        ended = sorted(ended, key=lambda pair: -pair[0])[:beams]
        begun = [pair for pair in longer if pair[1][-1] != END][:beams]
        if len(ended) == beams and begun[0][0] / turn**penalty <= ended[-1][0]:
            break
    score, text = ended[0]
    return text, score


@pytest.mark.parametrize(("beams", "penalty"), [(1, 1.0), (3, 0.0), (3, 2.5), (5, 1.0)])
def test_texts_that_end(beams, penalty):
    """Rows of a batch end at different turns; one has nothing to search for."""
    tables = np.random.default_rng(1).normal(size=(9, VOCAB, VOCAB, VOCAB)) * 1.5
    tables[:, :, :, END] += np.linspace(-2, 4, 9)[:, None, None]

    def advance(token, turn, cache):
        table, last, length = cache
        rows = jnp.arange(len(token))
        wave = 0.3 * jnp.sin(jnp.arange(VOCAB) * (turn + 2.0))
        logits = table[rows, last, token] + wave
        return logits, (table, token, length + 1)

    def take_rows(cache, index):
        table, last, length = cache
        return table[index], last[index], length

    rows, alive = len(tables) + 1, jnp.arange(len(tables) + 1) < len(tables)
    table = jnp.concatenate([jnp.asarray(tables), jnp.zeros((1, VOCAB, VOCAB, VOCAB))])
    logits = table[:, 0, 0] + 0.3 * jnp.sin(jnp.arange(VOCAB) * 1.0)
    search = Search(
        **{"num_beams": beams, "length_penalty": penalty, "max_tokens": STEPS},
        **{"eos_id": END, "pad_id": 0},
    )
    cache = (table, jnp.zeros(rows, jnp.int32), jnp.zeros(()))
    ids, scores = jax.jit(
        lambda logits, cache: beam_search(logits, cache, advance, take_rows, alive, search)
    )(logits, cache)
    lengths = set()
    for row, own in enumerate(tables):
        text, score = slow_search(own, beams, penalty)
        assert ids[row].tolist() == text + [0] * (STEPS - len(text))
        assert scores[row] == pytest.approx(score, rel=1e-5)
        lengths.add(len(text))
    assert len(lengths) > 1 and max(lengths) == STEPS
    assert ids[-1].tolist() == [0] * STEPS
