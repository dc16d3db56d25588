"""Optimizers against torch (stored paths) and against their papers' formulas in numpy."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.core.config import REQUIRED, ConfigError, UserError, parse, to_dict
from jaxlm.core.registry import names
from jaxlm.core.tree import flatten, unflatten
from jaxlm.mesh import MeshConfig, param_shardings
from jaxlm.optim.adafactor import Adafactor
from jaxlm.optim.adagrad import Adagrad
from jaxlm.optim.adam import Adam
from jaxlm.optim.adamw import AdamW
from jaxlm.optim.base import OptimizerConfig
from jaxlm.optim.by_layer import Start, Unfreeze
from jaxlm.optim.lion import Lion
from jaxlm.optim.muon import Muon, orthogonalize
from jaxlm.optim.optimizer import build, state_shardings, update_ema
from jaxlm.optim.param_groups import Dims, Group, dims_of, group_values
from jaxlm.optim.schedules.base import Schedule, Warmup
from jaxlm.optim.schedules.cosine import Cosine
from jaxlm.optim.sgd import SGD

FIXTURES = Path(__file__).parent.parent / "fixtures"
EVERYWHERE = (Group(pattern=".", value=0.3),)
STEPS = 10

# A small model: name -> (shape, logical axes).
MODEL: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "embed/table": ((16, 8), ("vocab", "embed")),
    "head/kernel": ((8, 16), ("embed", "vocab")),
    "layers/query/kernel": ((2, 8, 4, 6), ("layers", "embed", "heads", "head_dim")),
    "layers/query/bias": ((2, 4, 6), ("layers", "heads", "head_dim")),
    "layers/out/kernel": ((2, 4, 6, 8), ("layers", "heads", "head_dim", "embed")),
    "layers/norm/scale": ((2, 8), ("layers", "norm")),
    "layers/router/kernel": ((2, 8, 4), ("layers", "embed", "experts")),
    "layers/moe/kernel": ((2, 4, 8, 12), ("layers", "experts", "embed", "mlp")),
}
AXES = unflatten({name: axes for name, (_, axes) in MODEL.items()})
VECTORS = {"layers/query/bias", "layers/norm/scale"}
NO_MUON = VECTORS | {"embed/table", "head/kernel"}


def tree(seed: int, scale: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return unflatten(
        {n: (rng.normal(size=shape) * scale).astype(np.float32) for n, (shape, _) in MODEL.items()}
    )


PARAMS = tree(0)
GRADS = [tree(seed, 10.0 ** (seed % 4 - 2)) for seed in range(1, STEPS + 1)]


def run(
    config: OptimizerConfig, params: Any = PARAMS, grads: Any = GRADS, axes: Any = AXES
) -> dict[str, np.ndarray]:
    """{name: parameters after every step [S, ...]}; not jitted: compiling takes longer."""
    tx = build(config, params, axes, len(grads)).tx
    state, path = tx.init(params), []
    for step, gradient in enumerate(grads):
        updates, state = tx.update(gradient, state, params, step=step)
        params = optax.apply_updates(params, updates)
        path.append(flatten(params))
    return {name: np.stack([step[name] for step in path]) for name in path[0]}


@functools.cache
def run_model(config: OptimizerConfig) -> dict[str, np.ndarray]:
    return run(config)


@dataclass(frozen=True, kw_only=True)
class Listed(Warmup):
    """A factor for each step."""

    values: tuple[float, ...]

    def after_warmup(self, warmup: int, total_steps: int) -> Schedule:
        return lambda step: jnp.asarray(self.values, jnp.float32)[step.astype(jnp.int32)]


# -------------------------------------------------------------------------------- against torch

ADAM = {"beta1": 0.8, "beta2": 0.95, "eps": 1e-4}
TORCH: dict[str, OptimizerConfig] = {
    "sgd": SGD(),
    "momentum": SGD(momentum=0.8),
    "nesterov": SGD(momentum=0.8, nesterov=True),
    "sgd_l2": SGD(momentum=0.8, l2=EVERYWHERE),
    "adam": Adam(**ADAM),
    "adamw": AdamW(**ADAM, weight_decay=EVERYWHERE),
    "adafactor": Adafactor(
        decay_exponent=0.7,
        min_size=1,
        update_clip=1.1,
        weights_floor=1e-2,
        weight_decay=EVERYWHERE,
    ),
    "muon_rms": Muon(momentum=0.9, weight_decay=EVERYWHERE),
    "muon_width": Muon(momentum=0.9, weight_decay=EVERYWHERE, nesterov=False, update_rms=None),
}


@pytest.mark.parametrize("name", TORCH)
def test_agrees_with_torch(name):
    with np.load(FIXTURES / f"optim_{name}.npz") as file:
        golden = dict(file)
    names = [n for n in ("kernel", "bias") if n in golden]
    grads = [{n: golden[f"{n}_grads"][s] for n in names} for s in range(len(golden["rates"]))]
    axes = {"kernel": ("embed", "mlp"), "bias": ("mlp",)}
    config = TORCH[name].replace(
        learning_rate=1.0, clip_norm=None, schedule=Listed(values=tuple(golden["rates"].tolist()))
    )
    path = run(config, {n: golden[n] for n in names}, grads, {n: axes[n] for n in names})
    for n in names:
        np.testing.assert_allclose(path[n], golden[f"{n}_path"], rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------------------- against the papers


def follow(start: np.ndarray, grads: list[np.ndarray], step: Callable) -> np.ndarray:
    """The path of one parameter in float64; `step(t, w, g, memory)` gives the next w, t from 1."""
    w, memory, path = start.astype(np.float64), {}, []
    for t, g in enumerate(grads, start=1):
        w = step(t, w, g.astype(np.float64), memory)
        path.append(w)
    return np.stack(path)


def leaf(name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    return flatten(PARAMS)[name], [flatten(g)[name] for g in GRADS]


def lion_step(t: int, w: np.ndarray, g: np.ndarray, memory: dict) -> np.ndarray:
    """Algorithm 2 of arXiv:2302.06675, with beta 0.8 and 0.95, lr 0.01, decay 0.3."""
    m = memory.get("m", 0.0)
    c = 0.8 * m + (1 - 0.8) * g
    memory["m"] = 0.95 * m + (1 - 0.95) * g
    return w - 0.01 * (np.sign(c) + 0.3 * w)


@pytest.mark.parametrize("name", MODEL)
def test_lion_agrees_with_its_paper(name):
    config = Lion(
        learning_rate=0.01, beta1=0.8, beta2=0.95, clip_norm=None, weight_decay=EVERYWHERE
    )
    np.testing.assert_allclose(
        run_model(config)[name], follow(*leaf(name), lion_step), rtol=1e-5, atol=1e-5
    )


def muon_step(t: int, w: np.ndarray, g: np.ndarray, memory: dict) -> np.ndarray:
    """Jordan's Muon for one matrix w, beta 0.9, lr 0.01, decay 0.3, RMS 0.2."""
    memory["m"] = 0.9 * memory.get("m", 0.0) + 0.1 * g
    x = 0.1 * g + 0.9 * memory["m"]
    x = x / np.linalg.norm(x)
    for _ in range(5):  # on singular values alone: the polynomial acts on each of them
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        x = u @ np.diag(3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5) @ vt
    return w - 0.01 * (0.2 * np.sqrt(max(w.shape)) * x + 0.3 * w)


