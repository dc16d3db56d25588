"""Causal self-attention on TPUs by the splash kernel of jax: blocks of scores never leave the chip.

Registered as "splash" under the signature of `jaxlm.kernels.attention.attention`, for rows that are
causal, of one order, and as long as a whole number of blocks. The kernel sees documents by their
segment ids and skips blocks that the window or the diagonal hides. It knows no sharding: each
device runs it on its rows and heads.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.kernels.attention import attention_kernels
from jaxlm.mesh import on_each_device

LANES = 128  # of a TPU's vector unit: no block is smaller
BLOCK = 512  # rows and columns of a block of scores, where they divide the length
INTERPRET = False  # for tests: runs the kernel's program on a CPU, slowly


def _supports(
    *, causal: bool, same_rows: bool, bias: bool, dropout: bool, length: int, **_: Any
) -> bool:
    return causal and same_rows and not (bias or dropout) and length % LANES == 0


@attention_kernels.register("splash", auto_on=("tpu",), supports=_supports)
def _splash(
    q: jax.Array,  # [B, T, N, H]
    k: jax.Array,  # [B, T, K, H]
    v: jax.Array,  # [B, T, K, H']
    *,
    q_segment_ids: jax.Array,
    k_segment_ids: jax.Array,
    window: int | None,
    softcap: float | None,
    scale: float,
    **_: Any,
) -> jax.Array:
    heads, kv_heads = (("batch", None, axis, None) for axis in ("act_heads", "act_kv_heads"))
    rows = ("batch", None)

    def part(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
        one = _kernel(q.shape[1], q.shape[2], window, softcap)
        q, k, v = (jnp.moveaxis(x, 2, 1) for x in (q, k, v))  # heads before length
        return jnp.moveaxis(jax.vmap(one)(q, k, v, ids), 1, 2)

    run = on_each_device(part, [heads, kv_heads, kv_heads, rows], heads)
    out = run(q * jnp.asarray(scale, q.dtype), k, v, q_segment_ids)
    # padding is a document to the kernel, which nothing may see
    return jnp.where((q_segment_ids > 0)[:, :, None, None], out, 0)


def _kernel(length: int, num_heads: int, window: int | None, softcap: float | None) -> Any:
    """(q [N, T, H], k [K, T, H], v [K, T, H'], segment ids [T]) -> [N, T, H']"""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    shape = (length, length)
    mask = (
        splash.CausalMask(shape) if window is None else splash.LocalMask(shape, (window - 1, 0), 0)
    )
    block = math.gcd(length, BLOCK)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        use_fused_bwd_kernel=True,
    )
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([mask] * num_heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
        residual_checkpoint_name="attention",  # so that who keeps that keeps its sums as well
        interpret=INTERPRET,
    )
    return lambda q, k, v, ids: kernel(q, k, v, splash.SegmentIds(ids, ids))
