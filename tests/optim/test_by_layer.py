"""Rates by depth and gradual unfreezing, against the rates that they say and a plain run."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxlm import api
from jaxlm.adapters.freeze import Freeze
from jaxlm.core.config import UserError, parse
from jaxlm.core.tree import flatten, unflatten
from jaxlm.optim.adam import Adam
from jaxlm.optim.by_layer import Start, Unfreeze, decays, depths, starts
from jaxlm.optim.optimizer import build
from jaxlm.optim.param_groups import Group
from jaxlm.optim.sgd import SGD
from jaxlm.run import load_saved
from tests import tiny

# A decoder of 4 layers in two stacks and an encoder of 2: name -> (shape, axes, power of the decay)
MODEL: dict[str, tuple[tuple[int, ...], tuple[str, ...], Any]] = {
    "embed/table": ((6, 4), ("vocab", "embed"), 5),
    "embedding_norm/scale": ((4,), ("norm",), 5),
    "positions/table": ((3, 4), ("pos", "embed"), 5),
    "layers_0/query/kernel": ((1, 4, 4), ("layers", "embed", "head_dim"), [4]),
    "layers_1/query/kernel": ((3, 4, 4), ("layers", "embed", "head_dim"), [3, 2, 1]),
    "layers_1/query/bias": ((3, 4), ("layers", "head_dim"), [3, 2, 1]),
    "encoder/layers/query/kernel": ((2, 4, 4), ("layers", "embed", "head_dim"), [2, 1]),
    "encoder/final_norm/scale": ((4,), ("norm",), 0),
    "final_norm/scale": ((4,), ("norm",), 0),
    "unembed/kernel": ((4, 6), ("embed", "vocab"), 0),
    "unembed/bias": ((6,), ("vocab",), 0),
    "task_head/kernel": ((4, 2), ("embed", "labels"), 0),
}
AXES = unflatten({path: axes for path, (_, axes, _) in MODEL.items()})
STEPS = 9


def tree(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return unflatten(
        {path: rng.normal(size=shape).astype(np.float32) for path, (shape, _, _) in MODEL.items()}
    )


PARAMS, GRADS = tree(0), [tree(seed) for seed in range(1, STEPS + 1)]


def run(config: Any) -> dict[str, np.ndarray]:
    """{path: parameters before and after each step [S + 1, ...]}."""
    tx = build(config, PARAMS, AXES, STEPS).tx
    update = jax.jit(lambda g, state, params, step: tx.update(g, state, params, step=step))
    params, state, found = PARAMS, tx.init(PARAMS), [flatten(PARAMS)]
    for step, gradient in enumerate(GRADS):
        updates, state = update(gradient, state, params, step)
        params = jax.tree.map(lambda p, u: np.asarray(p + u), params, updates)
        found.append(flatten(params))
    return {path: np.stack([step[path] for step in found]) for path in MODEL}


def test_each_layer_learns_at_its_rate() -> None:
    groups = (Group(pattern="bias", value=3.0), Group(pattern=".", value=1.0))
    found = run(SGD(learning_rate=0.5, clip_norm=None, layer_decay=0.8, lr_groups=groups))
    for path, (shape, _, power) in MODEL.items():
        rate = 0.8 ** np.reshape(power, (-1, *(1,) * (len(shape) - 1)) if shape else ())
        rate = rate * (3.0 if "bias" in path else 1.0)
        want = found[path][0] - 0.5 * rate * flatten(GRADS[0])[path]
        np.testing.assert_allclose(found[path][1], want, rtol=1e-6, atol=1e-7, err_msg=path)


def test_a_layer_learns_at_its_rate_where_those_above_it_are_frozen() -> None:
    config = tiny.load("moe").config
    optimizer = SGD(learning_rate=1.0, clip_norm=None, layer_decay=0.5)
    learner = tiny.learner(config, adapter=Freeze(train=("^layers_0/",)), optimizer=optimizer)
    tx, shapes = learner.optimizer.tx, learner.program.trained(learner.program.abstract_params)
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    updates, _ = tx.update(ones, tx.init(ones), ones, step=0)
    found = flatten(updates)
    assert found and all(path.startswith("layers_0/") for path in found)
    for path, update in found.items():
        if not path.endswith("choice_bias"):
            np.testing.assert_allclose(-update[0], 0.5**config.model.num_layers, err_msg=path)


def first_steps(every: int, layers: int) -> dict[str, Any]:
    """When each parameter of MODEL begins to change, from its place from the top."""
    lowest = lambda path: 2 if path.startswith("encoder") else 4  # noqa: E731

    def one(path: str, power: Any) -> Any:
        if power == 5:
            return every * (1 + -(-lowest(path) // layers))
        return every * -(-np.array(power) // layers)

    return {path: one(path, power) for path, (_, _, power) in MODEL.items()}


@pytest.mark.parametrize(("every", "layers"), [(1, 1), (2, 2), (3, 4)])
def test_layers_do_not_change_to_the_bit_until_they_are_unfrozen(every: int, layers: int) -> None:
    """From then on their updates are those of a run in which nothing was frozen."""
    zero = flatten(PARAMS)["embed/table"]
    zero[0] = -0.0  # x + 0 is another zero
    unfreeze = Unfreeze(every_steps=every, layers=layers)
    plain = run(Adam(learning_rate=0.1, clip_norm=None))
    found = run(Adam(learning_rate=0.1, clip_norm=None, unfreeze=unfreeze))
    late = 0
    for path, begin in first_steps(every, layers).items():
        steps = np.arange(STEPS)
        for index in np.ndindex(np.shape(begin)):
            own, free = (x[path][(slice(None), *index)] for x in (found, plain))
            frozen = steps < np.asarray(begin)[index]
            for step in steps:
                same = own[step].tobytes() == own[step + 1].tobytes()
                assert same == frozen[step], (path, index, step)
            moved = np.diff(own, axis=0)[~frozen]
            np.testing.assert_allclose(moved, np.diff(free, axis=0)[~frozen], atol=1e-6)
            late += frozen.sum()
    assert late > 10


def test_own_groups_begin_where_they_say_and_epochs_become_steps() -> None:
    groups = (Start(pattern="^layers_1", step=2), Start(pattern="embed", step=4))
    found = flatten(starts(Unfreeze(groups=groups), depths(PARAMS, AXES), AXES))
    assert found["layers_1/query/kernel"] == 2 and found["embed/table"] == 4
    assert found["layers_0/query/kernel"] == 0 and found["unembed/kernel"] == 4
    assert Unfreeze(every_epochs=0.5).in_steps(37.0) == Unfreeze(every_steps=18)
    assert Unfreeze(every_epochs=0.5).in_steps(0.2) == Unfreeze(every_steps=1)
    assert Unfreeze(groups=groups).in_steps(5.0) == Unfreeze(groups=groups)


def test_the_norm_that_is_clipped_is_of_what_changes() -> None:
    unfreeze = Unfreeze(every_steps=2)
    path = run(SGD(learning_rate=1.0, clip_norm=0.5, unfreeze=unfreeze))
    begin = first_steps(2, 1)
    own = [p for p, b in begin.items() if np.all(np.asarray(b) == 0)]
    norm = np.sqrt(sum((flatten(GRADS[0])[p].astype(np.float64) ** 2).sum() for p in own))
    for p in own:
        want = path[p][0] - flatten(GRADS[0])[p] * min(1, 0.5 / norm)
        np.testing.assert_allclose(path[p][1], want, rtol=1e-5, atol=1e-6)


def test_models_have_their_layers_where_the_rule_looks() -> None:
    """The real parameters of a Transformer and an LSTM: none is taken for something else."""
    for name, stacks in (("transformer", {"layers"}), ("lstm", {"layers"})):
        program = tiny.program(tiny.load(name).config)
        shapes, axes = program.abstract_params, program.param_axes
        found = flatten(decays(0.5, depths(shapes, axes), axes))
        layered = {path.split("/")[0] for path, value in found.items() if np.ndim(value)}
        assert layered and {path.split("_")[0] for path in layered} <= stacks
        count = max(-np.log2(v.min()) for v in found.values() if np.ndim(v))
        assert found["embed/table"] == 0.5 ** (count + 1)
        others = {p: v for p, v in found.items() if not np.ndim(v) and not p.startswith("embed")}
        assert others and {*others.values()} == {1.0}, others


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "set exactly one of the three"),
        ({"every_steps": 2, "every_epochs": 1}, "set exactly one of the three"),
        ({"groups": [{"pattern": "(", "step": 1}]}, "is not a regular expression"),
    ],
)
def test_mistakes(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse(Unfreeze, values)


def test_a_group_that_names_nothing_is_one_error() -> None:
    unfreeze = Unfreeze(groups=(Start(pattern="layer_9", step=1),))
    with pytest.raises(UserError, match="unfreeze.groups.0: the pattern 'layer_9' is found in no"):
        build(SGD(unfreeze=unfreeze), PARAMS, AXES, STEPS)


@pytest.mark.usefixtures("shared_programs")
def test_a_run_that_is_cut_within_the_unfreezing_ends_in_the_same_weights(tmp_path) -> None:
    import json
    import shutil

    run = tmp_path / "run"
    changes = (
        "mesh={data: 1, num_devices: 1}",
        "data.seq_len=16",
        "train.steps=4",
        "sample.prompts=[]",
        "eval.every_steps=null",
        "eval.max_batches=1",
        "eval.at_end=false",
        "checkpoint.every_steps=2",
        "checkpoint.keep_last=3",
        "logging.tensorboard=false",
        "optimizer.unfreeze={every_steps: 1}",
        "optimizer.layer_decay=0.7",
        "train.embedding_noise=5",
    )
    assert api.fit(tiny.load("transformer", *changes, f"run_dir={run}")).code == 0
    want = json.loads((run / "result.json").read_text())["final"]
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "00000004")
    assert api.fit(load_saved(run), must_exist=True).result["final"] == want
