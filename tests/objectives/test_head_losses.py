"""Losses of heads against numpy: sums and weights, gradients by finite differences."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.types import Output
from jaxlm.objectives.multi_label import MultiLabel
from jaxlm.objectives.question_answering import QuestionAnswering
from jaxlm.objectives.regression import Regression
from jaxlm.objectives.tagging import Tagging
from jaxlm.objectives.with_head import HeadObjective

B, T, D, C = 4, 6, 8, 3
LENGTHS = np.array([6, 4, 2, 0])  # the last row only fills the batch
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(B, T, D)).astype(np.float32)
ROW_WEIGHTS = (LENGTHS > 0).astype(np.float32)
ROUTER = np.array([0.5, 0.25, 0.125, 8.0], np.float32)  # of each row; padding has weight 0
Oracle = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Backbone:
    """Hidden states that are given, with a router's loss of each row."""

    config = SimpleNamespace(row_keys=frozenset(), output_size=D)

    def __call__(self, tokens: Any, **rest: Any) -> Output:
        return Output(jnp.asarray(HIDDEN), losses={"router": jnp.asarray(ROUTER)})


def batch(**more: np.ndarray) -> dict[str, np.ndarray]:
    real = np.arange(T) < LENGTHS[:, None]
    zeros = np.zeros((B, T), np.int32)
    return {"tokens": zeros, "positions": zeros, "segment_ids": real.astype(np.int32), **more}


def model_of(objective: HeadObjective) -> Backbone:
    model: Any = Backbone()
    head = objective.task_head.build(D, C, rngs=nnx.Rngs(0))
    drawn = jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32), nnx.state(head))
    nnx.update(head, drawn)
    model.task_head = head
    return model


def log_softmax(z: np.ndarray, axis: int) -> np.ndarray:
    z = z - z.max(axis, keepdims=True)
    return z - np.log(np.exp(z).sum(axis, keepdims=True))


TARGETS = RNG.integers(0, C, (B, T)).astype(np.int32)
FIRST = (RNG.random((B, T)) < 0.6) * (np.arange(T) < LENGTHS[:, None])
SMOOTH = 0.1


