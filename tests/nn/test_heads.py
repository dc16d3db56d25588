"""Heads beside a model: scores and gradients against numpy, on one device and on eight."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.config import UserError, parse
from jaxlm.core.tree import flatten
from jaxlm.nn.heads.base import TaskHeadConfig, beside, is_of_head
from jaxlm.nn.heads.classify import Classify
from jaxlm.nn.heads.scalar import Scalar
from jaxlm.nn.heads.span import Span
from jaxlm.nn.heads.tag import Tag
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.classification import Classification
from jaxlm.objectives.none import NoObjective
from tests import tiny

B, T, D, C = 4, 6, 8, 3
REAL = np.arange(T) < np.array([[6], [4], [1], [0]])  # the last row is nothing but padding
SEGMENTS = REAL.astype(np.int32)
HIDDEN = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)


def built(config: TaskHeadConfig, seed: int = 1):
    """A head whose every parameter is random, its biases too."""
    head = nnx.eval_shape(lambda: config.build(D, C, rngs=nnx.Rngs(0)))
    drawn = randomized(head, seed)
    return head, {k: np.asarray(v) for k, v in flatten(nnx.to_pure_dict(drawn)).items()}


def randomized(module, seed: int):
    """The parameters, all random, of a module that has had none."""
    rng = np.random.default_rng(seed)
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32)  # noqa: E731
    drawn = jax.tree.map(draw, nnx.state(module))
    nnx.update(module, drawn)
    return drawn


# ------------------------------------------------------------------------------------------- oracle


def pooled(pool: str, hidden: np.ndarray) -> np.ndarray:
    rows = []
    for states, real in zip(hidden, REAL, strict=True):
        kept = states[real]
        if pool == "first":
            rows.append(states[0])
        elif not len(kept):
            rows.append(states[0] if pool == "last" else np.zeros(D))
        else:
            rows.append({"last": kept[-1], "mean": kept.mean(0), "max": kept.max(0)}[pool])
    return np.stack(rows)


def oracle(config: TaskHeadConfig, hidden: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    x = hidden if isinstance(config, Tag | Span) else pooled(config.pool, hidden)
    if getattr(config, "dense", None):
        x = np.tanh(x @ p["dense/kernel"] + p["dense/bias"])
    return x @ p["kernel"] + p.get("bias", 0.0)


CASES = [
    *(Classify(pool=pool) for pool in ("last", "mean", "max", "first")),
    Classify(pool="first", dense="tanh"),
    Classify(pool="last", bias=False),
    Scalar(bias=False),
    Scalar(pool="mean", dense="tanh"),
    Tag(),
    Span(),
]


@pytest.mark.parametrize("config", CASES, ids=str)
def test_scores_and_gradients_are_those_of_numpy(config):
    head, params = built(config)
    assert ("bias" in params) == config.bias
    scores = head(None, jnp.asarray(HIDDEN), jnp.asarray(SEGMENTS))
    want = oracle(config, HIDDEN, params)
    size = {Scalar: 1, Span: 2}.get(type(config), C)
    assert scores.shape == (B, *((T,) if isinstance(config, Tag | Span) else ()), size)
    np.testing.assert_allclose(scores, want, rtol=1e-5, atol=1e-5)

    weights = np.random.default_rng(2).normal(size=want.shape)
    total = lambda h: (head(None, h, jnp.asarray(SEGMENTS)) * weights).sum()  # noqa: E731
    gradient = np.asarray(jax.grad(total)(jnp.asarray(HIDDEN)))
    direction = np.random.default_rng(3).normal(size=HIDDEN.shape)
    step = 1e-6 * direction
    wide = [oracle(config, HIDDEN.astype(np.float64) + s, params) for s in (step, -step)]
    slope = ((wide[0] - wide[1]) * weights).sum() / 2e-6
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-4)


def test_dropout_leaves_the_mean_and_needs_a_key():
    head, _ = built(Classify(pool="mean", dropout=0.5))
    run = jax.jit(lambda key: head(None, jnp.asarray(HIDDEN), jnp.asarray(SEGMENTS), key))
    plain = head(None, jnp.asarray(HIDDEN), jnp.asarray(SEGMENTS))
    many = jnp.stack([run(jax.random.key(i)) for i in range(400)])
    assert float(many.std(0).min()) > 0
    np.testing.assert_allclose(many.mean(0), plain, atol=0.6)
    assert (run(jax.random.key(1)) == run(jax.random.key(1))).all()


def test_spans_are_distributions_over_the_tokens_of_a_row():
    head, _ = built(Span())
    scores = head(None, jnp.asarray(HIDDEN), jnp.asarray(SEGMENTS))
    found = head.predict(scores, jnp.asarray(SEGMENTS))
    for name, column in (("start_probs", 0), ("end_probs", 1)):
        for row, real in enumerate(REAL):
            e = np.exp(np.asarray(scores[row, real, column], np.float64))
            np.testing.assert_allclose(found[name][row, real], e / e.sum(), rtol=1e-5)
            assert (np.asarray(found[name])[row, ~real] == 0).all()


# ----------------------------------------------------------------------------- beside a whole model


def test_the_models_own_parameters_keep_their_paths_and_values():
    model = tiny.load("transformer").config.model

    def parameters(objective):
        def build():
            return nnx.to_pure_dict(nnx.state(objective.build_model(model, rngs=nnx.Rngs(0))))

        return flatten(jax.jit(build)())

    before = parameters(CausalLM())
    after = parameters(Classification(classes=("a", "b")))
    heads = {path for path in after if is_of_head(path)}
    assert heads == {"task_head/kernel", "task_head/bias"}
    assert after.keys() - heads == before.keys()
    assert all((after[path] == before[path]).all() for path in before)


def test_the_models_own_pooler_is_a_pool():
    model = tiny.load("bert", "model.head.pooler=true").config.model
    head = Classify(pool="pooler")
    built = nnx.eval_shape(
        lambda: beside(model.build(264, rngs=nnx.Rngs(0)), head, 2, rngs=nnx.Rngs(1))
    )
    drawn = randomized(built, 1)
    hidden = jnp.asarray(np.random.default_rng(5).normal(size=(2, T, model.hidden_size)), "float32")
    p = jax.device_get(flatten(nnx.to_pure_dict(drawn)))
    vector = np.tanh(np.asarray(hidden)[:, 0] @ p["pooler/dense/kernel"] + p["pooler/dense/bias"])
    want = vector @ p["task_head/kernel"] + p["task_head/bias"]
    np.testing.assert_allclose(
        built.task_head(built, hidden, jnp.ones((2, T), jnp.int32)), want, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "head", "says"),
    [
        ("transformer", {"type": "classify", "pool": "pooler"}, "set model.head.pooler to true"),
        ("t5", {"type": "classify"}, "use a model without an encoder of its own"),
    ],
)
def test_models_that_cannot_have_a_head(name, head, says):
    objective = parse(Classification, {"head": head})
    with pytest.raises(UserError, match=says):
        objective.check_model(tiny.load(name).config.model)


# ------------------------------------------------------------------------------------- predictions


def batch_of(rows: int = 8) -> dict[str, np.ndarray]:
    return tiny.ragged_batch(4, rows)


PREDICTED = [
    (Classification(classes=("a", "b", "c"), head=Classify(pool="last")), {"probs": (8, 3)}),
    (NoObjective(head=Span()), {"start_probs": (8, 16), "end_probs": (8, 16)}),
    (CausalLM(), {"log_probs": (8, 16)}),
]


@pytest.mark.parametrize(("objective", "shapes"), PREDICTED, ids=lambda x: type(x).__name__)
def test_predictions_are_the_same_on_eight_devices(objective, shapes):
    config = tiny.load("transformer", "model.dropout=0.5").config.replace(objective=objective)
    found = []
    for mesh in (tiny.ONE, {"data": 2, "fsdp": 2, "tensor": 2}):
        mesh = mesh if mesh is tiny.ONE else type(tiny.ONE)(**mesh)
        program = tiny.program(config, mesh)
        batch = tiny.on_mesh(batch_of(), program)
        run = jax.jit(lambda p, b, g=program.graphdef: objective.predict(nnx.merge(g, p), b))
        with jax.set_mesh(program.mesh):
            found.append(jax.device_get(run(tiny.params_of(program), batch)))
    one, many = found
    assert {name: one[name].shape for name in shapes} == shapes
    for name, value in one.items():
        np.testing.assert_allclose(many[name], value, rtol=1e-5, atol=1e-6)


def test_log_probs_are_those_of_the_targets():
    program = tiny.program(tiny.load("transformer").config)
    batch = tiny.on_mesh(batch_of(), program)

    @jax.jit
    def call(params, batch):
        model = nnx.merge(program.graphdef, params)
        rows = {key: batch[key] for key in ("tokens", "positions", "segment_ids")}
        return program.objective.predict(model, batch), model.logits(model(**rows).hidden)

    with jax.set_mesh(program.mesh):
        found, logits = jax.device_get(call(tiny.params_of(program), batch))
    found, logits = found["log_probs"], logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    want = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = np.take_along_axis(want, np.asarray(batch["targets"])[..., None], 2)[..., 0]
    counts = np.asarray(batch["loss_weights"]) > 0
    np.testing.assert_allclose(np.where(counts, want, 0.0), found, rtol=1e-4, atol=1e-5)
