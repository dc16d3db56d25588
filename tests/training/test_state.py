"""The train step: accumulation, packing, donation, sharding, the averaged weights."""

from __future__ import annotations

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core import config as configs
from jaxlm.core.tree import flatten
from jaxlm.mesh import MeshConfig
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.heads.classify import Classify
from jaxlm.objectives.classification import Classification
from jaxlm.optim.adamw import AdamW
from jaxlm.optim.by_layer import Start, Unfreeze
from jaxlm.optim.param_groups import Group
from jaxlm.optim.sgd import SGD
from tests import tiny
from tests.hlo import loop_bodies

NO_DROPOUT = {
    "transformer": ["model.dropout=0"],
    "lstm": [
        "model.dropout=0",
        "model.dropout_input=0",
        "model.dropout_hidden=0",
        "model.dropout_embedding=0",
        "model.dropout_recurrent=0",
    ],
    "moe": ["model.dropout=0", "model.other_ffn=null", "model.num_layers=2"],
}


@cache
def config_of(name):
    return tiny.load(name, *NO_DROPOUT[name], "train.steps=8").config


def batches_for(objective, count, rows=8):
    batches = [tiny.ragged_batch(seed, rows) for seed in range(count)]
    if isinstance(objective, Classification):
        rng = np.random.default_rng(9)
        kept = ("tokens", "segment_ids", "positions")
        return [
            {name: batch[name] for name in kept}
            | {
                "labels": rng.integers(0, 3, rows, dtype=np.int32),
                "example_weights": (np.arange(rows) % 3 > 0).astype(np.float32),
            }
            for batch in batches
        ]
    return batches


def run(learner, batches):
    """(state, metrics of each step) after one step on each batch."""
    batches = [tiny.on_mesh(batch, learner.program) for batch in batches]
    step = learner.compile(tiny.spec_of(batches[0]))
    state, metrics = tiny.state_of(learner), []
    for batch in batches:
        state, found = step(state, {}, batch)
        metrics.append(jax.device_get(found))
    return state, metrics


# ------------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize(
    "name",
    [
        "transformer",
        "lstm",
        # their weights of examples: objectives/test_head_losses.py; the load of experts: below
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("classification", "moe")),
    ],
)
def test_accumulation_equals_the_big_batch(name):
    """4 micro-batches with masks of all lengths; a mean of their means would be far off."""
    config = config_of("transformer" if name == "classification" else name)
    objective = config.objective
    if name == "classification":
        objective = Classification(classes=("a", "b", "c"), head=Classify(dropout=0.0))
    batches = batches_for(objective, 3)
    weight = batches[0].get("loss_weights", batches[0].get("example_weights"))
    shares = weight.reshape(2, 4, -1).sum((0, 2))  # micro-batch i holds rows i and i + 4
    assert shares.max() > 1.2 * shares.min()
    optimizer = SGD(learning_rate=0.05, momentum=0.9, clip_norm=None)
    states, metrics = zip(
        *(
            run(
                tiny.learner(config, objective=objective, optimizer=optimizer, accumulation=k),
                batches,
            )
            for k in (1, 4)
        ),
        strict=True,
    )
    assert ("carry" in states[0]) == (name == "lstm")
    start = flatten(tiny.state_of(tiny.learner(config, objective=objective))["params"])
    whole, parts = ({k: np.asarray(v) for k, v in flatten(s).items()} for s in map(plain, states))
    moved = max(np.abs(whole[f"params/{k}"] - np.asarray(v)).max() for k, v in start.items())
    assert moved > 1e-3
    for path, value in whole.items():
        np.testing.assert_allclose(parts[path], value, rtol=0, atol=1e-6, err_msg=path)
    for one, many in zip(*metrics, strict=True):
        for key, (total, weight) in one.items():
            np.testing.assert_allclose(many[key][0], total, rtol=1e-6, atol=1e-6, err_msg=key)
            np.testing.assert_allclose(many[key][1], weight, rtol=0, err_msg=key)


def plain(state):
    return {name: state[name] for name in ("params", "carry") if name in state}


# ------------------------------------------------------------------------------ balance of experts


