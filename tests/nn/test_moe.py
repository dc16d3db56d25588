"""Mixtures of experts against a slow loop in numpy, against themselves on other rows and meshes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten
from jaxlm.kernels.filled import room_kernels
from jaxlm.mesh import MeshConfig, batch_sharding, param_shardings
from jaxlm.nn.ffn import DenseConfig
from jaxlm.nn.moe import MoEConfig
from jaxlm.nn.params import split
from tests import tiny

DIM, E = 12, 6
BASE = MoEConfig(
    num_experts=E, experts_per_token=2, intermediate_size=20, balance_loss=0.5, router_z_loss=0.25
)
CONFIGS = {
    "mixtral": BASE,
    "plain experts": BASE.replace(activation="gelu"),
    "not normalized": BASE.replace(normalize=False, experts_per_token=3),
    "shared": BASE.replace(shared_size=8, scaling=2.5),
    "sigmoid": BASE.replace(scores="sigmoid", choice_bias=0.01),
    "groups": BASE.replace(num_groups=3, groups_per_token=2, experts_per_token=3, choice_bias=0.01),
    "one of each group": BASE.replace(num_groups=6, groups_per_token=2),
    "capacity": BASE.replace(capacity_factor=0.75),
    "every expert": BASE.replace(experts_per_token=E),
}
SEGMENTS = np.array([[1] * 5 + [2] * 6 + [0] * 2, [1] * 13, [0] * 13, [1] + [0] * 12], np.int32)


@functools.cache
def module(name):
    """(graphdef, params off their fresh values, axes)"""
    config = CONFIGS[name]
    made = nnx.eval_shape(lambda: config.build(DIM, rngs=nnx.Rngs(0)))
    graphdef, shapes, axes = split(made)
    params = tiny.near_fresh(shapes, std=0.4)
    if "choice_bias" in params:
        bias = np.linspace(-0.3, 0.3, E, dtype=np.float32)
        params["choice_bias"] = bias[[3, 0, 5, 1, 4, 2]]
    return graphdef, params, axes


def inputs(seed=0):
    return np.random.default_rng(seed).normal(size=(*SEGMENTS.shape, DIM)).astype(np.float32)


@functools.cache
def call(name):
    graphdef = module(name)[0]
    return jax.jit(lambda params, x, segments: nnx.merge(graphdef, params)(x, segments))


# ------------------------------------------------------------------------------------- by a loop

FUNCTIONS = {
    "swiglu": lambda x: x / (1 + np.exp(-x)),
    "gelu": np.vectorize(lambda x: x * 0.5 * (1 + __import__("math").erf(x / np.sqrt(2)))),
}


def feed_forward(config, x, kernels):
    hidden = FUNCTIONS[config.activation](x @ kernels[0])
    if len(kernels) == 3:
        hidden = hidden * (x @ kernels[1])
    return hidden @ kernels[-1]


def choose(config, scores, bias):
    """The chosen experts of one token, as DeepSeek-V3's paper and code say it."""
    scores = scores + (0 if bias is None else bias)
    if config.num_groups > 1:
        groups = scores.reshape(config.num_groups, -1)
        totals = [sum(sorted(group)[-2:]) for group in groups]
        best = np.argsort(totals)[::-1][: config.groups_per_token]
        allowed = np.isin(np.arange(E) // groups.shape[1], best)
        scores = np.where(allowed, scores, -np.inf)
    return np.argsort(-scores)[: config.experts_per_token]


def by_loop(config, params, x, segments):
    """(y, balance [B], z [B], load), token by token in float64."""
    p = {path: np.asarray(v, np.float64) for path, v in flatten(params).items()}
    names = [n for n in ("gate", "up", "down") if f"{n}/kernel" in p]
    y, load = np.zeros(x.shape), np.zeros(E, int)
    k, length = config.experts_per_token, x.shape[1]
    losses = np.zeros((2, len(x)))
    room = length
    if config.capacity_factor is not None:
        room = int(np.ceil(config.capacity_factor * length * k / E))
    for b in range(len(x)):
        taken, counts, shares, squares = np.zeros(E, int), np.zeros(E), np.zeros(E), []
        for t in range(length):
            token = x[b, t].astype(np.float64)
            logits = token @ p["router/kernel"]
            exps = np.exp(logits)
            scores = exps / exps.sum() if config.scores == "softmax" else 1 / (1 + 1 / exps)
            if "shared/up/kernel" in p:
                y[b, t] += feed_forward(config, token, [p[f"shared/{n}/kernel"] for n in names])
            if segments[b, t] == 0:
                continue
            chosen = choose(config, scores, p.get("choice_bias"))
            total = scores[chosen].sum() if config.normalize else 1.0
            for e in chosen:
                load[e] += 1
                taken[e] += 1
                if taken[e] <= room:
                    out = feed_forward(config, token, [p[f"{n}/kernel"][e] for n in names])
                    y[b, t] += config.scaling * scores[e] / total * out
            counts[np.argsort(-scores)[:k]] += 1
            shares += scores / scores.sum()
            squares.append(np.log(exps.sum()) ** 2)
        n = max(len(squares), 1)
        losses[0, b] = E / (k * n) * (counts * shares / n).sum()
        losses[1, b] = np.sum(squares) / n
    return y, config.balance_loss * losses[0], config.router_z_loss * losses[1], load


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_losses_and_load_are_those_of_a_loop(name):
    config, params, x = CONFIGS[name], module(name)[1], inputs()
    y, balance, z, load = by_loop(config, params, x, SEGMENTS)
    got, found = call(name)(params, x, SEGMENTS)
    np.testing.assert_allclose(got, y, rtol=0, atol=1e-5 * np.abs(y).max())
    np.testing.assert_allclose(found["balance_loss"], balance, rtol=1e-5)
    np.testing.assert_allclose(found["router_z_loss"], z, rtol=1e-5)
    np.testing.assert_array_equal(found["load"], load)
    if name == "capacity":  # some tokens were dropped, or the test says nothing
        free, _ = call("mixtral")(params, x, SEGMENTS)
        assert np.abs(free - got).max() > 0.01


@pytest.mark.parametrize("name", ["plain experts", "shared", "sigmoid", "groups", "capacity"])
def test_gradients_are_finite_differences(name):
    graphdef, params, _ = module(name)
    direction = np.random.default_rng(3).normal(size=SEGMENTS.shape + (DIM,))

    def total(params, x, number):
        y, found = nnx.merge(graphdef, params)(x, SEGMENTS)
        return number((y * direction).sum()) + number(
            sum(found[loss].sum() for loss in ("balance_loss", "router_z_loss"))
        )

    grads = flatten(jax.jit(jax.grad(lambda p, x: total(p, x, jnp.float32)))(params, inputs()))
    if "choice_bias" in grads:
        assert not grads["choice_bias"].any()
    config, rng = CONFIGS[name], np.random.default_rng(4)
    flat = {path: np.asarray(v, np.float64) for path, v in flatten(params).items()}

    def slow(path, value):
        tree = {**flat, path: value}
        y, balance, z, _ = by_loop(config, tree, inputs().astype(np.float64), SEGMENTS)
        return (y * direction).sum() + balance.sum() + z.sum()

    for path in flat.keys() - {"choice_bias"}:
        along = rng.normal(size=flat[path].shape)
        step = 1e-6 * along
        want = (slow(path, flat[path] + step) - slow(path, flat[path] - step)) / 2e-6
        got = (np.asarray(grads[path], np.float64) * along).sum()
        assert got == pytest.approx(want, rel=1e-4, abs=1e-4), path


# ------------------------------------------------------------------------- nobody waits for another


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "capacity"])
def test_a_document_does_not_depend_on_others(name):
    """Another document of the row, another row and padding are changed: the same bits."""
    params, x, ours = module(name)[1], inputs(), np.zeros(SEGMENTS.shape, bool)
    ours[0] = SEGMENTS[0] == 2
    others = np.where(ours[..., None], x, inputs(1))
    (before, _), (after, _) = (call(name)(params, rows, SEGMENTS) for rows in (x, others))
    assert (before[ours] == after[ours]).all()
    assert (before[~ours] != after[~ours]).any()