@pytest.mark.parametrize("name", sorted(set(MODEL) - NO_MUON))
def test_muon_orthogonalises_every_matrix_of_every_stack(name):
    shape, axes = MODEL[name]
    config = Muon(learning_rate=0.01, momentum=0.9, clip_norm=None, weight_decay=0.3)
    path = run_model(config)[name]
    stack = 2 if axes[1] == "experts" else 1
    cut = -1 if axes[-1] == "embed" else stack + 1
    matrix = (int(np.prod(shape[stack:cut])), int(np.prod(shape[cut:])))
    start, grads = leaf(name)
    for i in np.ndindex(shape[:stack]):
        expected = follow(
            start[i].reshape(matrix), [g[i].reshape(matrix) for g in grads], muon_step
        )
        ours = path[(slice(None), *i)].reshape(-1, *matrix)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_muon_gives_the_rest_to_adamw():
    muon = Muon(
        learning_rate=0.01,
        adam_learning_rate=0.03,
        adam_beta1=0.8,
        adam_beta2=0.7,
        adam_eps=1e-3,
        clip_norm=None,
        weight_decay=0.3,
    )
    adamw = AdamW(
        learning_rate=0.03, beta1=0.8, beta2=0.7, eps=1e-3, clip_norm=None, weight_decay=0.3
    )
    ours, theirs = run_model(muon), run_model(adamw)
    for name in MODEL:
        same = np.allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-6)
        assert same == (name in NO_MUON), name


