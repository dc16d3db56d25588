"""The computation of attention on a topology, and the memory of its scores.

    splash    a kernel, like cudnn and flash: no score leaves the chip, blocks on the diagonal are
              whole, and backward costs 2.5 times as much as forward; parts of a split length are
              even work.
              Backward, blocks are wider, and each of them leaves a gradient of all queries in
              memory until they are summed
    ring      keys rotate: scores of one pair of chunks at a time; backward 2.5 times
    blocked   causal, by blocks of queries: a layer's scores are in memory for its backward pass
    whole     all pairs of queries and keys: like `blocked`, without the savings of causality

The registries of kernels decide, as they do when the step is traced on that platform. For a GPU of
a topology they are asked as on a machine with all its libraries.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxlm.kernels.attention import MAX_BLOCKS, MIN_BLOCK, attention_kernels
from jaxlm.kernels.registry import target_platform
from jaxlm.kernels.splash import wide_columns
from jaxlm.plan.closed_form.setting import Setting
from jaxlm.plan.closed_form.stacks import Look, Stack, token_part

KERNELS = ("splash", "cudnn", "flash")
BACKWARD = 2.5  # cost of a kernel's backward pass relative to forward, with equal blocks
LANES = 128  # columns of a TPU's tile, which a narrower array fills as well
SCORE_PASSES = 8  # times that float32 scores go through HBM where no kernel keeps them on the chip


@dataclass(frozen=True)
class Scores:
    """The cost of attention for one token on one device."""

    kind: str
    layers: int  # layers with this kind of attention
    keys: float  # keys per query, summed over the layers, in whole blocks
    forward_again: float  # forward passes that the backward pass repeats
    backward: float  # its cost, forward 1
    kept_bytes: float  # saved by a layer between forward and backward
    working_bytes: float  # live while a layer is computed
    hbm_bytes: float  # summed over the layers


def scores_of(look: Look, stack: Stack, setting: Setting, platform: str) -> Scores:
    """The cost of one kind of attention of a stack in a setting."""
    kind = kind_of(look, stack, setting, platform)
    kept, layers = setting.kept(stack), look.layers
    heads = look.num_heads / setting.along("tensor")
    again = kept.recomputes_attention
    length = look.keys_length
    if kind in (*KERNELS, "ring"):
        chunk = length / setting.along("context") / 2
        block = min(setting.block, length if setting.along("context") == 1 else chunk)
        keys = look.met(chunk if kind == "ring" else block)
        backward, working, hbm = BACKWARD, 0.0, 0.0
        if kind == "ring":
            working = heads * 4 * 2 * chunk
            hbm = SCORE_PASSES * heads * 4 * keys * (3 + again)
        if kind == "cudnn":
            working = 2.0 * length  # a mask, which all heads share
        if kind == "splash":
            there = 2 * length if look.prefix else length  # with a prefix the keys are given twice
            wide = max(block, wide_columns(there, max(look.head_dims)))
            keys += layers * (there - length)
            backward *= (look.met(wide) + layers * (there - length)) / keys
            query = token_part(look.tensors["query"], setting.mesh) * look.itemsize
            if there > wide:  # written by each block of columns, and read for their sum
                working = query * there / wide
                hbm = 2 * layers * working
        return Scores(kind, layers, keys, float(again), backward, 0.0, working, hbm)
    if kind == "blocked":
        keys = look.met(max(MIN_BLOCK, length / MAX_BLOCKS))
    else:
        keys = float(layers * length)
    one = heads * keys / layers * (4 + look.itemsize)  # float32, and as the values' dtype
    keeps = one if kept.policy in ("none", "minimal") else 0.0
    repeated = 0.0 if kept.policy == "none" else 1.0
    hbm = SCORE_PASSES * heads * 4 * keys * (1 + repeated)
    working = 2 * one
    if look.asked.get("bias"):  # looked up for each pair of tokens, its heads in whole tiles
        working += 4 * keys / layers * (-(-heads // LANES) * LANES if platform == "tpu" else heads)
    return Scores(kind, layers, keys, repeated, 2.0, keeps, working, hbm)


def kind_of(look: Look, stack: Stack, setting: Setting, platform: str) -> str:
    """The implementation that the kernels' registries would pick."""
    parts = setting.along("context")
    if parts > 1 and look.same_rows and setting.context == "ring":
        return "ring"
    if not look.asked:
        return "whole"
    with target_platform(platform, gpu=setting.gpu if platform == "gpu" else None):
        function = attention_kernels.pick(
            **look.asked,
            prefix=look.prefix,
            same_rows=look.same_rows,
            split=parts > 1,
            length=stack.length // parts,
            keys=look.keys_length,
            head_dims=look.head_dims,
        )
    names = {id(i.function): i.name for i in attention_kernels.implementations.values()}
    name = names[id(function)]
    return "whole" if name == "reference" else name
