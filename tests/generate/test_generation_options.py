"""The options of generating text, against transformers' ids and scores, and a slow definition."""

from __future__ import annotations

import dataclasses
import json
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.config import ConfigError
from jaxlm.core.sampling import Sampling, SamplingOptions
from jaxlm.generate import Generator, Stops, cut
from jaxlm.generate.processors import processors_of
from jaxlm.hf.generation import read_generation
from jaxlm.run import SampleConfig
from tests.generate.golden_generation import STEPS, Pieces, cases
from tests.generate.golden_programs import case_of, program_of, prompts_of
from tests.nn.golden_nn import assert_close

CASES = cases()
DRAWN = [name for name in CASES if name.startswith("drawn_")]


@pytest.mark.parametrize("name", [name for name in CASES if name not in DRAWN])
def test_ids_are_transformers(name):
    """Two prompts of unequal length in one batch, as each of them was continued alone."""
    case = CASES[name]
    program, params = program_of(case.model)
    sampling = Sampling(max_tokens=STEPS, temperature=0, **case.options)
    vocab = program.model.vocab_size
    stops = Stops.of(sampling.stop, Pieces(vocab), vocab)
    generator = Generator(program, sampling, eos_id=case.eos_ids, pad_id=0, stops=stops)
    found = generator.with_scores(params, prompts_of(case_of(case.model)))
    np.testing.assert_array_equal([ids for ids, _ in found], case.arrays["ids"])
    if "scores" in case.arrays:
        assert_close([score for _, score in found], case.arrays["scores"], 1e-4)


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_from_is_transformers(name):
    """The order of penalties and warpers: the scores after each drawn token."""
    case = CASES[name]
    a, sampling = case.arrays, Sampling(**case.options)
    processors = processors_of(sampling, ())
    prompt = jnp.asarray(a["prompt"])[None]
    states = processors.begin(prompt, jnp.ones_like(prompt), a["logits"].shape[1], len(a["ids"]))
    for turn, (token, logits, want) in enumerate(
        zip(a["ids"], a["logits"], a["scores"], strict=False)
    ):
        found = np.asarray(cut(processors(jnp.asarray(logits)[None], states, turn), sampling)[0])
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(want))
        kept = np.isfinite(want)
        np.testing.assert_allclose(found[kept], want[kept], rtol=1e-5, atol=1e-5)
        states = processors.add(states, jnp.asarray([token]), jnp.int32(turn))


def test_padding_is_left_out_of_a_prompt():
    """The id of padding may be written, and pads in a row are not an n-gram."""
    sampling = Sampling(no_repeat_ngram_size=2, repetition_penalty=2.0)
    processors = processors_of(sampling, ())
    tokens, real = jnp.array([[0, 0, 0, 3, 0, 3]]), jnp.array([[0, 0, 0, 1, 1, 1]])
    states = processors.begin(tokens, real, 5, 4)
    found = processors(jnp.ones((1, 5)), states, 0)[0]
    assert found.tolist() == [-np.inf, 1, 1, 0.5, 1]  # 3 0 would come twice; 3 was seen
    short = processors.begin(tokens, real * jnp.array([0, 0, 0, 0, 1, 0]), 5, 4)
    assert processors(jnp.ones((1, 5)), short, 0)[0].tolist() == [0.5, 1, 1, 1, 1]


def test_options_that_are_off_add_nothing():
    assert processors_of(Sampling(), (2,)).each == () and Stops.of((), Pieces(5), 5).tables == ()


class Bytes:
    """Tokens of several bytes that cut characters, one special and one that adds nothing."""

    token_bytes = [b"a", b"ab", "é".encode()[:1], "é".encode()[1:] + b"b", b"", b"ba", b"b", b""]
    special_tokens = {"<end>": 4}


@pytest.mark.parametrize("text", ["abab", "aab", "éb", "a<end>", "b"])
def test_stops_are_found_where_a_slow_search_finds_them(text):
    rng = np.random.default_rng(0)
    stops = Stops.of((text,), Bytes, 9)  # one id more than the tokenizer's
    tables = tuple(jnp.asarray(table) for table in stops.tables)
    add, ends = jax.jit(stops.add), set()
    spelled = [*Bytes.token_bytes[:4], b"<end>", *Bytes.token_bytes[5:], b""]
    for _ in range(30):
        ids = rng.integers(0, 9, 12)
        joined = [b"".join(spelled[i] for i in ids[:n]) for n in range(1, 13)]
        want = next((n for n, t in enumerate(joined, 1) if text.encode() in t), 12)
        assert stops.end(ids.tolist()) == want
        state, hits = stops.begin((1,)), []
        for i in ids:
            state, hit = add(tables, state, jnp.asarray([i]))
            hits.append(bool(hit[0]))
        assert hits.index(True) + 1 == want if True in hits else want == 12
        ends.add(want)
    assert len(ends) > 2


def test_the_options_by_name_are_those_of_the_config():
    names = {spec.name for spec in dataclasses.fields(Sampling)}
    assert {*typing.get_type_hints(SamplingOptions)} == names


def test_what_is_asked_overrides_the_runs_own():
    own = SampleConfig(max_tokens=9, num_beams=4, top_p=0.5, stop=("x",), min_tokens=8)
    assert own.asked({}) == own.sampling
    assert own.asked({"temperature": 0.0}).num_beams == 1
    assert own.asked({"max_tokens": 3, "stop": "y"}) == own.sampling.replace(
        max_tokens=3, stop=("y",), min_tokens=0
    )
    with pytest.raises(ConfigError, match="temprature: unknown key.*temperature"):
        own.asked({"temprature": 1.0})
    with pytest.raises(ConfigError, match="repetition_penalty"):
        own.asked({"repetition_penalty": 0.0})
    with pytest.raises(ConfigError, match="min_tokens: 5 is more than max_tokens 3"):
        own.asked({"max_tokens": 3, "min_tokens": 5})


@pytest.mark.parametrize(
    ("said", "want", "left"),
    [
        (None, {}, {}),
        ({"eos_token_id": [1, 2], "max_length": 20, "_from_model_config": True}, {}, {}),
        (
            {"do_sample": True, "top_p": 0.9, "temperature": 0.6, "top_k": 0},
            {"top_p": 0.9, "temperature": 0.6},
            {},
        ),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}, {}),
        (
            {"do_sample": False, "top_p": 0.9, "num_beams": 4},
            {"temperature": 0.0, "num_beams": 4},
            {},
        ),
        (
            {"repetition_penalty": 1.05, "stop_strings": "###", "typical_p": 0.5, "top_h": None},
            {"repetition_penalty": 1.05, "stop": ["###"]},
            {"typical_p": 0.5},
        ),
        (
            {"do_sample": True, "num_beams": 3, "bad_words_ids": [[7]], "typical_p": 1.0},
            {"temperature": 1.0, "top_k": 50},
            {"num_beams": 3, "bad_words_ids": [[7]]},
        ),
    ],
)  # fmt: skip
def test_generation_config_is_read(said, want, left, tmp_path):
    if said is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(said))
    assert read_generation(tmp_path) == (want, left)
