"""Generation: the draw against numpy, and the compiled loop against one full forward a token."""

import dataclasses
import re
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.config import UserError
from jaxlm.data.mixture import MixtureData, Part
from jaxlm.data.prompt_formats.encode_source import EncodeSource
from jaxlm.data.sources.synthetic import Synthetic
from jaxlm.data.text import TextData
from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.data.tokens import TokenData
from jaxlm.generate import (
    Ends,
    Generator,
    Sampling,
    check_prompts,
    encode_prompt,
    ends_of,
    ids_of,
    next_token,
)
from jaxlm.generate.sampling import likeliest
from jaxlm.mesh import MeshConfig
from jaxlm.nn.position import LearnedConfig
from tests import tiny
from tests.generate.golden_programs import case_of, cases_with, generator_of, program_of, prompts_of

LOGITS = np.array([2.0, 1.0, 0.5, -1.0, 1.5, -3.0])
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum()
PROMPTS = [[257, 5, 9], [257, 7], [257, 20, 30, 40, 50]]


def draws(sampling: Sampling, count: int = 4000) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), count)
    logits = jnp.tile(jnp.asarray(LOGITS, jnp.float32), (count, 1))
    return np.asarray(next_token(logits, keys, sampling))


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({}, range(6)),
        ({"top_k": 3}, [0, 4, 1]),
        ({"top_k": 100}, range(6)),
        ({"top_p": 0.5}, [0, 4]),  # 0.45 alone is too little
        ({"top_p": 1e-6}, [0]),
        ({"top_p": 0.9, "top_k": 2}, [0, 4]),
    ],
)
def test_draws_follow_the_cut_distribution(options, allowed):
    assert sorted(np.argsort(-LOGITS)[:3]) == [0, 1, 4] and 0.4 < PROBS[0] < 0.5
    for temperature in (1.0, 0.5):
        probs = np.exp(LOGITS / temperature) / np.exp(LOGITS / temperature).sum()
        if temperature != 1.0 and "top_p" in options:
            continue  # the kept set is another one
        want = np.where(np.isin(np.arange(6), list(allowed)), probs, 0)
        seen = np.bincount(draws(Sampling(temperature=temperature, **options)), minlength=6) / 4000
        assert set(np.flatnonzero(seen)) <= set(allowed)
        np.testing.assert_allclose(seen, want / want.sum(), atol=0.03)


def test_temperature_zero_is_greedy():
    assert set(draws(Sampling(temperature=0), 5)) == {0}


def test_the_likeliest_id_is_numpys_and_draws_are_those_of_jax():
    """Ties, infinities, a logit that is not a number, and the same draw for the same key."""
    rng = np.random.default_rng(0)
    logits = rng.integers(-3, 4, (50, 17)).astype(np.float32)
    logits[:20, ::3] = -np.inf
    np.testing.assert_array_equal(likeliest(jnp.asarray(logits)), logits.argmax(-1))
    logits[0] = np.nan
    found = np.asarray(likeliest(jnp.asarray(logits)))
    assert 0 <= found[0] < 17
    np.testing.assert_array_equal(found[1:], logits[1:].argmax(-1))
    keys, given = jax.random.split(jax.random.key(0), 49), jnp.asarray(logits[1:])
    want = jax.vmap(jax.random.categorical)(keys, given)
    np.testing.assert_array_equal(next_token(given, keys, Sampling(temperature=1.0)), want)


def setup(name: str, mesh: MeshConfig = tiny.ONE, *overrides: str):
    config, prepared = tiny.prepared(tiny.load(name, *overrides).config)
    program = tiny.program(config, mesh)
    return program, tiny.params_of(program), prepared.tokenizer


