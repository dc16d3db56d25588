"""Causal self-attention on Nvidia's GPUs by cuDNN's fused kernel, which `jax.nn` calls.

Registered as "cudnn" under the signature of `jaxlm.kernels.attention.attention`, for rows that are
causal and of one order. Scores never leave the chip. It knows no sharding: each device runs it on
its rows and heads.

Documents and windows are told by a mask [B, T, T] that all heads share, and which the backward
pass forms anew. cuDNN can also be told where documents begin, without a mask; but then their number
is bounded when compiling, and what statistics it keeps grows with the bound, while a row of ours
may have as many documents as tokens. What lies right of the diagonal is skipped, mask or not.

It has no soft-cap. What else it cannot do is in `_supports`, as far as compiling tells it:
https://docs.nvidia.com/deeplearning/cudnn, and the checks of `jax.nn.dot_product_attention`.
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
IMPLEMENTATION: Literal["cudnn", "xla"] = "cudnn"  # "xla", for tests: what cuDNN is to compute


def _supports(
    *,
    causal: bool,
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
    one_order = causal and same_rows and not (prefix or split)
    described = one_order and not (bias or dropout or softcap)
    fits = dtype in DTYPES and length % 2 == 0 and size == value_size and size % 8 == 0
    return described and fits and size <= _max_head_dim()


def _max_head_dim() -> int:
    """0 on a GPU without cuDNN. GPUs that are only compiled for are taken for Ampere's, those that
    a plan describes for what they are.
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
        # Padding sees padding, as a document of its own: a softmax over nothing is no number. A
        # mask of bools has no gradient, which newer releases of jax than 0.10 do not form, either.
        ids = ids + 1
        seen = visible(positions, positions, ids, ids, causal=False, window=window)
        return jax.nn.dot_product_attention(
            *(q, k, v),
            mask=seen[:, None],
            scale=scale,
            is_causal=True,
            implementation=IMPLEMENTATION,
        )

    # Saved for the backward pass are what cuDNN gives and what it is given, but not the mask.
    part = jax.checkpoint(part, policy=_is_cudnn, prevent_cse=False)
    run = on_each_device(part, [heads, kv_heads, kv_heads, rows, rows], heads)
    out = run(q, k, v, q_positions, q_segment_ids)
    return jnp.where((q_segment_ids > 0)[:, :, None, None], out, 0)


def _is_cudnn(primitive: Any, *_: Any, **__: Any) -> bool:
    return str(primitive).startswith("dot_product_attention_fwd")