def test_the_load_of_a_whole_step_moves_the_choice_bias_and_nothing_else_does():
    """By hand, from the choices of a forward pass; under an optimizer that decays all it may. It
    does not move before the step at which it is unfrozen.
    """
    config = config_of("moe")
    rate = config.model.ffn.choice_bias
    optimizer = AdamW(
        learning_rate=0.1,
        weight_decay=0.5,
        l2=(Group(pattern="", value=0.1),),
        ema_decay=0.5,
        unfreeze=Unfreeze(groups=(Start(pattern="choice_bias", step=1),)),
    )
    learner = tiny.learner(config, optimizer=optimizer, accumulation=2)
    batch = tiny.on_mesh(tiny.ragged_batch(0), learner.program)
    step, state = learner.compile(tiny.spec_of(batch)), tiny.state_of(learner)
    biased = [path for path in flatten(state["params"]) if path.endswith("choice_bias")]
    assert len(biased) == 1  # of the run of layers with experts
    want = np.zeros((2, 8), np.float32)  # of both layers with experts

    @jax.jit
    def load(params, tokens, rows):
        return nnx.merge(learner.program.graphdef, params)(tokens, **rows).load

    rows = {key: batch[key] for key in ("positions", "segment_ids")}
    for number in range(3):
        params = jax.device_get(state["params"])
        (counts,) = jax.device_get(load(params, batch["tokens"], rows)).values()
        assert counts.sum(1).tolist() == [2 * int((batch["segment_ids"] > 0).sum())] * 2
        if number:
            want = want + np.float32(rate) * np.sign(counts.mean(1, keepdims=True) - counts)
        state, _ = step(state, {}, batch)
        (found,) = [flatten(state["params"])[path] for path in biased]
        np.testing.assert_array_equal(found, want)
    assert np.abs(want).max() > rate
    averaged = flatten(state["ema"])[biased[0]]
    assert 0 < np.abs(averaged).max() < np.abs(want).max()

    state["params"]["final_norm"]["scale"] *= jnp.nan  # a step that is not applied moves nothing
    state, metrics = step(state, {}, batch)
    assert metrics["bad_steps"][0] == 1
    np.testing.assert_array_equal(flatten(state["params"])[biased[0]], want)


# ------------------------------------------------------------------------------------------ packing


@pytest.mark.parametrize("name", tiny.MODELS)
@pytest.mark.parametrize("changed", [1, 2, 3])
def test_packed_documents_do_not_see_each_other(name, changed):
    """One of three documents in a row is changed: the others' logits and losses keep every bit."""
    config = config_of(name)
    program = tiny.program(config, batch_size=2)
    params = jax.jit(program.init_params)()
    logits, loss = forward(name)
    sizes = (5, 4, 6)
    segments = np.repeat([[1, 2, 3, 0]], 2, 0).repeat([*sizes, 1], axis=1).astype(np.int32)
    positions = np.concatenate([np.arange(n) for n in (*sizes, 1)])[None].repeat(2, 0)
    rng = np.random.default_rng(0)
    batch = {
        "tokens": rng.integers(0, 264, (2, 16), dtype=np.int32),
        "targets": rng.integers(0, 264, (2, 16), dtype=np.int32),
        "segment_ids": segments,
        "positions": positions.astype(np.int32),
        "num_bytes": np.ones(2, np.int32),
        "num_chars": np.ones(2, np.int32),
    }
    others = (segments != changed) & (segments > 0)
    batch["loss_weights"] = others.astype(np.float32)
    inside = segments == changed
    other = batch | {"tokens": np.where(inside, (batch["tokens"] + 7) % 264, batch["tokens"])}
    before, after = (np.asarray(logits(params, b)) for b in (batch, other))
    assert np.array_equal(before[others], after[others])
    assert not np.array_equal(before[inside], after[inside])
    assert loss(params, batch) == loss(params, other)


@cache
def forward(name):
    program = tiny.program(config_of(name), batch_size=2)

    def logits(params, batch):
        model = nnx.merge(program.graphdef, params)
        rows = {key: batch[key] for key in ("positions", "segment_ids")}
        return model.logits(model(batch["tokens"], **rows)[0])

    def loss(params, batch):
        carry = program.init_carry() if program.model.carries_state else None
        return program.eval_step(params, batch, carry)[0]["loss"][0]

    return jax.jit(logits), jax.jit(loss)


# ------------------------------------------------------------------------------- compute dtype