@pytest.mark.parametrize("name", tiny.MODELS)
def test_greedy_is_the_argmax_of_full_forwards(name):
    program, params, _ = setup(name)
    generate = Generator(program, Sampling(max_tokens=6, temperature=0), eos_id=None, pad_id=256)

    @jax.jit
    def next_logits(tokens, real):  # padded on the right, where nothing before looks
        model = nnx.merge(program.graphdef, params)
        positions = jnp.arange(tokens.shape[1])[None]
        hidden, *_ = model(tokens, positions=positions, segment_ids=real)
        return model.logits(hidden)[0]

    for prompt, written in zip(PROMPTS, generate(params, PROMPTS), strict=True):
        ids = list(prompt)
        for _ in range(6):
            tokens, real = np.zeros((2, 1, 16), np.int32)
            tokens[0, : len(ids)], real[0, : len(ids)] = ids, 1
            ids.append(int(next_logits(tokens, real)[len(ids) - 1].argmax()))
        assert written == ids[len(prompt) :]


@pytest.mark.parametrize("name", ["transformer", "t5"])
def test_layers_one_by_one_write_what_a_scan_writes(name):
    found = []
    for scan in ("true", "false"):
        program, params, _ = setup(name, tiny.ONE, *_scanned(name, scan))
        generate = Generator(program, Sampling(max_tokens=8), eos_id=None, pad_id=256)
        found.append(generate(params, PROMPTS, seed=3))
        beams = Sampling(max_tokens=8, num_beams=3)
        found[-1] += Generator(program, beams, eos_id=None, pad_id=256)(params, PROMPTS)
    assert found[0] == found[1]


def _scanned(name: str, scan: str) -> list[str]:
    sections = ["model"] if name == "transformer" else ["model", "model.encoder"]
    return [f"{section}.scan_layers={scan}" for section in sections]


def test_a_token_is_written_into_the_cache_without_a_copy_of_it():
    """Layers that are not scanned change their slots in place, as a loop of tokens needs."""
    program, params, _ = setup("transformer", tiny.ONE, "model.scan_layers=false")
    model = program.model
    size, heads = model.attention.head_size(model.hidden_size), model.attention.kv_heads

    def write(params, cache):
        def one(i, cache):
            reader = nnx.merge(program.graphdef, params)
            at = jnp.full((2, 1), i)
            return reader(at, positions=at, segment_ids=jnp.ones_like(at), cache=cache)[1]

        return jax.lax.fori_loop(0, 9, one, cache)

    with jax.set_mesh(program.mesh):
        made = nnx.merge(program.graphdef, params).init_cache(2, 37)
        text = jax.jit(write, donate_argnums=1).lower(params, made).compile().as_text()
    slots = rf"f32\[(?:\d+,)?2,{heads},37,{size}\]\S* "
    assert len(re.findall(rf"dynamic-update-slice\S* = {slots}fusion\(", text)) == 4  # k and v
    assert not re.findall(rf"{slots}(?:copy|concatenate|transpose|slice)\(", text)


@pytest.mark.parametrize("name", ["lstm", "moe"])
def test_a_prompt_writes_the_same_alone_and_in_a_batch(name):
    """Also where experts take a part of each row alone, which hangs on the row's length."""
    routed = ("model.ffn.capacity_factor=0.25", "model.other_ffn=null", "model.num_layers=2")
    program, params, _ = setup(name, tiny.ONE, *(routed if name == "moe" else ()))
    generate = Generator(program, Sampling(max_tokens=8), eos_id=None, pad_id=256)
    together = generate(params, PROMPTS, seed=3)
    assert together[0] == generate(params, PROMPTS[:1], seed=3)[0]
    assert together != generate(params, PROMPTS, seed=4)


def test_the_end_of_text_ends_a_row_alone():
    program, params, _ = setup("transformer")
    free = Generator(program, Sampling(max_tokens=8), eos_id=None, pad_id=256)(params, PROMPTS)
    end = free[1][3]
    ended = Generator(program, Sampling(max_tokens=8), eos_id=end, pad_id=256)(params, PROMPTS)
    assert ended[1] == free[1][: free[1].index(end)]
    assert ended[0] == (free[0][: free[0].index(end)] if end in free[0] else free[0])
    ends = (end, free[0][2], 9999)  # the first of several that comes
    ended = Generator(program, Sampling(max_tokens=8), eos_id=ends, pad_id=256)(params, PROMPTS)
    for row, whole in zip(ended, free, strict=True):
        assert row == whole[: next((n for n, i in enumerate(whole) if i in ends), 8)]