def test_orthogonalize_brings_singular_values_near_one():
    x = np.random.default_rng(0).normal(size=(3, 16, 40)).astype(np.float32)
    for matrices in (x, x.transpose(0, 2, 1)):
        s = np.linalg.svd(np.asarray(orthogonalize(jnp.asarray(matrices), 5)), compute_uv=False)
        assert (s > 0.5).all()
        assert (s < 1.3).all()
    assert not np.asarray(orthogonalize(jnp.zeros((4, 8)), 5)).any()


def adafactor_step(factored: bool) -> Callable:
    """Algorithms 4 and 5 of arXiv:1804.04235 for one matrix, with momentum 0.5 of the update."""

    def step(t: int, w: np.ndarray, g: np.ndarray, memory: dict) -> np.ndarray:
        keep, g2 = 1 - t**-0.8, g * g + 1e-30
        if factored:
            memory["r"] = r = keep * memory.get("r", 0.0) + (1 - keep) * g2.sum(1)
            memory["c"] = c = keep * memory.get("c", 0.0) + (1 - keep) * g2.sum(0)
            v = np.outer(r, c) / r.sum()
        else:
            memory["v"] = v = keep * memory.get("v", 0.0) + (1 - keep) * g2
        u = g / np.sqrt(v)
        u = u / max(1.0, np.sqrt(np.mean(u * u)) / 0.9)
        u = u * max(1e-3, np.sqrt(np.mean(w * w)))
        memory["m"] = 0.5 * memory.get("m", 0.0) + 0.5 * u
        return w - 0.01 * memory["m"]

    return step


@pytest.mark.parametrize(
    ("name", "matrix", "factored"),
    [
        ("layers/query/kernel", (8, 24), True),
        ("layers/out/kernel", (24, 8), True),
        ("layers/router/kernel", (8, 4), False),
        ("layers/query/bias", (24, 1), False),
        ("layers/norm/scale", (8, 1), False),
    ],
)
def test_adafactor_agrees_with_its_paper_matrix_by_matrix(name, matrix, factored):
    config = Adafactor(clip_norm=None, min_size=8, momentum=0.5, update_clip=0.9)
    path = run_model(config)[name]
    start, grads = leaf(name)
    for i in range(2):
        rows = [g[i].reshape(matrix) for g in grads]
        expected = follow(start[i].reshape(matrix), rows, adafactor_step(factored))
        np.testing.assert_allclose(path[:, i].reshape(-1, *matrix), expected, rtol=1e-5, atol=1e-5)


ALL: dict[str, OptimizerConfig] = {
    "sgd": SGD(momentum=0.9, nesterov=True),
    "adam": Adam(),
    "adamw": AdamW(),
    "adafactor": Adafactor(min_size=8, momentum=0.5),
    "lion": Lion(),
    "muon": Muon(),
    "adagrad": Adagrad(),
}