def test_a_text_in_parts_has_no_capacity():
    graphdef, params, _ = module("capacity")
    whole = jax.jit(lambda p, x, segments: nnx.merge(graphdef, p)(x, segments, dropless=True))
    y, _ = whole(params, inputs(), SEGMENTS)
    np.testing.assert_array_equal(y, call("mixtral")(params, inputs(), SEGMENTS)[0])
    assert (call("capacity")(params, inputs(), SEGMENTS)[0] != y).any()


def test_rows_do_not_share_their_capacity():
    """A row is what it is beside any other; padding takes nobody's place."""
    params, x = module("capacity")[1], inputs()
    others = x.copy()
    others[1:] = inputs(1)[1:]
    others[0, 11:] = inputs(1)[0, 11:]  # padding
    real = SEGMENTS[0] > 0
    before, after = (call("capacity")(params, rows, SEGMENTS)[0][0] for rows in (x, others))
    assert (before[real] == after[real]).all()


def test_losses_of_a_row_are_its_own():
    params, x = module("sigmoid")[1], inputs()
    other = x.copy()
    other[1], other[0, 11:] = inputs(1)[1], 7.0
    before, after = (call("sigmoid")(params, rows, SEGMENTS)[1] for rows in (x, other))
    for name in ("balance_loss", "router_z_loss"):
        assert before[name][0] == after[name][0]
        assert before[name][1] != after[name][1]
        assert before[name][2] == 0  # a row of padding alone


