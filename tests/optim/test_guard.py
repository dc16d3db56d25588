"""Steps that are not good: the state of every optimizer stays as it was, to the bit."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.optim.adam import scale_by_adam
from jaxlm.optim.adamw import AdamW
from jaxlm.optim.guard import guarded
from jaxlm.optim.optimizer import build
from tests.optim.test_optimizer import ALL, AXES, GRADS, PARAMS


@pytest.mark.parametrize("name", ALL)
def test_a_bad_step_keeps_the_state_and_the_next_good_one_continues(name: str) -> None:
    tx = build(ALL[name], PARAMS, AXES, 3).tx
    update = jax.jit(lambda g, s, good: tx.update(g, s, PARAMS, step=1, good=good))
    _, state = update(GRADS[0], tx.init(PARAMS), True)
    broken = jax.tree.map(lambda g: np.full_like(g, np.nan), GRADS[1])
    _, kept = update(broken, state, False)
    jax.tree.map(np.testing.assert_array_equal, kept, state)
    updates, _ = update(GRADS[2], kept, True)
    wanted, _ = update(GRADS[2], state, True)
    jax.tree.map(np.testing.assert_array_equal, updates, wanted)
    assert all(np.isfinite(u).all() for u in jax.tree.leaves(updates))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adam_is_that_of_optax(dtype: str) -> None:
    ours = scale_by_adam(0.9, 0.95, 1e-8, jnp.dtype(dtype))
    theirs = optax.scale_by_adam(0.9, 0.95, 1e-8, mu_dtype=jnp.dtype(dtype))
    states: Any = [ours.init(PARAMS), theirs.init(PARAMS)]
    for gradient in GRADS[:3]:
        a, states[0] = ours.update(gradient, states[0], good=jnp.bool_(True))
        b, states[1] = theirs.update(gradient, states[1])
        jax.tree.map(np.testing.assert_array_equal, (a, states[0]), (b, states[1]))


def test_a_norm_that_is_known_is_that_which_clips() -> None:
    tx = build(AdamW(clip_norm=0.5, beta1=0.0), PARAMS, AXES, 3).tx
    state = tx.init(PARAMS)
    norm = optax.tree.norm(GRADS[0])
    known = tx.update(GRADS[0], state, PARAMS, step=1, norm=norm)
    jax.tree.map(np.testing.assert_array_equal, known, tx.update(GRADS[0], state, PARAMS, step=1))
    twice = tx.update(GRADS[0], state, PARAMS, step=1, norm=2 * norm)[1]
    found = [optax.tree.norm(s[3].mu) for s in (known[1], twice)]
    assert found[0] == pytest.approx(0.5, rel=1e-5) and found[1] == pytest.approx(0.25, rel=1e-5)


def test_on_a_cpu_no_moment_is_copied() -> None:
    """Each moment is formed in the memory of the old one, by one loop."""
    params = {"kernel": jnp.ones((64, 32))}
    tx = build(AdamW(), params, {"kernel": ("embed", "mlp")}, 3).tx

    def step(params: Any, state: Any, grads: Any, good: Any) -> Any:
        updates, state = tx.update(grads, state, params, step=1, good=good)
        new = optax.apply_updates(params, updates)
        return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, params), state

    args = (params, tx.init(params), params, jnp.bool_(True))
    text = jax.jit(step, donate_argnums=(0, 1)).lower(*args).compile().as_text()
    entry = text[text.index("\nENTRY") :]
    assert not re.search(r"f32\[64,32\]\S* copy\(", entry)
    assert len(re.findall(r"f32\[64,32\]\S* fusion\(", entry)) == 3


def test_a_guard_is_not_put_around_a_guarded_one() -> None:
    tx = scale_by_adam(0.9, 0.95, 1e-8, jnp.dtype("float32"))
    assert guarded(tx) is tx
