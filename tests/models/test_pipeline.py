"""Stages of a pipeline against the same layers in a row: values, gradients, who holds what."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core import config as configs
from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten
from jaxlm.kernels.registry import target_platform
from jaxlm.mesh import MeshConfig, batch_sharding, param_shardings
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.params import split
from jaxlm.nn.pipeline import PipelineSchedule, _exchanges, pipelined
from tests import tiny

VOCAB = 32
BASE: dict[str, Any] = {
    "hidden_size": 16,
    "num_layers": 4,
    "vocab_size": VOCAB,
    "dtype": "float32",
    "attention": {"num_heads": 4, "num_kv_heads": 2},
    "ffn": {"intermediate_size": 24},
    "dropout": 0.2,
}
READER = {"hidden_size": 16, "num_layers": 4, "dropout": 0.2, "dtype": "float32"}
RELATIVE = {"position": [{"type": "relative", "num_buckets": 8, "max_distance": 8}]}
MOE = {"type": "moe", "num_experts": 4, "intermediate_size": 12, "choice_bias": 0.01}
PLAIN = {"num_heads": 4, "num_kv_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    # a pattern of windows and of positions, which every piece of the stack repeats
    "decoder": {
        "num_layers": 8,
        "position": [{"theta": 100.0}, {"theta": 1000.0}],
        "attention": {"num_heads": 4, "num_kv_heads": 2, "window": [4, None]},
    },
    "moe": {"ffn": MOE},
    # two stacks of their own, norms on both sides
    "mixed": {
        "num_layers": 8,
        "ffn": MOE,
        "norm_placement": "both",
        "other_ffn": {"layers": [0, 1, 2, 3], "ffn": {"intermediate_size": 20}},
    },
    "pair": {
        **RELATIVE,
        "encoder": {**READER, **RELATIVE, "attention": {"num_heads": 4, "is_causal": False}},
    },
}
GPIPE = MeshConfig(data=1, stage=4, fsdp=2)
ROUND = {"stage": 2, "stage_repeats": 2}
CASES: list[Any] = [  # each axis and each way of a model once
    pytest.param(  # a whole step of a decoder: below
        "decoder",
        MeshConfig(data=1, **ROUND, fsdp=2, context=2),
        {"remat": "full"},
        marks=pytest.mark.slow,
    ),
    (
        "mixed",
        MeshConfig(data=1, **ROUND, expert=2, num_devices=4),
        {"remat": "named", "saved": ["query", "ffn_out"]},
    ),
    ("pair", MeshConfig(data=2, **ROUND, tensor=2), {"scan_layers": False}),
]


def model_of(name: str, **changes: Any) -> TransformerConfig:
    return configs.parse(TransformerConfig, {**BASE, **MODELS[name], **changes})


@cache
def parts_of(config: TransformerConfig) -> Any:
    """(graphdef, shapes, logical axes)"""
    return split(nnx.eval_shape(lambda: config.build(VOCAB, rngs=nnx.Rngs(0))))


def batch_of() -> dict[str, np.ndarray]:
    """Rows of several documents and some padding; a source of another length beside them."""
    batch = {k: v for k, v in tiny.ragged_batch(3, 16, 12, VOCAB).items() if v.ndim == 2}
    source = tiny.ragged_batch(4, 16, 8, VOCAB)
    return batch | {f"source_{k}": source[k] for k in ("tokens", "positions", "segment_ids")}


def loss_of(config: TransformerConfig, plan: PipelineSchedule) -> Any:
    """The sum over all tokens, with a key for each micro-batch; and what else a model gives."""
    graphdef = parts_of(config)[0]

    def loss(params: Any, batch: Any) -> tuple[jax.Array, Any]:
        keys = jax.random.split(jax.random.key(1), plan.microbatches)
        model, encoded = nnx.merge(graphdef, params), None
        rows = ("tokens", "positions", "segment_ids")
        if config.is_encoder_decoder:
            source = {name: batch[f"source_{name}"] for name in rows}
            encoded = model.encode(source.pop("tokens"), **source, key=keys)
        text = {name: batch[name] for name in rows}
        out = model(text.pop("tokens"), **text, encoded=encoded, key=keys, with_states=True)
        shares = jax.nn.log_softmax(model.logits(out.hidden))
        nll = -jnp.take_along_axis(shares, batch["targets"][..., None], -1)[..., 0]
        total = (nll * batch["loss_weights"]).sum()
        total += sum(x.sum() for x in out.losses.values())
        return total + jnp.square(out.states).mean(), (out.load, out.states)

    return loss


def value(config: TransformerConfig, params: Any, batch: Any, plan: PipelineSchedule) -> Any:
    with pipelined(plan):
        return jax.jit(loss_of(config, plan))(params, batch)[0]


def value_and_grad(
    config: TransformerConfig, params: Any, batch: Any, plan: PipelineSchedule
) -> Any:
    with pipelined(plan):
        return jax.jit(jax.value_and_grad(loss_of(config, plan), has_aux=True))(params, batch)


def on_mesh(
    config: TransformerConfig,
    params: Any,
    mesh: MeshConfig,
    plan: PipelineSchedule,
    compute: Callable[..., Any] = value_and_grad,
) -> Any:
    built, batch = mesh.build(), batch_of()
    axes = parts_of(config)[2]
    with jax.set_mesh(built):
        placed = jax.device_put(params, param_shardings(params, axes, built))
        rows = {k: jax.device_put(v, batch_sharding(built, 2)) for k, v in batch.items()}
        return jax.device_get(compute(config, placed, rows, plan))


def initial(config: TransformerConfig) -> Any:
    return tiny.near_fresh(parts_of(config)[1], std=0.02)


def in_a_row(name: str) -> Any:
    """Parameters, and what the layers give on one device."""
    config = model_of(name)
    params = initial(config)
    return params, jax.device_get(value_and_grad(config, params, batch_of(), PipelineSchedule(4)))


@pytest.mark.parametrize(("name", "mesh", "changes"), CASES)
def test_stages_give_what_layers_in_a_row_give(name, mesh, changes):
    params, ((loss, (load, states)), grads) = in_a_row(name)
    plan = PipelineSchedule(4, mesh.stage_repeats)
    (loss_, (load_, states_)), grads_ = on_mesh(model_of(name, **changes), params, mesh, plan)
    np.testing.assert_allclose(loss_, loss, rtol=1e-5)
    np.testing.assert_allclose(states_, states, atol=1e-5 * np.abs(states).max())
    jax.tree.map(np.testing.assert_array_equal, load_, load)
    assert_near(grads_, grads)


def assert_near(found, want):
    found = flatten(found)
    for path, grad in flatten(want).items():
        assert np.abs(found[path] - grad).max() <= 1e-5 * np.abs(grad).max(), path


def test_fewer_micro_batches_than_stages_wait_for_each_other():
    mesh = MeshConfig(data=1, stage=4, stage_repeats=2, num_devices=4)
    config = model_of("decoder", position=[{"theta": 100.0}], attention=PLAIN)
    params = initial(config)
    (loss, _), grads = jax.device_get(
        value_and_grad(config, params, batch_of(), PipelineSchedule(2))
    )
    (loss_, _), grads_ = on_mesh(config, params, mesh, PipelineSchedule(2, 2))
    np.testing.assert_allclose(loss_, loss, rtol=1e-5)
    assert_near(grads_, grads)


def test_in_bfloat16_stages_are_as_near():
    config = model_of("moe", dtype="bfloat16")
    params = initial(config)
    loss = value(config, params, batch_of(), PipelineSchedule(4))
    loss_ = on_mesh(config, params, GPIPE, PipelineSchedule(4), value)
    np.testing.assert_allclose(loss_, loss, rtol=2e-3)


@pytest.mark.parametrize("stages", [2, 3, 4, 6])
@pytest.mark.parametrize("repeats", [2, 3, 4, 5])
def test_pieces_are_dealt_out_by_exchanges_of_one_each(stages, repeats):
    numbers, pairs, places = _exchanges(stages, repeats)
    came: dict[tuple[int, int], int] = {}  # (stage, exchange) -> piece
    for k, pairs_of_k in enumerate(pairs):
        senders, receivers = zip(*pairs_of_k, strict=True)
        assert set(senders) == set(receivers) == set(range(stages))
        for sender, receiver in pairs_of_k:
            came[receiver, k] = sender * repeats + int(numbers[k][sender])
    for stage in range(stages):
        dealt = [came[stage, int(places[stage][r])] for r in range(repeats)]
        assert dealt == [r * stages + stage for r in range(repeats)]


# ------------------------------------------------------------------------------------ whole steps


def learner_of(mesh: MeshConfig, *changes: str) -> Any:
    """Four micro-batches, with dropout of attention's weights."""
    config = tiny.load(
        "transformer",
        "train.batch_size=16",
        "train.accumulation=4",
        "model.attention.dropout=0.1",
        "model.num_layers=4",
        *changes,
    ).config
    return tiny.learner(config, mesh)