@pytest.mark.parametrize("name", tiny.MODELS)
def test_auto_computes_in_float32_on_a_cpu_to_the_bit(name):
    config = config_of(name)
    found = []
    for dtype in ("auto", "float32", "bfloat16"):
        program = tiny.program(config, model=config.model.replace(dtype=dtype))
        batch = tiny.on_mesh(tiny.ragged_batch(0), program)
        with jax.set_mesh(program.mesh):
            carry = program.init_carry() if program.model.carries_state else None
            params = jax.tree.map(lambda x: 20 * x, tiny.params_of(program))  # far from all equal
            sums, _ = jax.jit(program.eval_step)(params, batch, carry)
        found.append(float(sums["loss"][0]))
    assert found[0] == found[1] != found[2]


def test_auto_is_bfloat16_on_accelerators_in_the_encoder_too():
    blocks = {"hidden_size": 16, "num_layers": 1}
    reader = {**blocks, "attention": {"is_causal": False}}
    model = configs.parse(TransformerConfig, {**blocks, "encoder": reader})
    for platform in ("tpu", "gpu"):
        chosen = model.computing_on(platform)
        assert chosen.dtype == chosen.encoder.dtype == "bfloat16"
    assert model.replace(dtype="float32").computing_on("tpu").dtype == "float32"


# ----------------------------------------------------------------------- donation, sharding, memory


@cache
def compiled(name, mesh, dtype="float32"):
    config = config_of(name)
    model = config.model.replace(dtype=dtype)
    learner = tiny.learner(config, mesh, model=model, optimizer=AdamW(ema_decay=0.9))
    batch = tiny.on_mesh(tiny.ragged_batch(0), learner.program)
    return learner, batch, learner.compile(tiny.spec_of(batch))


def bytes_per_device(tree):
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


FSDP = MeshConfig(data=1, fsdp=8)


@pytest.mark.parametrize("name", tiny.MODELS)
def test_the_state_is_donated(name):
    """The step's outputs lie where its inputs did: there is no second copy of the state."""
    learner, batch, step = compiled(name, FSDP)
    memory = step.memory_analysis()
    size = bytes_per_device(learner.abstract_state())
    assert memory.alias_size_in_bytes >= size
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 2048  # the metrics
    state = tiny.state_of(learner)
    after, _ = step(state, {}, batch)
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    assert not any(x.is_deleted() for x in jax.tree.leaves((after, batch)))
    again, _ = step(after, {}, batch)  # what comes out goes in: same shardings, no second program
    assert int(again["step"]) == 2


# Replicated by decision: vectors of norms, biases, and what only `tensor` splits.
WHOLE = {
    "transformer": {"layers/attention_norm/scale", "layers/ffn_norm/scale", "final_norm/scale"},
    "lstm": {"layers/cell/input/bias", "unembed/bias"},
}


@pytest.mark.parametrize("name", tiny.MODELS)
def test_fsdp_splits_every_matrix_and_its_optimizer_state(name):
    learner, batch, step = compiled(name, FSDP)
    abstract = learner.abstract_state()
    for part in ("params", "ema"):
        for path, leaf in flatten(abstract[part]).items():
            held = int(np.prod(leaf.sharding.shard_shape(leaf.shape)))
            assert held * (1 if path in WHOLE[name] else 8) == leaf.size, path
    arguments = bytes_per_device(abstract) + bytes_per_device(batch)
    memory = step.memory_analysis()
    assert memory.argument_size_in_bytes <= arguments + 64 * len(jax.tree.leaves(abstract))
    moments = jax.tree.leaves(abstract["opt_state"])
    shapes = {x.shape for x in moments if x.ndim > 1}
    assert shapes == {x.shape for x in jax.tree.leaves(abstract["params"]) if x.ndim > 1}


def test_fsdp_gathers_each_weight_and_keeps_none():
    """Weights travel to where they are used, forwards and backwards; gradients come back in parts.

    XLA on CPU writes a reduce-scatter as an all-reduce whose result is sliced.
    """
    learner, _, step = compiled("transformer", FSDP)
    text = step.as_text()
    gathered = re.findall(r"f32\[([\d,]+)\][^ ]* all-gather\(", text)
    for shape in ("1,32,96", "1,32,2,8"):  # gate and up, key and value
        assert gathered.count(shape) == 4
    assert "264,32" in gathered  # the table
    # Nothing of the size of all layers, whole: no gathered weights, no whole gradients.
    stacked = learner.program.abstract_params["layers"]
    whole = {x.shape for x in jax.tree.leaves(stacked) if x.ndim > 2}
    shapes = set(re.findall(r"f32\[([\d,]+)\]", text))
    assert not {",".join(map(str, shape)) for shape in whole} & shapes
    # The optimizer's square root (of the second moment) is taken of parts alone.
    roots = set(re.findall(r"f32\[([\d,]+)\][^ ]* sqrt\(", text))
    assert {"264,4", "2,4,96", "2,96,4"} <= roots
    assert "264,32" not in roots