def test_every_registered_optimizer_is_tested():
    assert set(ALL) == set(names(OptimizerConfig))


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])  # the others look at no dims
def test_a_stack_is_trained_as_its_layers_are(name):
    """L layers in one array equal L runs of one each; except for clipping, which is over all."""
    config = ALL[name].replace(clip_norm=None, weight_decay=0.0)
    layers = {n: s for n, s in MODEL.items() if n.startswith("layers/")}
    whole = run_model(config)
    for i in range(2):
        pick = lambda t, i=i: unflatten({n: flatten(t)[n][i] for n in layers})  # noqa: E731
        axes = unflatten({n: a[1:] for n, (_, a) in layers.items()})
        alone = run(config, pick(PARAMS), [pick(g) for g in GRADS], axes)
        for n in layers:
            np.testing.assert_allclose(whole[n][:, i], alone[n], rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------- what they all share


def test_a_number_decays_matrices_alone():
    decayed, plain = run(SGD(weight_decay=0.1)), run(SGD())
    for name in MODEL:
        assert np.array_equal(decayed[name], plain[name]) == (name in VECTORS), name


def test_decoupled_decay_is_not_clipped_and_has_the_learning_rate():
    config = SGD(learning_rate=0.5, weight_decay=EVERYWHERE, lr_groups=EVERYWHERE)
    zeros = [jax.tree.map(np.zeros_like, PARAMS)]
    for name, path in run(config, grads=zeros).items():
        expected = flatten(PARAMS)[name] * (1 - 0.5 * 0.3 * 0.3)
        np.testing.assert_allclose(path[0], expected, rtol=1e-6)


def test_l1_and_l2_are_gradients_of_penalties():
    l1 = (Group(pattern="kernel", value=0.2), Group(pattern=".", value=0.0))
    l2 = (Group(pattern="layers", value=0.4), Group(pattern=".", value=0.1))

    path = run(SGD(learning_rate=1.0, l1=l1, l2=l2, clip_norm=None), grads=GRADS[:1])
    for name in MODEL:
        start, (gradient, *_) = leaf(name)
        # of 0.2 |w| and of 0.4 w^2 / 2 or 0.1 w^2 / 2
        one = 0.2 * np.sign(start) if "kernel" in name else 0.0
        two = (0.4 if "layers" in name else 0.1) * start
        expected = start - (gradient + one + two)
        np.testing.assert_allclose(path[name][0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_clipping_scales_to_the_global_norm(clip):
    leaves = flatten(GRADS[0])
    norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in leaves.values()))
    path = run(SGD(learning_rate=1.0, clip_norm=clip), grads=GRADS[:1])
    for name, p in flatten(PARAMS).items():
        expected = p - leaves[name] * min(1, clip / norm)
        np.testing.assert_allclose(path[name][0], expected, rtol=1e-5, atol=1e-6)


def test_the_schedule_and_lr_groups_multiply_the_learning_rate():
    groups = (Group(pattern="embed", value=0.1), Group(pattern=".", value=0.5))
    config = SGD(learning_rate=0.2, schedule=Cosine(warmup=2), lr_groups=groups, clip_norm=None)
    schedule = build(config, PARAMS, AXES, STEPS).schedule
    rates = np.array([schedule(s) for s in range(STEPS)])
    factor = Cosine(warmup=2).build(STEPS)
    np.testing.assert_allclose(rates, [0.2 * factor(s) for s in range(STEPS)], rtol=1e-6)
    path = run(config)
    for name in MODEL:
        start, grads = leaf(name)
        scale = 0.1 if name.startswith("embed") else 0.5
        moved = np.cumsum([r * scale * g for r, g in zip(rates, grads, strict=True)], axis=0)
        np.testing.assert_allclose(path[name], start - moved, rtol=1e-5, atol=1e-5)


def test_ema_closed_form():
    values = [np.float32(v) for v in (3.0, -1.0, 4.0, 1.5)]
    ema = {"a": {"b": jnp.float32(2.0)}}
    for v in values:
        ema = update_ema(ema, {"a": {"b": v}}, 0.9)
    expected = 2.0 * 0.9**4 + 0.1 * sum(0.9 ** (3 - i) * v for i, v in enumerate(values))
    np.testing.assert_allclose(ema["a"]["b"], expected, rtol=1e-6)


CHANGES: dict[str, Any] = {
    "schedule": Cosine(),
    "clip_norm": 1e3,
    "weight_decay": 0.5,
    "l1": 0.5,
    "l2": 0.5,
    "lr_groups": (Group(pattern=".", value=0.5),),
    "min_size": 128,
    "newton_schulz_steps": 3,
    "update_clip": 0.5,
    "clip_value": 0.01,
    "update_rms": None,
    "weights_floor": 10.0,
    "adam_learning_rate": 1.0,
    "eps": 0.1,
    "adam_eps": 0.1,
    "unfreeze": Unfreeze(groups=(Start(pattern="query", step=9),)),
}


def fields_of_all() -> list[tuple[str, str]]:
    names = [(n, f.name) for n, c in ALL.items() for f in dataclasses.fields(c)]
    # Averages are kept by the train state, dtypes have a test of their own, adam refuses decay.
    left_out = ("ema_decay", "averaging", "mu_dtype", "offload")
    # What all have, the same code does to all: an update of one kind, and one of two.
    shared = {f.name for f in dataclasses.fields(OptimizerConfig)}
    return [
        (name, field)
        for name, field in names
        if field not in left_out and (field not in shared or name in ("adamw", "muon"))
    ]


@pytest.mark.parametrize(("name", "field"), fields_of_all())
def test_every_field_changes_the_update(name, field):
    config = ALL[name]
    old = getattr(config, field)
    new = CHANGES.get(field, not old if isinstance(old, bool) else None)
    if new is None and field != "update_rms":
        new = old * 0.7
    assert new != old
    changed = last_update(config) != last_update(config.replace(**{field: new}))
    assert changed


@functools.cache
def last_update(config: OptimizerConfig) -> bytes:
    """The third update of three parameters."""
    few = ("embed/table", "layers/query/kernel", "layers/query/bias")
    params, axes, *grads = (
        unflatten({n: flatten(t)[n] for n in few}) for t in (PARAMS, AXES, *GRADS[:3])
    )
    tx = build(config, params, axes, 3).tx
    state = tx.init(params)
    for step, gradient in enumerate(grads):
        updates, state = tx.update(gradient, state, params, step=step)
    return b"".join(np.asarray(u).tobytes() for u in jax.tree.leaves(updates))


@pytest.mark.parametrize("name", [name for name in ALL if hasattr(ALL[name], "mu_dtype")])
def test_moments_have_the_dtype_that_is_asked_for(name):
    for dtype in ("float32", "bfloat16"):
        state = build(ALL[name].replace(mu_dtype=dtype), PARAMS, AXES, 1).tx.init(PARAMS)
        dtypes = {str(x.dtype) for x in jax.tree.leaves(state) if x.ndim}
        assert dtype in dtypes
        assert dtypes <= {"float32", dtype}


# ----------------------------------------------------------------------------- groups and dims


def test_groups_are_tried_in_order():
    bias, rest = Group(pattern="bias$", value=1.0), Group(pattern=".", value=2.0)
    values = flatten(group_values("x", (bias, rest), AXES))
    assert values == {n: 1.0 if n.endswith("bias") else 2.0 for n in MODEL}
    with pytest.raises(UserError, match=r"x\.1: the pattern 'bias\$' covers only what earlier"):
        group_values("x", (rest, bias), AXES)


def test_an_uncovered_parameter_is_an_error_that_lists_it():
    config = AdamW(weight_decay=(Group(pattern="kernel|table", value=0.1),))
    with pytest.raises(UserError, match=r"optimizer\.weight_decay: no pattern covers") as caught:
        build(config, PARAMS, AXES, 1)
    listed = str(caught.value)
    assert all((name in listed) == (name in VECTORS) for name in MODEL)
    assert "\n" not in listed


@pytest.mark.parametrize("field", ["weight_decay", "l1", "l2", "lr_groups"])
def test_a_pattern_that_matches_nothing_is_an_error(field):
    groups = (Group(pattern="kernle", value=0.1), Group(pattern=".", value=0.5))
    words = rf"optimizer\.{field}\.0: the pattern 'kernle' is found in no parameter"
    with pytest.raises(UserError, match=words):
        build(AdamW(**{field: groups}), PARAMS, AXES, 1)


@pytest.mark.parametrize(
    ("path", "axes", "dims"),
    [
        ("a/kernel", ("embed", "mlp"), Dims((), (0,), (1,))),
        ("a/kernel", ("layers", "embed", "heads", "head_dim"), Dims((0,), (1,), (2, 3))),
        ("a/kernel", ("layers", "heads", "head_dim", "embed"), Dims((0,), (1, 2), (3,))),
        ("a/kernel", ("layers", "experts", "mlp", "embed"), Dims((0, 1), (2,), (3,))),
        ("a/kernel", ("layers", "embed", "experts"), Dims((0,), (1,), (2,))),
        ("a/kernel", ("embed", "heads", "embed"), Dims((), (0,), (1, 2))),
        ("a/bias", ("layers", "heads", "head_dim"), Dims((0,), (), (1, 2))),
        ("scale", ("norm",), Dims((), (), (0,))),
    ],
)
def test_dims_follow_from_the_axes(path, axes, dims):
    assert dims_of(path, axes) == dims


def test_the_schedule_follows_the_step_that_is_given():
    """Though steps before were not applied, step 4 has the learning rate of step 4."""
    tx = build(SGD(learning_rate=0.5, schedule=Cosine(), clip_norm=None), PARAMS, AXES, 8).tx
    updates, _ = tx.update(GRADS[0], tx.init(PARAMS), PARAMS, step=4)
    for name, gradient in flatten(GRADS[0]).items():  # half way down the cosine
        np.testing.assert_allclose(flatten(updates)[name], -0.25 * gradient, rtol=1e-6)


# ------------------------------------------------------------------------------------- sharding


@pytest.mark.parametrize(
    "name", [pytest.param("adamw", marks=pytest.mark.slow), "adafactor", "muon"]
)
def test_state_is_split_like_its_parameters(name):
    """On 8 devices: every moment is made where its parameter is, and an update leaves it there."""
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    tx = build(ALL[name], PARAMS, AXES, STEPS).tx
    shardings = param_shardings(PARAMS, AXES, mesh)
    split = state_shardings(jax.eval_shape(tx.init, PARAMS), PARAMS, AXES, mesh)
    params, grads = jax.device_put((PARAMS, GRADS[0]), (shardings, shardings))
    state = jax.jit(tx.init, out_shardings=split)(params)
    update = functools.partial(tx.update, step=0)
    updates, state = jax.jit(update, out_shardings=(shardings, split))(grads, state, params)

    moments = 0
    for keys, leaf in jax.tree_util.tree_leaves_with_path(state):
        assert len(leaf.sharding.device_set) == 8, keys
        inner = "/".join(str(k.key) for k in keys if hasattr(k, "key"))
        of = next((n for n in MODEL if inner.endswith(n)), None)
        if of is None:
            assert leaf.ndim == 0
            continue
        moments += 1
        want = flatten(shardings)[of].shard_shape(MODEL[of][0])
        full = MODEL[of][0]
        for size, whole, part, local in zip(
            leaf.shape, full, want, leaf.addressable_shards[0].data.shape, strict=True
        ):
            assert local == (part if size == whole else 1), (keys, leaf.shape)
    copies = 3 if name == "adafactor" else 2
    assert moments == copies * len(MODEL) - (len(MODEL) - len(NO_MUON)) * (name == "muon")

    alone, _ = update(GRADS[0], tx.init(PARAMS), PARAMS)
    for n, u in flatten(updates).items():
        np.testing.assert_allclose(u, flatten(alone)[n], rtol=1e-4, atol=1e-6)


# --------------------------------------------------------------------------------------- config


def test_from_yaml_and_back():
    values = {
        "type": "muon",
        "learning_rate": 0.01,
        "schedule": {"type": "wsd", "warmup": 0.1},
        "weight_decay": [{"pattern": "kernel", "value": 0.1}, {"pattern": ".", "value": 0}],
    }
    config = parse(OptimizerConfig, values)
    assert isinstance(config, Muon)
    assert config.weight_decay[0] == Group(pattern="kernel", value=0.1)
    assert parse(OptimizerConfig, to_dict(config)) == config
    assert parse(OptimizerConfig, {"type": "adamw", "weight_decay": 0.2}).weight_decay == 0.2


@pytest.mark.parametrize("name", names(OptimizerConfig))
def test_every_type_needs_no_more_than_its_name(name):
    config = parse(OptimizerConfig, {"type": name})
    assert config.learning_rate is not REQUIRED
    build(config, PARAMS, AXES, 1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"type": "sgd", "nesterov": True}, "nesterov: needs momentum"),
        ({"type": "adam", "weight_decay": 0.1}, "use type: adamw"),
        ({"type": "adamw", "weight_decay": [{"pattern": "(", "value": 1}]}, "not a regular"),
        ({"type": "adamw", "weight_decay": -0.1}, "weight_decay: -0.1 is out of range"),
        ({"type": "adamw", "beta_1": 0.1}, "did you mean beta1"),
        ({"type": "adamw", "mu_dtype": "float16"}, "mu_dtype: unknown value 'float16'"),
    ],
)
def test_mistakes_are_one_clear_error(values, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse(OptimizerConfig, values)
    assert "\n" not in str(caught.value)