def test_texts_do_not_depend_on_the_parts_that_they_are_drawn_in(monkeypatch):
    """The host looks after each part, and stops where all rows have ended."""
    program, params, _ = setup("transformer")
    free = Generator(program, Sampling(max_tokens=8), eos_id=None, pad_id=256)(params, PROMPTS)
    monkeypatch.setattr("jaxlm.generate.generator.PART", 3)
    calls, compiled = [], []

    @contextmanager
    def compiling():
        yield
        compiled.append(len(calls))

    generate = Generator(program, Sampling(max_tokens=8), eos_id=None, pad_id=256)
    how = {"on_part": lambda: calls.append(None), "compiling": compiling}
    assert generate(params, PROMPTS, **how) == free
    assert len(calls) == 4 and compiled == [0, 0]  # 3, 6 and 8 tokens, and the end
    assert generate(params, PROMPTS, **how) == free and compiled == [0, 0]
    ended = Generator(program, Sampling(max_tokens=8), eos_id=free[0][0], pad_id=256)
    calls.clear()
    assert ended(params, PROMPTS[:1], on_part=how["on_part"]) == [[]] and len(calls) == 2

    asked = iter([[True] * len(PROMPTS), [False] + [True] * (len(PROMPTS) - 1)])
    found = generate.with_scores(params, PROMPTS, wanted=lambda: next(asked, [True] * len(PROMPTS)))
    first, *others = [ids.tolist() for ids, _ in found]
    assert first == [*free[0][:6], 256, 256] and others == free[1:]
    calls.clear()
    nobody = [False] * len(PROMPTS)
    generate.with_scores(params, PROMPTS, on_part=how["on_part"], wanted=lambda: nobody)
    assert len(calls) == 2  # 3 tokens, and the end


def test_a_mesh_writes_the_same():
    one, params, _ = setup("transformer")
    many, _, _ = setup("transformer", MeshConfig(data=1, tensor=2, context=4))
    moved = jax.tree.map(lambda x, s: jax.device_put(x, s), params, many.param_shardings)
    sampling = Sampling(max_tokens=6, temperature=0)
    prompts = [prompt[:3] for prompt in PROMPTS]  # shorter than context splits
    want = Generator(one, sampling, eos_id=None, pad_id=256)(params, prompts)
    assert Generator(many, sampling, eos_id=None, pad_id=256)(moved, prompts) == want


# -------------------------------------------------------------------------- a source to write to

ANSWERED = [name for name in cases_with("greedy") if "encoder_tokens" in case_of(name).arrays]


def test_answers_to_a_source_are_transformers():
    """64 tokens through the cache; sources of unequal length in one batch."""
    name = "t5_v1_1_tied"  # the others: test_beam.py, test_speculative.py
    want = case_of(name).arrays["greedy"]
    generate = generator_of(name, max_tokens=want.shape[1], temperature=0)
    np.testing.assert_array_equal(
        generate(program_of(name)[1], prompts_of(case_of(name))), want.tolist()
    )


def test_what_is_written_begins_with_the_models_start():
    program, params = program_of(ANSWERED[0])
    case = case_of(ANSWERED[0])

    def texts(start_id, pad_id):
        changed = dataclasses.replace(
            program, model=program.model.replace(prompt=EncodeSource(start_id=start_id))
        )
        generate = Generator(
            changed, Sampling(max_tokens=4, temperature=0), eos_id=None, pad_id=pad_id
        )
        return generate(params, prompts_of(case))

    fifth = texts(5, 0)
    assert fifth != case.arrays["greedy"][:, :4].tolist()  # which begin with 0, as the model says
    assert texts(None, 5) == fifth


