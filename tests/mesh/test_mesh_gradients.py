"""The loss and every parameter's gradient of one step: on meshes of 8 devices as on one.

Each case is compared with one device's run of the same parameters, batch and dropout, in float32:
the loss and every other figure within 1e-5 of itself, a gradient within 1e-5 of its parameter's
largest, the tokens that each expert had exactly. What a mesh does to a run of many steps, with the
optimizer, is in `test_mesh_invariance`; stages of all sorts are in `models/test_pipeline`.

A ring passes the keys of attention, so an LSTM has none, and its layers cannot be stages
either. A ring takes no bias of scores, so T5's relative positions become rotary ones there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxlm.core.tree import flatten
from jaxlm.kernels.contract import contract_kernels
from jaxlm.kernels.registry import target_platform
from jaxlm.mesh import MeshConfig
from jaxlm.optim.adamw import AdamW
from jaxlm.training.learner import GradientLearner
from jaxlm.training.program import DROPOUT_STREAM, Program, derive_key
from jaxlm.training.step import gradients
from tests import tiny

BOUND = 1e-5
ROWS, LENGTH = 16, 32


@dataclass(frozen=True)
class Chip:
    """What a mesh asks of a TPU; eight of them are in two slices, as they happen to be listed."""

    number: int

    ORDER = (5, 0, 2, 7, 4, 1, 3, 6)
    platform = "tpu"
    device_kind = "TPU of a test"
    process_index = core_on_chip = 0

    @property
    def id(self) -> int:
        return self.ORDER[self.number]

    @property
    def slice_index(self) -> int:
        return self.id // 4

    @property
    def coords(self) -> tuple[int, int, int]:
        """Four chips a slice, two by two."""
        return self.id % 2, self.id % 4 // 2, 0


@dataclass(frozen=True, kw_only=True)
class TwoSlices(MeshConfig):
    """The CPUs, in the order in which TPUs of two slices would be in the mesh."""

    def build(self, devices: Sequence[Any] | None = None) -> Mesh:
        cpus = jax.devices()

        def of_cpus(chips: np.ndarray, *args: Any, **how: Any) -> Mesh:
            return Mesh(np.vectorize(lambda chip: cpus[chip.number])(chips), *args, **how)

        with mock.patch("jaxlm.mesh.config.Mesh", of_cpus):
            return super().build([Chip(number) for number in range(8)])


MIXED = MeshConfig(data=2, fsdp=2, tensor=2)
MESHES: dict[str, MeshConfig] = {
    "fsdp": MeshConfig(data=1, fsdp=8),
    "tensor": MeshConfig(data=2, tensor=4),
    "context": MeshConfig(data=1, context=8),
    "mixed": MIXED,
    "mixed zero 1": MIXED.replace(zero=1),
    "mixed context": MeshConfig(data=1, fsdp=2, context=2, tensor=2),
    "mixed ring": MeshConfig(data=1, fsdp=2, context=2, tensor=2),
    "mixed expert": MeshConfig(data=1, fsdp=2, expert=2, tensor=2),
    "slices": TwoSlices(data=2, fsdp=2, tensor=2),
    "slices of stages": TwoSlices(data=1, stage=2, fsdp=4, zero=1, dcn="stage"),
}
# Each axis of a mesh alone or in a mixture, and each model, once: what data, fsdp and the order of
# the devices do to a parameter is the same code in all models. The decoder's mixture in the usual
# order is that of the accelerators' kernels below. Attention alone depends on how a Transformer's
# length is split. Layers of experts on more meshes: nn/test_moe.py.
TABLE = {
    "decoder": ("fsdp", "slices", "mixed ring"),
    "decoder in parts": ("slices of stages",),
    "moe": ("mixed expert",),
    "t5": ("mixed context",),
    "rotary t5": ("mixed ring",),
    "lstm": ("tensor", "context", "mixed zero 1"),
    "n-grams": ("mixed context",),  # which look over the border between two parts of a row
    "classification": ("mixed",),
    "multi_label": ("mixed",),
    "regression": ("mixed",),
    "question_answering": ("mixed context",),  # whose softmax is over the length
    "tagging": ("mixed context",),
}
# fsdp is in all mixtures; a ring is the decoder's, and T5's rows are split above.
SLOW = {("decoder", "fsdp"), ("rotary t5", "mixed ring")}
ROTARY = ("model.position={type: rotary}", "model.encoder.position={type: rotary}")
# Every layer of the mixture has experts; a first one without: models/test_pipeline.py.
NAMES = "classes: [a, b, c]"
DECODER = ("transformer", "model.attention.num_heads=8", "model.attention.num_kv_heads=4")
HEAD = ("transformer", "model.attention.is_causal=false", "model.num_layers=1")
MODELS: dict[str, tuple[str, ...]] = {
    "decoder": DECODER,
    "decoder in parts": (*DECODER, "train.accumulation=2"),
    "moe": ("moe", "model.other_ffn=null", "model.num_layers=2"),
    "t5": ("t5",),
    "rotary t5": ("t5", *ROTARY),
    "lstm": ("lstm",),
    "n-grams": (
        "transformer",
        "model.num_layers=1",
        "model.embedding.ngrams={orders: [2, 3], buckets: 64}",
    ),
    "classification": (*HEAD, f"objective={{type: classification, {NAMES}}}"),
    "multi_label": (*HEAD, f"objective={{type: multi_label, {NAMES}}}"),
    "regression": (*HEAD, "objective={type: regression}"),
    "question_answering": (*HEAD, "objective={type: question_answering}"),
    "tagging": (*HEAD, f"objective={{type: tagging, label_smoothing: 0.1, {NAMES}}}"),
}


@cache
def config_of(model: str) -> Any:
    name, *changes = MODELS[model]
    return tiny.load(name, *changes, f"train.batch_size={ROWS}").config


def program_of(model: str, mesh: MeshConfig, ring: bool) -> Program:
    config = config_of(model)
    changed = in_a_ring(config.model) if ring else config.model
    return tiny.program(config, mesh, model=changed)


def in_a_ring(model: Any) -> Any:
    """A Transformer whose stacks pass their keys in a ring, where the length is split."""

    def change(stack: Any) -> Any:
        return stack.replace(attention=stack.attention.replace(context="ring"))

    model = change(model)
    return model if model.encoder is None else model.replace(encoder=change(model.encoder))


def batch_of(model: str) -> dict[str, np.ndarray]:
    """Rows of several documents and some padding, each with a source where an encoder reads one."""
    batch, source = tiny.ragged_batch(3, ROWS, LENGTH), tiny.ragged_batch(4, ROWS, LENGTH)
    if config_of(model).model.is_encoder_decoder:
        batch |= {f"source_{k}": source[k] for k in ("tokens", "positions", "segment_ids")}
    return batch | labels_of(model, batch)


def labels_of(model: str, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The answers that a head learns; some rows only fill the batch."""
    rng = np.random.default_rng(6)
    lengths = (batch["segment_ids"] > 0).sum(1)
    weights = {"example_weights": (np.arange(ROWS) % 5 > 0).astype(np.float32)}
    starts = rng.integers(0, lengths).astype(np.int32)
    found: dict[str, dict[str, np.ndarray]] = {
        "classification": {"labels": rng.integers(0, 3, ROWS, np.int32), **weights},
        "multi_label": {"labels": rng.integers(0, 2, (ROWS, 3)).astype(np.float32), **weights},
        "regression": {"labels": rng.normal(size=ROWS).astype(np.float32), **weights},
        "question_answering": {"start": starts, "end": lengths.astype(np.int32) - 1, **weights},
        "tagging": {"targets": rng.integers(0, 3, (ROWS, LENGTH), np.int32)},
    }
    return found.get(model, {})


