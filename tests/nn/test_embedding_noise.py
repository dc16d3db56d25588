"""NEFTune's noise: its size, its draws, and that only a train step has it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.config import UserError
from jaxlm.mesh import MeshConfig
from jaxlm.nn.embed import Embedding
from jaxlm.nn.embedding_noise import embedding_noise
from jaxlm.training.step import gradients
from tests import tiny

KEY = jax.random.key(3, impl="threefry2x32")


def test_it_is_uniform_within_alpha_over_the_root_of_length_and_width() -> None:
    embed = Embedding(7, 32, rngs=nnx.Rngs(0))
    tokens = jnp.arange(40 * 16).reshape(40, 16) % 7
    plain = embed(tokens)
    with embedding_noise(5.0, KEY):
        noise = np.asarray(embed(tokens) - plain)
        again = np.asarray(embed(tokens) - plain)  # another call: other draws
    bound = 5 / np.sqrt(16 * 32)
    assert 0.999 * bound < np.abs(noise).max() <= bound * 1.0001
    np.testing.assert_allclose(noise.std(), bound / np.sqrt(3), rtol=0.01)
    assert abs(noise.mean()) < 0.01 * bound and np.abs(noise - again).min(axis=(0, 1)).max() > 0
    assert abs(np.corrcoef(noise.ravel(), again.ravel())[0, 1]) < 0.03
    with embedding_noise(5.0, KEY):  # time first, as recurrent models embed
        turned = embed(tokens.T, axes=(None, "batch")) - plain.swapaxes(0, 1)
    np.testing.assert_allclose(turned.swapaxes(0, 1), noise, atol=1e-6)
    np.testing.assert_array_equal(embed(tokens), plain)


def test_keys_of_micro_batches_together_are_those_of_each_alone() -> None:
    embed = Embedding(7, 8, rngs=nnx.Rngs(0))
    tokens, keys = jnp.arange(24).reshape(6, 4) % 7, jax.random.split(KEY, 3)
    with embedding_noise(5.0, keys):
        together = embed(tokens)
    for i in range(3):
        with embedding_noise(5.0, keys[i]):
            np.testing.assert_allclose(embed(tokens[i::3]), together[i::3], atol=1e-7)


def test_types_of_tokens_have_none_and_a_model_without_embedding_is_an_error() -> None:
    types = Embedding(2, 8, rows="labels", rngs=nnx.Rngs(0))
    tokens = jnp.zeros((2, 3), jnp.int32)
    with pytest.raises(UserError, match="no embedding of tokens"), embedding_noise(5.0, KEY):
        noisy = types(tokens)
    np.testing.assert_array_equal(noisy, types(tokens))


def test_a_train_step_has_it_by_seed_and_step_and_an_evaluation_does_not() -> None:
    config = tiny.load("transformer", "model.dropout=0").config
    batch = tiny.ragged_batch(0)

    def losses(noise: float, mesh: MeshConfig = tiny.ONE) -> tuple[float, float, float]:
        program = tiny.program(config, mesh, embedding_noise=noise)
        params, on_mesh = tiny.params_of(program), tiny.on_mesh(batch, program)

        @jax.jit
        def train(params, batch, key):
            _, _, metrics, _, _ = gradients(program, params, {}, batch, None, key)
            return metrics["objective"][0]

        with jax.set_mesh(program.mesh):
            evaluated = jax.jit(program.eval_step)(params, on_mesh, None)[0]["loss"][0]
            first, second = (
                float(train(params, on_mesh, jax.random.fold_in(KEY, step))) for step in (0, 1)
            )
        return first, second, float(evaluated)

    plain, noisy = losses(0.0), losses(40.0)
    assert plain[0] == plain[1] and plain[2] == noisy[2]
    assert len({plain[0], *noisy[:2]}) == 3
    split = losses(40.0, MeshConfig(data=2, fsdp=2, tensor=2))
    np.testing.assert_allclose(split, noisy, rtol=1e-5)