def test_a_source_is_a_whole_text():
    tokenizer = ByteTokenizer()
    decoder, pair = tiny.load("transformer").config.model, program_of(ANSWERED[0])[0].model
    both, bos, eos = Ends(bos=True, eos=True), tokenizer.bos_id, tokenizer.eos_id
    assert encode_prompt(tokenizer, "ab", decoder, both) == [bos, 97, 98]
    assert encode_prompt(tokenizer, "ab", pair, both) == [bos, 97, 98, eos]
    assert encode_prompt(tokenizer, "ab", pair, Ends(bos=False, eos=False)) == [97, 98]
    with pytest.raises(UserError, match="prompt: half a surrogate pair"):
        encode_prompt(tokenizer, "a\ud83d", decoder, both)


def test_prompts_begin_as_documents_did():
    tokenizer = ByteTokenizer()
    for add_bos in (True, False):
        data = TextData(source=Synthetic(), add_bos=add_bos)
        assert ends_of(data, {}, tokenizer).bos is add_bos
        tokens = TokenData(path="a.bin", format="nanogpt")
        assert ends_of(tokens, {"begins_with_bos": add_bos}, tokenizer).bos is add_bos
        mixed = MixtureData(parts={"a": Part(data=data)})
        assert ends_of(mixed, {}, tokenizer).bos is add_bos
        tokenizer.adds_bos = add_bos
        assert ends_of(None, {}, tokenizer).bos is add_bos


def test_an_import_stops_at_what_its_files_list_and_a_trained_run_at_its_eos_too():
    tokenizer = ByteTokenizer()
    assert ids_of(tokenizer).eos_ids == (tokenizer.eos_id,)
    assert ids_of(tokenizer, (5, 7), trained=False).eos_ids == (5, 7)
    assert ids_of(tokenizer, (5, 7)).eos_ids == (5, 7, tokenizer.eos_id)


def test_sources_and_answers_have_positions_of_their_own():
    model = program_of(ANSWERED[0])[0].model
    check_prompts([[1] * 1000], 1000, model)
    learned = (LearnedConfig(max_seq_len=8),)
    long_answers = model.replace(encoder=model.encoder.replace(position=learned))
    with pytest.raises(UserError, match="9 tokens pass the encoder's 8 positions"):
        check_prompts([[1] * 9], 1000, long_answers)
    with pytest.raises(UserError, match="9 pass the decoder's 8 positions; ask for at most 8"):
        check_prompts([[1] * 1000], 9, model.replace(position=learned))


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("name", tiny.MODELS[1:])  # the other one: test_beam.py
def test_texts_have_their_probability_as_score(name, num_beams):
    program, params, _ = setup(name)
    sampling = Sampling(max_tokens=6, temperature=0, num_beams=num_beams, length_penalty=0.0)
    found = Generator(program, sampling, eos_id=None, pad_id=256).with_scores(params, PROMPTS)

    @jax.jit
    def log_probs(tokens, real):
        model = nnx.merge(program.graphdef, params)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        hidden, *_ = model(tokens, positions=positions, segment_ids=real)
        rows = jax.nn.log_softmax(model.logits(hidden[:, :-1]))
        return jnp.take_along_axis(rows, tokens[:, 1:, None], axis=-1)[..., 0]

    tokens, real = np.zeros((2, 3, 16), np.int32)
    for row, (prompt, (ids, _)) in enumerate(zip(PROMPTS, found, strict=True)):
        tokens[row, : len(prompt) + 6], real[row, : len(prompt) + 6] = [*prompt, *ids], 1
    each = np.asarray(log_probs(tokens, real))
    for row, (prompt, (_, score)) in enumerate(zip(PROMPTS, found, strict=True)):
        assert score == pytest.approx(each[row, len(prompt) - 1 :][:6].sum(), abs=1e-3)


def test_no_prompt_and_an_empty_one():
    program, params, _ = setup("transformer")
    generate = Generator(program, Sampling(), eos_id=None, pad_id=256)
    assert generate(params, []) == []
    with pytest.raises(UserError, match="no tokens"):
        generate(params, [[]])