def test_equal_scores_have_a_balance_loss_of_one():
    params = {**module("mixtral")[1]}
    params["router"] = {"kernel": jnp.zeros_like(params["router"]["kernel"])}
    _, found = call("mixtral")(params, inputs(), SEGMENTS)
    np.testing.assert_allclose(found["balance_loss"][0], BASE.balance_loss, rtol=1e-6)
    want = BASE.router_z_loss * np.log(E) ** 2
    np.testing.assert_allclose(found["router_z_loss"][0], want, rtol=1e-6)


# ------------------------------------------------------------------------------ meshes, bias, FLOPs


MESHES = [
    ("shared", {"data": 2, "fsdp": 2, "tensor": 2}),
    ("groups", {"data": 2, "expert": 2}),
    ("capacity", {"data": 1, "expert": 2, "fsdp": 2, "tensor": 2}),
]


@pytest.mark.parametrize(("name", "shape"), MESHES, ids=str)
def test_a_mesh_changes_nothing(name, shape, monkeypatch):
    """Outputs, losses, load and gradients over eight devices are those of one.

    Whatever is in the room for tokens that do not come: here, NaN.
    """

    def room(shapes, at):
        return tuple(jnp.full(shape.shape, jnp.nan, shape.dtype) for shape in shapes)

    monkeypatch.setattr(room_kernels, "pick", lambda impl: room)
    graphdef, params, axes = module(name)
    x, upstream = inputs(), inputs(5)

    def run(params, x, segments):
        def total(params, x):
            y, found = nnx.merge(graphdef, params)(x, segments)
            return (y * upstream).sum() + found["balance_loss"].sum(), (y, found)

        return jax.grad(total, argnums=(0, 1), has_aux=True)(params, x)

    want = jax.jit(run)(params, x, SEGMENTS)
    mesh = MeshConfig(**shape, num_devices=int(np.prod(list(shape.values())))).build()
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, param_shardings(params, axes, mesh))
        rows = jax.device_put(x, batch_sharding(mesh, 3))
        segments = jax.device_put(SEGMENTS, batch_sharding(mesh, 2))
        got = jax.jit(run)(placed, rows, segments)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max()))


