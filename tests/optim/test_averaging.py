"""NT-ASGD: where averaging begins, and that the average is the mean of the weights since then."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.optim.averaging import Averaging, begins, update_average
from jaxlm.optim.optimizer import build
from jaxlm.optim.sgd import SGD


def published(values: list[float], n: int) -> int | None:
    """Algorithm 1 of arXiv:1708.02182, with its own bookkeeping."""
    logs: list[float] = []
    for t, v in enumerate(values):
        if t > n and v > min(logs[: t - n]):
            return t
        logs.append(v)
    return None


@pytest.mark.parametrize("n", [0, 1, 3, 5])
def test_averaging_begins_where_the_published_algorithm_begins_it(n: int) -> None:
    rng = np.random.default_rng(n)
    found = set()
    for _ in range(200):
        values = list(np.linspace(2, 1, 12) + rng.normal(0, 0.15, 12))
        found.add(got := begins(values, n, "lower"))
        assert got == published(values, n)
        assert got == begins([-v for v in values], n, "higher")
    assert len(found) > 4  # at many places, never among them


def test_a_value_that_is_not_a_number_neither_begins_it_nor_is_the_best() -> None:
    assert begins([2.0, float("nan"), 1.5], 0, "lower") is None
    assert begins([float("nan"), 2.0, 1.5, 1.9], 0, "lower") == 3


def test_the_average_is_the_mean_of_the_weights_since_it_began() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(9, 2, 3)).astype(np.float32)
    average, count = {"w": jnp.zeros((2, 3))}, jnp.int32(0)
    for step, w in enumerate(weights):
        average, count = update_average(average, {"w": w}, count)
        if step < 4:  # not begun: the weights themselves, to the bit
            np.testing.assert_array_equal(average["w"], w)
            assert int(count) == 0
        if step == 3:
            count = jnp.int32(1)  # what the callback does after an evaluation
    assert int(count) == 6
    np.testing.assert_allclose(average["w"], weights[3:].mean(0), rtol=1e-5, atol=1e-6)


def test_a_run_keeps_one_average() -> None:
    config = SGD(averaging=Averaging(), ema_decay=0.9)
    with pytest.raises(UserError, match="a run keeps one average of its weights"):
        build(config, {"w": jnp.zeros(2)}, {"w": (None,)}, 1)