def test_a_step_is_that_of_accumulated_micro_batches():
    """Losses, gradients and dropout over three steps; and what an evaluation measures."""
    found = []
    for mesh in (tiny.ONE, MeshConfig(data=1, **ROUND, fsdp=2, tensor=2)):
        learner = learner_of(mesh)
        state, rows = tiny.state_of(learner), tiny.on_mesh(tiny.ragged_batch(0, 16), learner)
        step, figures = learner.compile(tiny.spec_of(rows)), []
        few = tiny.on_mesh(tiny.ragged_batch(1, 6), learner)  # one micro-batch, that is, on a mesh
        with jax.set_mesh(learner.mesh):
            for _ in range(3):
                state, metrics = step(state, {}, rows)
                figures += [metrics["loss"][0], metrics["grad_norm"][0]]
            measured, _ = jax.jit(learner.program.eval_step)(state["params"], few, None)
        found.append([*figures, measured["loss"][0]])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    assert found[0][4] < found[0][0]  # it learns


def test_a_stage_has_its_layers_and_its_share_of_the_head():
    """With the kernels of accelerators: no parameter is gathered, no logits are whole."""
    learner = learner_of(
        MeshConfig(data=1, stage=4, num_devices=4),
        "model.ffn.intermediate_size=40",
        "model.head.tied=false",
    )
    kernel = learner.program.param_shardings["layers"]["ffn"]["up"]["kernel"]
    assert kernel.shard_shape((4, 32, 40)) == (1, 32, 40)
    rows = tiny.on_mesh(tiny.ragged_batch(0, 16), learner)
    with target_platform("tpu"):
        text = learner.compile(tiny.spec_of(rows)).as_text()
    kinds = "all-gather|all-to-all|reduce-scatter|collective-permute"
    moved = re.findall(rf" = \(?(\w+\[[\d,]*\])\S* .*?(?:{kinds})(?:-start)?\(", text)
    assert moved and set(moved) <= {
        "f32[4,16,32]",
        "f32[4,4,16,32]",
        "f32[4,4,4,32]",
    }  # of the stream
    assert re.search(r"f32\[\d+,4,264\]", text)  # logits of a fourth of the length
    assert not re.search(r"f32\[\d+,16,264\]", text)


