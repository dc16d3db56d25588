"""Causal self-attention on Nvidia's GPUs by cuDNN's fused kernel, which `jax.nn` calls.

Registered as "cudnn" under the signature of `jaxlm.kernels.attention.attention`, for rows that are
causal and in the order of the text. Scores never leave the chip. The kernel cannot be partitioned:
each device runs it on its own rows and heads.

Documents and windows are a mask [B, T, T] that all heads share; the backward pass recomputes it.
cuDNN also accepts offsets of documents instead of a mask. But then the number of documents is
bounded at compile time and the saved statistics grow with the bound, while a row here may have as
many documents as tokens. Scores right of the diagonal are skipped with or without a mask.

It has no soft-cap. `_supports` has the other limits that are known at compile time, from
https://docs.nvidia.com/deeplearning/cudnn and the checks of `jax.nn.dot_product_attention`.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxlm.core.config import UserError
from jaxlm.kernels.attention import attention_kernels, visible
from jaxlm.kernels.registry import described_gpu, platform
from jaxlm.mesh import on_each_device

DTYPES = ("bfloat16", "float16")
CUDA = ("jax_cuda13_plugin", "jax_cuda12_plugin")  # other GPUs have no cuDNN
IMPLEMENTATION: Literal["cudnn", "xla"] = (
    "cudnn"  # "xla", for tests: the reference of cuDNN's result
)


def _supports(
    *,
    is_causal: bool,
    prefix: bool,
    same_rows: bool,
    split: bool,
    bias: bool,
    dropout: bool,
    length: int,
    softcap: bool,
    dtype: str,
    head_dims: tuple[int, int],
    **_: Any,
) -> bool:
    size, value_size = head_dims
    one_order = is_causal and same_rows and not (prefix or split)
    described = one_order and not (bias or dropout or softcap)
    fits = dtype in DTYPES and length % 2 == 0 and size == value_size and size % 8 == 0
    return described and fits and size <= max_head_dim()


def max_head_dim() -> int:
    """The largest head size of the GPU; 0 without cuDNN. A GPU that is only compiled for counts as
    Ampere; a GPU that a plan describes has its own compute capability.
    """
    described = described_gpu()
    if described is None and platform() == "gpu" and not any(map(importlib.util.find_spec, CUDA)):
        return 0
    capability = 8.0 if described is None else described
    if described is None and jax.default_backend() == "gpu":
        capability = float(jax.local_devices()[0].compute_capability)
    return 256 if capability >= 9 else 128 if capability >= 8 else 0


@attention_kernels.register("cudnn", auto_on=("gpu",), supports=_supports)
def _cudnn(
    q: jax.Array,  # [B, T, N, H]
    k: jax.Array,  # [B, T, K, H]
    v: jax.Array,  # [B, T, K, H]
    *,
    q_positions: jax.Array,
    q_segment_ids: jax.Array,
    window: int | None,
    scale: float,
    **_: Any,
) -> jax.Array:
    if IMPLEMENTATION == "cudnn" and platform() != "gpu":
        raise UserError(f"attention.impl: cudnn runs on GPUs, not on {platform()}; use auto")
    heads, kv_heads = (("batch", None, axis, None) for axis in ("act_heads", "act_kv_heads"))
    rows = ("batch", None)

    def part(
        q: jax.Array, k: jax.Array, v: jax.Array, positions: jax.Array, ids: jax.Array
    ) -> jax.Array:
        # Padding attends to padding, as a document of its own: a softmax over nothing is NaN. A
        # bool mask has no gradient; jax after 0.10 does not compute one for other masks either.
        ids = ids + 1
        seen = visible(positions, positions, ids, ids, is_causal=False, window=window)
        return jax.nn.dot_product_attention(
            q,
            k,
            v,
            mask=seen[:, None],
            scale=scale,
            is_causal=True,
            implementation=IMPLEMENTATION,
        )

    # The backward pass saves cuDNN's inputs and outputs, except the mask.
    part = jax.checkpoint(part, policy=_is_cudnn, prevent_cse=False)
    run = on_each_device(part, [heads, kv_heads, kv_heads, rows, rows], heads)
    out = run(q, k, v, q_positions, q_segment_ids)
    return jnp.where((q_segment_ids > 0)[:, :, None, None], out, 0)


def _is_cudnn(primitive: Any, *_: Any, **__: Any) -> bool:
    return str(primitive).startswith("dot_product_attention_fwd")