def test_zero_1_splits_the_optimizer_state_alone():
    """Whole parameters, used without a gather; each device updates its part, then all get it."""
    learner, _, step = compiled("transformer", FSDP.replace(zero=1))
    abstract = learner.abstract_state()
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(abstract["params"]))
    for part in ("opt_state", "ema"):
        matrices = [x for x in jax.tree.leaves(abstract[part]) if x.ndim > 2]
        assert matrices
        assert all(8 * np.prod(x.sharding.shard_shape(x.shape)) == x.size for x in matrices)
    text = step.as_text()
    bodies = loop_bodies(text)
    assert len(bodies) == 2 and not any("all-gather" in body for body in bodies)
    roots = set(re.findall(r"f32\[([\d,]+)\][^ ]* sqrt\(", text))
    assert {"264,4", "2,4,96", "2,96,4"} <= roots and "264,32" not in roots
    gathered = re.findall(r"f32\[([\d,]+)\][^ ]* all-gather\(", text)
    assert {"264,32", "2,32,96", "2,96,32"} <= set(gathered)


def test_moments_may_wait_in_the_hosts_memory():
    """Between the steps, and the steps are the same."""
    batches, ends = batches_for(None, 3), []
    for offload in (False, True):
        optimizer = AdamW(learning_rate=0.01, offload=offload)
        learner = tiny.learner(config_of("transformer"), FSDP, optimizer=optimizer)
        state, _ = run(learner, batches)
        kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state["opt_state"]) if x.ndim}
        assert kinds == {"pinned_host" if offload else "device"}
        assert all(x.sharding.memory_kind == "device" for x in jax.tree.leaves(state["params"]))
        ends.append(jax.device_get(state))
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_no_device_ever_holds_the_whole_model():
    """With few tokens, what the step needs beyond its arguments is less than the parameters."""
    config = config_of("transformer")
    model = config.model.replace(hidden_size=256, num_layers=8)
    learner = tiny.learner(config, FSDP, model=model)
    batch = tiny.on_mesh(tiny.ragged_batch(0), learner.program)
    memory = learner.compile(tiny.spec_of(batch)).memory_analysis()
    size = sum(4 * x.size for x in jax.tree.leaves(learner.program.abstract_params))
    assert memory.temp_size_in_bytes < 0.75 * size


# --------------------------------------------------------------------------------------------- EMA


def test_averaged_weights_have_their_closed_form():
    """ema_n = d^n p_0 + (1 - d) sum_i d^(n - i) p_i, at each of 5 steps."""
    learner, batch, step = compiled("lstm", FSDP)
    decay, state = 0.9, tiny.state_of(learner)
    seen = [np.asarray(flatten(state["params"])["embed/table"])]
    for n in range(1, 6):
        state, _ = step(state, {}, batch)
        seen.append(np.asarray(flatten(state["params"])["embed/table"]))
        want = decay**n * seen[0] + (1 - decay) * sum(
            decay ** (n - i) * seen[i] for i in range(1, n + 1)
        )
        got = np.asarray(flatten(state["ema"])["embed/table"])
        np.testing.assert_allclose(got, want, atol=1e-6)
    assert np.abs(got - seen[-1]).max() > 1e-3


# ------------------------------------------------------------------------------------- bad numbers


def test_a_step_that_is_not_finite_changes_nothing_but_the_counters():
    learner, batch, step = compiled("lstm", FSDP)
    state, _ = step(tiny.state_of(learner), {}, batch)
    keep = jax.device_get(state)
    poison = batch | {"loss_weights": batch["loss_weights"].at[3, 0].set(jnp.nan)}
    state, metrics = step(state, {}, poison)
    state, metrics = step(state, {}, poison)
    assert int(metrics["bad_steps"][0]) == int(state["bad_steps"]) == 2
    assert int(state["step"]) == 3
    for name in ("params", "opt_state", "ema", "carry"):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state[name]), keep[name])
    state, metrics = step(state, {}, batch)
    assert int(state["bad_steps"]) == 0
    assert not np.array_equal(
        flatten(state["params"])["embed/table"], flatten(keep["params"])["embed/table"]
    )