MISTAKES = [
    ({"stage": 8}, (), "^parameter layers.* of size 4 cannot be split over 8 devices of mesh axis"),
    ({"stage": 4, "stage_repeats": 2}, (), "^mesh.stage: 4 layers cannot be cut into 4 stages x 2"),
    (
        {"stage": 4},
        ("model.attention.window=[4,null]",),
        "^mesh.stage: pieces of 1 layers differ where layers repeat after 2; make",
    ),
]


@pytest.mark.parametrize(("mesh", "changes", "message"), MISTAKES)
def test_what_stages_cannot_do_is_said(mesh, changes, message):
    with pytest.raises(UserError, match=message):
        learner = learner_of(MeshConfig(data=-1, **mesh), *changes)
        rows = tiny.on_mesh(tiny.ragged_batch(0, 16), learner)
        learner.compile(tiny.spec_of(rows))


OTHER = "{ffn: {intermediate_size: 48}, layers: "
UNEVEN = [
    (
        ({"stage": 2}, f"model.other_ffn={OTHER}[0]}}"),
        r"model.other_ffn.layers: \[0\] makes runs of 1, 3 layers, which cannot each be cut into 2 "
        r"stages x 1 repeats; set mesh.stage to 1, and split data, fsdp or expert",
    ),
    (
        ({"stage": 2, "stage_repeats": 2}, f"model.other_ffn={OTHER}[0, 1]}}"),
        r"model.other_ffn.layers: \[0, 1\] makes runs of 2, 2 layers, which cannot each be cut "
        r"into 2 stages x 2 repeats; choose mesh.stage and mesh.stage_repeats whose product "
        r"divides 2",
    ),
]


@pytest.mark.parametrize(("given", "message"), UNEVEN)
def test_runs_of_layers_that_stages_cannot_share_are_named(given, message):
    mesh, change = given
    with pytest.raises(UserError, match=f"^{message}$"):
        learner_of(MeshConfig(data=-1, **mesh), change)


def test_runs_of_an_encoder_are_named_by_their_path():
    encoder = MODELS["pair"]["encoder"] | {
        "other_ffn": {"layers": [3], "ffn": {"activation": "relu"}}
    }
    model = configs.parse(TransformerConfig, {**BASE, **MODELS["pair"], "encoder": encoder})
    with pytest.raises(
        UserError, match=r"^model.encoder.other_ffn.layers: \[3\] makes runs of 3, 1"
    ):
        model.check_stages(2, 1)
    model.check_stages(1, 1)


def test_a_preset_with_a_dense_first_layer_says_why_it_cannot_be_a_pipeline():
    config = tiny.load("moe", "train.batch_size=8").config
    with pytest.raises(
        UserError, match=r"^model.other_ffn.layers: \[0\] makes runs of 1, 2 layers"
    ):
        tiny.program(config, MeshConfig(data=1, stage=2, num_devices=2))


def test_recurrent_layers_cannot_be_a_pipeline():
    config = tiny.load("lstm").config
    with pytest.raises(
        UserError, match="^mesh.stage: the layers of a rnn cannot be a pipeline; set it"
    ):
        tiny.program(config, MeshConfig(data=1, stage=2, num_devices=2))