def tag_oracle(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    log_probs = log_softmax(states, -1)
    nll = -np.take_along_axis(log_probs, TARGETS[..., None], -1)[..., 0]
    return (1 - SMOOTH) * nll - SMOOTH * log_probs.mean(-1), FIRST.astype(np.float64)


START, END = np.array([2, 0, 1, 0], np.int32), np.array([4, 3, 1, 0], np.int32)


def span_oracle(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row by itself, without its padding: what transformers computes for it."""
    losses = np.zeros(B)
    for n, length in enumerate(LENGTHS):
        if length:
            log_probs = log_softmax(scores[n, :length], 0)
            losses[n] = -(log_probs[START[n], 0] + log_probs[END[n], 1]) / 2
    return losses, ROW_WEIGHTS


NUMBERS = RNG.normal(size=B).astype(np.float32)
SEVERAL = (RNG.random((B, C)) < 0.5).astype(np.float32)


def square_oracle(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (scores[:, 0] - NUMBERS) ** 2, ROW_WEIGHTS


def binary_oracle(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = 1 / (1 + np.exp(-scores))
    entropy = -(SEVERAL * np.log(p) + (1 - SEVERAL) * np.log(1 - p))
    return entropy.mean(-1), ROW_WEIGHTS


NAMES = ("a", "b", "c")
CASES: dict[str, tuple[HeadObjective, dict[str, np.ndarray], Oracle]] = {
    "tagging": (
        Tagging(classes=NAMES, label_smoothing=SMOOTH),
        batch(targets=TARGETS, loss_weights=FIRST.astype(np.float32)),
        tag_oracle,
    ),
    "question_answering": (
        QuestionAnswering(),
        batch(start=START, end=END, example_weights=ROW_WEIGHTS),
        span_oracle,
    ),
    "regression": (
        Regression(),
        batch(labels=NUMBERS, example_weights=ROW_WEIGHTS),
        square_oracle,
    ),
    "multi_label": (
        MultiLabel(classes=NAMES),
        batch(labels=SEVERAL, example_weights=ROW_WEIGHTS),
        binary_oracle,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_sums_and_the_gradient_are_those_of_numpy(name: str) -> None:
    objective, rows, oracle = CASES[name]
    model = model_of(objective)
    found = objective.loss(model, rows, key=None, cache=None)
    scores = np.asarray(objective.scores(model, rows)[0], np.float64)
    losses, weights = oracle(scores)
    router = (ROUTER * (weights if weights.ndim == 1 else weights.sum(-1))).sum()
    want = (losses * weights).sum() + router
    assert float(found.weight) == weights.sum() > 0
    np.testing.assert_allclose(found.loss_sum, want, rtol=1e-5)
    assert float(found.metrics["router"][0]) == pytest.approx(router)

    graph, state = nnx.split(model.task_head)

    def total(kernel: jax.Array) -> jax.Array:
        moved: Any = Backbone()
        moved.task_head = nnx.merge(graph, state)
        moved.task_head.kernel = nnx.Param(kernel)
        return objective.loss(moved, rows, key=None, cache=None).loss_sum

    kernel = model.task_head.kernel[...]
    gradient = np.asarray(jax.grad(total)(kernel), np.float64)
    direction = np.random.default_rng(1).normal(size=kernel.shape)
    wide = []
    for sign in (1, -1):
        moved_scores = scores + sign * 1e-6 * shift(model.task_head, rows, direction)
        losses, weights = oracle(moved_scores)
        wide.append((losses * weights).sum())
    slope = (wide[0] - wide[1]) / 2e-6
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-3, atol=1e-4)


def shift(head: Any, rows: dict[str, np.ndarray], direction: np.ndarray) -> np.ndarray:
    """How the scores change where the kernel moves in a direction: they are linear in it."""
    base, moved = head.kernel[...], nnx.clone(head)
    moved.kernel = nnx.Param(base + jnp.asarray(direction, base.dtype))
    states, segments = jnp.asarray(HIDDEN), rows["segment_ids"]
    return np.asarray(moved(None, states, segments) - head(None, states, segments), np.float64)


def test_the_metrics_count_what_is_right() -> None:
    objective, rows, _ = CASES["tagging"]
    model = model_of(objective)
    scores = np.asarray(objective.scores(model, rows)[0])
    right = ((scores.argmax(-1) == TARGETS) * FIRST).sum()
    found = objective.loss(model, rows, key=None, cache=None).metrics["accuracy"]
    assert float(found[0]) == right and float(found[1]) == FIRST.sum()

    objective, rows, _ = CASES["multi_label"]
    model = model_of(objective)
    scores = np.asarray(objective.scores(model, rows)[0])
    exact = (((scores > 0) == (SEVERAL > 0)).all(-1) * ROW_WEIGHTS).sum()
    assert float(objective.loss(model, rows, key=None, cache=None).metrics["accuracy"][0]) == exact


def test_token_types_reach_a_model_that_has_them() -> None:
    """A model with one type (RoBERTa) gets that one for both texts."""
    objective, rows, _ = CASES["regression"]
    given: list[Any] = []

    class Typed(Backbone):
        def __call__(self, tokens: Any, **rest: Any) -> Output:
            given.append(rest.get("token_types"))
            return super().__call__(tokens)

    types = np.repeat([[0, 1]], 3, axis=1).repeat(B, 0).astype(np.int32)
    for most in (None, 2, 1):
        model: Any = Typed()
        keys = frozenset() if most is None else frozenset({"token_types"})
        model.config = SimpleNamespace(row_keys=keys, num_token_types=most)
        model.task_head = model_of(objective).task_head
        objective.scores(model, {**rows, "token_types": types})
    assert given[0] is None
    assert given[1].tolist() == types.tolist() and not given[2].any()