def test_tokens_do_not_leave_their_device():
    """Under data and fsdp the network carries weights and gradients, no sorted tokens."""
    graphdef, params, axes = module("groups")
    mesh = MeshConfig(data=2, fsdp=4).build()

    def loss(params, x, segments):
        y, found = nnx.merge(graphdef, params)(x, segments)
        return (y**2).sum() + found["balance_loss"].sum()

    rows = jax.ShapeDtypeStruct((8, 50, DIM), jnp.float32, sharding=batch_sharding(mesh, 3))
    segments = jax.ShapeDtypeStruct((8, 50), jnp.int32, sharding=batch_sharding(mesh, 2))
    shardings = param_shardings(params, axes, mesh)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, shardings
    )
    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(loss)).lower(abstract, rows, segments).compile().as_text()
    lines = [line for line in text.splitlines() if " all-" in line or "collective-permute(" in line]
    assert any(f"f32[{E},{DIM},20]" in line for line in lines)  # kernels are gathered
    assert not any("[8,50," in line or "[400," in line for line in lines)


def test_the_bias_follows_the_load():
    config = BASE.replace(choice_bias=0.25)
    moe = config.build(DIM, rngs=nnx.Rngs(0))
    moe.adjust(jnp.array([4, 0, 2, 2, 3, 1]))  # the mean is 2
    want = 0.25 * np.array([-1, 1, 0, 0, -1, 1])
    np.testing.assert_array_equal(moe.choice_bias.get_value(), want)


def test_flops_are_those_of_an_equal_dense_program():
    """Router, k experts and the shared one as dense maps: what the compiler counts of them."""
    config = BASE.replace(num_experts=64, experts_per_token=3, intermediate_size=80, shared_size=96)
    moe = nnx.eval_shape(lambda: config.build(128, rngs=nnx.Rngs(0)))

    def dense(x, router, expert, shared):
        return x @ router, *((x @ gate * (x @ up)) @ down for gate, up, down in [*expert, shared])

    def kernels(width):
        inner = jax.ShapeDtypeStruct((128, width), jnp.float32)
        return inner, inner, jax.ShapeDtypeStruct((width, 128), jnp.float32)

    x = jax.ShapeDtypeStruct((32, 128), jnp.float32)
    router = jax.ShapeDtypeStruct((128, 64), jnp.float32)
    cost = jax.jit(dense).lower(x, router, [kernels(80)] * 3, kernels(96)).cost_analysis()
    assert moe.matmul_flops() * 32 == pytest.approx(cost["flops"], rel=0.01)


def test_initial_parameters():
    """Experts differ, and are drawn as a dense ffn is; the last kernels are smaller."""
    config = BASE.replace(intermediate_size=64)
    params = split(config.build(64, std=0.02, out_scale=0.5, rngs=nnx.Rngs(0)))[1]
    for name, scale in (("gate", 1), ("up", 1), ("down", 0.5)):
        kernel = np.asarray(params[name]["kernel"])
        assert kernel.std() == pytest.approx(0.02 * scale, rel=0.02)
        assert (kernel[0] != kernel[1]).all()
    by_fan_in = split(config.build(64, rngs=nnx.Rngs(0)))[1]
    assert np.std(by_fan_in["up"]["kernel"]) == pytest.approx(1 / 8, rel=0.02)
    assert MoEConfig().width(384) == DenseConfig().width(384)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_groups": 4}, "num_groups: 4 does not divide num_experts 6"),
        ({"num_groups": 2, "groups_per_token": 3}, "groups_per_token: 3 of 2 groups"),
        ({"num_groups": 6}, "experts_per_token: 2, but a token has 1 in reach"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        BASE.replace(**changes).validate()