def carry_of(program: Program) -> Any:
    """The shapes of the recurrent state; None where none is carried."""
    return GradientLearner(program, AdamW()).abstract_state().get("carry")


def step_of(program: Program, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a step finds before its update: gradients as they lie, the rest on the host.

    A recurrent state that is carried is not that of a start.
    """
    rng = np.random.default_rng(5)
    carry = jax.tree.map(
        lambda x: jax.device_put(rng.normal(size=x.shape).astype(x.dtype), x.sharding),
        carry_of(program),
    )
    key = derive_key(program.seed, DROPOUT_STREAM, 7)
    params = tiny.near_fresh(program.abstract_params, std=0.02)
    params = jax.device_put(params, program.param_shardings)
    with jax.set_mesh(program.mesh):
        grads, *rest = jax.jit(partial(gradients, program))(
            params, {}, tiny.on_mesh(batch, program), carry, key
        )
    weight, metrics, load, carry = jax.device_get(rest)
    found = {"weight": weight, "metrics": metrics, "load": load or {}, "carry": carry or {}}
    return {"gradients": flatten(grads), **found}


@cache
def on_one_device(model: str, platform: str) -> dict[str, Any]:
    with target_platform(platform):
        found = step_of(program_of(model, tiny.ONE, ring=False), batch_of(model))
    return jax.device_get(found)


def assert_equal_on(model: str, mesh: MeshConfig, platform: str = "cpu", ring: bool = False):
    want = dict(on_one_device(model, platform))
    with target_platform(platform):
        program = program_of(model, mesh, ring)
        found = step_of(program, batch_of(model))
    assert found["weight"] == want["weight"] > 0
    for name, (total, weight) in want["metrics"].items():
        np.testing.assert_allclose(found["metrics"][name][0], total, rtol=BOUND, err_msg=name)
        assert found["metrics"][name][1] == weight
    jax.tree.map(np.testing.assert_array_equal, found["load"], want["load"])
    assert_near(found["carry"], want["carry"])
    if model == "question_answering":  # the softmax over a row's places does not see it
        for each in (found, want):
            each["gradients"] = dict(each["gradients"])
            assert np.abs(each["gradients"].pop("task_head/bias")).max() < 1e-6
    assert_near(found["gradients"], want["gradients"])
    shardings = flatten(program.update_shardings)
    for path, gradient in found["gradients"].items():
        sharding = shardings[path]
        assert gradient.sharding.is_equivalent_to(sharding, gradient.ndim), path


def assert_near(found: dict[str, Any], want: dict[str, Any]) -> None:
    """Each array within the bound of its largest; a bias of choices alone has no gradient."""
    found, want = flatten(found), flatten(want)
    assert found.keys() == want.keys()
    for path, array in want.items():
        largest = np.abs(array).max()
        assert (largest > 0) != path.endswith("choice_bias"), path
        assert np.abs(np.asarray(found[path]) - array).max() <= BOUND * largest, path


@pytest.mark.parametrize(
    ("model", "mesh"),
    [
        pytest.param(model, mesh, marks=[pytest.mark.slow] * ((model, mesh) in SLOW))
        for model, meshes in TABLE.items()
        for mesh in meshes
    ],
)
def test_a_gradient_does_not_depend_on_the_mesh(model, mesh):
    assert_equal_on(model, MESHES[mesh], ring="ring" in mesh)


@pytest.mark.parametrize("model", ["decoder", "lstm"])
def test_nor_with_what_accelerators_take(model):
    """Kernels that are not picked on CPUs, such as the contraction that keeps its dims apart."""
    assert contract_kernels.pick() is not contract_kernels.pick("reference")
    assert_equal_on(model, MESHES["mixed"], "tpu")


def test_parts_of_the_batch_are_in_different_slices():
    """So that the order of devices above is not that of a mesh without slices."""
    for axis in ("data", "fsdp", "stage"):
        others = {"data": 1, axis: 2, "tensor": 4}
        devices = TwoSlices(**others, dcn=axis).build().devices.reshape(2, 4)
        numbers = np.vectorize(lambda device: device.id)(devices)
        slices = np.array(Chip.ORDER)[numbers] // 4
        np.testing.assert_array_equal(slices, [[0] * 4, [1] * 4])
        assert numbers.reshape(-1).tolist() != list(range(8))
