"""Generation: the draw against numpy, and the compiled loop against one full forward a token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.config import UserError
from jaxlm.generate import Generator, Sampling, next_token
from jaxlm.mesh import MeshConfig
from tests import tiny

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


def setup(name: str, mesh: MeshConfig = tiny.ONE):
    config, prepared = tiny.prepared(tiny.load(name).config)
    program = tiny.program(config, mesh)
    return program, program.create_state()["params"], prepared.tokenizer


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


@pytest.mark.parametrize("name", tiny.MODELS)
def test_a_prompt_writes_the_same_alone_and_in_a_batch(name):
    program, params, _ = setup(name)
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


def test_a_mesh_writes_the_same():
    one, params, _ = setup("transformer")
    many, _, _ = setup("transformer", MeshConfig(data=2, fsdp=2, tensor=2))
    moved = jax.tree.map(lambda x, s: jax.device_put(x, s), params, many.param_shardings)
    sampling = Sampling(max_tokens=6, temperature=0)
    want = Generator(one, sampling, eos_id=None, pad_id=256)(params, PROMPTS)
    assert Generator(many, sampling, eos_id=None, pad_id=256)(moved, PROMPTS) == want


def test_no_prompt_and_an_empty_one():
    program, params, _ = setup("transformer")
    generate = Generator(program, Sampling(), eos_id=None, pad_id=256)
    assert generate(params, []) == []
    with pytest.raises(UserError, match="no tokens"):
        generate(params, [[]])
