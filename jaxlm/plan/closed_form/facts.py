"""Facts of a run for the analytic model: arrays with their axes, stacks of layers, rows.

    facts = facts_of(config)
    facts.params, facts.moments, facts.stacks[0].layers[0].maps

Everything comes from the program's own abstract state (shapes, dtypes, logical axes), from what the
kind of model says about its stacks (`jaxlm.plan.closed_form.stacks`) and from the rows that the
objective makes. Facts do not depend on a mesh; a search computes them once.

Work, memory and transfers count the tokens of the objective's rows, which may be more than those of
the data (blanks and their starts), or a source and a target. Tokens per second and MFU count the
tokens of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax

import jaxlm.plan.closed_form.recurrent_stacks  # noqa: F401  (registers itself)
import jaxlm.plan.closed_form.transformer_stacks  # noqa: F401  (registers itself)
from jaxlm.core.config import parse, type_name
from jaxlm.core.tree import flatten
from jaxlm.mesh import MeshConfig
from jaxlm.nn.stored_kernel import axes_of, bytes_of, plain_leaves, plain_path
from jaxlm.optim.optimizer import state_axes
from jaxlm.plan.closed_form.stacks import (
    Array,
    Layers,
    Rows,
    Stack,
    UnknownModel,
    check_known,
    stacks_of,
)
from jaxlm.plan.shapes import row_of, seq_len_of, source_of, tokens_of
from jaxlm.run import RunConfig
from jaxlm.training.build import learner_of
from jaxlm.training.learner import Learner

EIGHT_BITS = {"int8": "s8", "fp8": "f8"}  # `model.quantization` as programs name it


@dataclass(frozen=True)
class Facts:
    """A run without its mesh and its remat policy."""

    config: RunConfig
    params: tuple[Array, ...]
    frozen: frozenset[str]  # paths of parameters without a gradient
    moments: tuple[Array, ...]
    stacks: tuple[Stack, ...]  # the one that writes first
    seq_len: int  # tokens of a row of the objective
    data_len: int  # tokens of the data in a row
    row_bytes: int
    hidden: int  # width of the head's input
    vocab: int
    itemsize: int  # bytes of the compute dtype
    dtype: str
    map_dtype: str  # that the layers' maps are multiplied in
    tied: bool
    forward_flops: tuple[float, float]  # a token of data; with attention's causal half, with all
    step_flops: tuple[float, float]  # equally, of a step: 3 times as many, less frozen gradients

    @property
    def trained(self) -> tuple[Array, ...]:
        """The parameters that have a gradient."""
        return tuple(array for array in self.params if array.path not in self.frozen)

    @property
    def trains_head(self) -> bool:
        """Whether the kernel that gives the logits has a gradient."""
        return ("embed/table" if self.tied else "unembed/kernel") not in self.frozen

    @property
    def layers(self) -> tuple[Layers, ...]:
        """The layers of all stacks."""
        return tuple(layers for stack in self.stacks for layers in stack.layers)

    @property
    def policies(self) -> tuple[str, ...]:
        """The remat policies that every stack supports."""
        first, *rest = self.stacks
        return tuple(p for p in first.policies if all(p in stack.policies for stack in rest))

    @property
    def splits_length(self) -> bool:
        """Whether context splits the rows of every stack."""
        return all(stack.splits_length for stack in self.stacks)


def facts_of(config: RunConfig) -> Facts:
    """Raises `UnknownModel` for a model that the analytic model does not know."""
    config = config.replace(model=config.model.computing_on("tpu"))  # not on this host
    model: Any = config.model
    check_known(model)
    one = parse(MeshConfig, {"data": 1, "num_devices": 1}).build(jax.devices()[:1])
    learner = learner_of(
        config.replace(mesh=MeshConfig(), train=config.train.replace(accumulation=1)), one
    )
    program = learner.program
    stored, axes = flatten(program.abstract_params), flatten(program.param_axes)
    if config.objective.task_head is not None:
        raise UnknownModel(
            f"objective: the analytic model does not know a {type_name(type(config.objective))}; "
            "plan it for a TPU topology, where the step is compiled"
        )
    params = tuple(
        Array(path, leaf.shape, bytes_of(path, stored), axes_of(path, axes))
        for path, leaf in plain_leaves(stored).items()
    )
    row, data_len = row_of(config), seq_len_of(config)
    seq_len = tokens_of(row)
    rows = Rows(length=seq_len, source=source_of(row), prefix="prefix" in row)
    stacks = stacks_of(model, params, rows)
    forward, step = program.flops_per_token(data_len), program.step_flops_per_token(data_len)
    computed = seq_len / data_len
    unseen = sum(
        look.score_flops * (look.all_keys - look.keys) * stack.length / seq_len
        for stack in stacks
        for look in stack.looks
    )
    dtype = "bf16" if model.dtype == "bfloat16" else "f32"
    return Facts(
        config=config,
        params=params,
        frozen=frozenset(map(plain_path, program.frozen)),
        moments=_moments(learner, config),
        stacks=stacks,
        seq_len=seq_len,
        data_len=data_len,
        row_bytes=sum(math.prod(s) * dtype.itemsize for s, dtype in map(row.typed, row)),
        hidden=model.output_size,
        vocab=model.vocab_size or 1,
        itemsize=2 if model.dtype == "bfloat16" else 4,
        dtype=dtype,
        map_dtype=EIGHT_BITS.get(getattr(model, "quantization", None) or "", dtype),
        tied=not any(p.path.startswith("unembed/kernel") for p in params),
        forward_flops=(forward * computed, (forward + unseen) * computed),
        step_flops=(step * computed, (step + 3 * unseen) * computed),
    )


def _moments(learner: Learner, config: RunConfig) -> tuple[Array, ...]:
    program, shapes = learner.program, learner.abstract_state()
    split = program.trained(program.param_axes)
    names = state_axes(shapes["opt_state"], program.trained(program.abstract_params), split)
    offload = bool(getattr(config.optimizer, "offload", False))
    found = []
    leaves = jax.tree_util.tree_leaves_with_path(shapes["opt_state"])
    for (keys, leaf), axes in zip(leaves, names, strict=True):
        path = "/".join(str(getattr(k, "key", getattr(k, "name", ""))) for k in keys)
        found.append(Array(path, leaf.shape, leaf.dtype.itemsize, axes, offload and bool(axes)))
    if "ema" in shapes:
        found += [
            Array(f"ema/{path}", x.shape, x.dtype.itemsize, tuple(flatten(split)[path]))
            for path, x in flatten(shapes["ema"]).items()
        ]
    return tuple(found)
