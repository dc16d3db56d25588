"""Attention on TPUs by the splash kernel of jax: blocks of scores never leave the chip.

Registered as "splash" under the signature of `jaxlm.kernels.attention.attention`. Documents are
separated by segment ids. The mask of the order within a row is known at compile time, and blocks
that it hides are skipped:

    is_causal      hides keys right of the diagonal, and those further away than the window
    bidirectional  hides no key, or those further away than the window on either side
    other rows     hides no key: queries and keys are of two texts, such as a source and its target
    with a prefix  the keys are given twice: first as a prefix, which every query may see, then
                   again with a causal mask; each copy has segment ids only for its own kind of
                   keys. This computes 3/2 of a row's pairs and holds the keys twice, but needs no
                   mask of pairs. (The kernel's dynamic masks are arrays [N, T, S] for each row of
                   a batch.)

If the mesh splits the length, a device has a part of the queries and all keys. Causal work would be
uneven, so chunks of queries are permuted first, as in `jaxlm.kernels.ring`, and the mask with them.
A window that is not longer than a part is even without that. The kernel does not partition rows and
heads: each device runs it on its own.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.kernels.attention import attention_kernels
from jaxlm.kernels.ring import zigzag
from jaxlm.mesh import num_parts, on_each_device, splits_length

LANES = 128  # lanes of a TPU's vector unit: the smallest block
BLOCK = 512  # rows and columns of a block of scores, where they divide the length
# Columns of a block in the backward pass. Each block writes a gradient of every query to memory,
# and computes half of its pairs in vain on the diagonal. With four blocks in a causal row, both
# costs are small; more columns than these, of 128 numbers, do not fit.
BLOCKS, WIDE = 4, 2048
INTERPRET = False  # for tests: runs the kernel's program on a CPU, slowly
NOBODY = -1  # a segment id that no query has
# Scopes in a program's text, from which `jaxlm.plan.hlo.kernels` reads the mask of a kernel's call.
FULL, PREFIX = "full_mask", "prefix_mask"


def _supports(
    *,
    is_causal: bool,
    prefix: bool,
    window: bool,
    same_rows: bool,
    split: bool,
    bias: bool,
    dropout: bool,
    length: int,
    keys: int,
    **_: Any,
) -> bool:
    if bias or dropout or keys % LANES:
        return False
    if not same_rows:
        return not (is_causal or prefix or window) and length % LANES == 0
    chunks = 2 if split and is_causal else 1
    return length % (chunks * LANES) == 0 and not (prefix and window)


@attention_kernels.register("splash", auto_on=("tpu",), supports=_supports)
def _splash(
    q: jax.Array,  # [B, T, N, H]
    k: jax.Array,  # [B, S, K, H]
    v: jax.Array,  # [B, S, K, H']
    *,
    q_segment_ids: jax.Array,
    k_segment_ids: jax.Array,
    k_prefix: jax.Array | None,
    is_causal: bool,
    window: int | None,
    softcap: float | None,
    scale: float,
    **_: Any,
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    parts = num_parts("context") if splits_length(q.shape[1]) else 1
    swaps = is_causal and parts > 1 and (window is None or window > q.shape[1] // parts)
    k_prefix = k_prefix if is_causal else None  # bidirectional attention sees the prefix anyway
    prefix = k_prefix is not None
    mask = Mask(q.shape[1], k.shape[1], is_causal, window, prefix, parts, swaps)
    if mask.is_full:  # which is one for all parts
        mask = mask._replace(queries=mask.chunk, parts=1)
    arrays, tree = jax.tree.flatten(_kernel(mask, softcap, max(q.shape[3], v.shape[3])))
    turn = partial(zigzag, axis="context") if swaps else lambda x, **_: x
    k_ids = k_segment_ids if k_prefix is None else _by_kind(k_segment_ids, k_prefix)

    def part(q: Any, k: Any, v: Any, q_ids: Any, k_ids: Any, *arrays: Any) -> jax.Array:
        if prefix:
            k, v = (jnp.concatenate([x, x], axis=1) for x in (k, v))
        q, k, v = (jnp.moveaxis(x, 2, 1) for x in (turn(q), k, v))  # heads before length
        ids = SegmentIds(turn(q_ids), k_ids)
        with jax.named_scope(mask.scope):
            out = jax.vmap(jax.tree.unflatten(tree, arrays))(q, k, v, ids)
        return turn(jnp.moveaxis(out, 1, 2), back=True)

    queries = ("batch", "length", "act_heads", None)
    keys = ("batch", None, "act_kv_heads", None)
    rows = "length" if mask.parts > 1 else None
    masks = [(rows,) if x.ndim == 1 else (None, rows, None) for x in arrays]
    inputs = [queries, keys, keys, ("batch", "length"), ("batch", None), *masks]
    run = on_each_device(part, inputs, queries)
    out = run(q * jnp.asarray(scale, q.dtype), k, v, q_segment_ids, k_ids, *arrays)
    # Padding is a document to the kernel, which no query may see.
    sees = q_segment_ids > 0
    if mask.is_full:  # the keys may be of another text, without a document for a query
        sees &= (q_segment_ids[:, :, None] == k_segment_ids[:, None, :]).any(-1)
    return jnp.where(sees[:, :, None, None], out, 0)


def _by_kind(ids: jax.Array, prefix: jax.Array) -> jax.Array:
    """Segment ids of duplicated keys: [B, S] for the prefix, then [B, S] for the others."""
    return jnp.concatenate([jnp.where(prefix, ids, NOBODY), jnp.where(prefix, NOBODY, ids)], axis=1)


class Mask(NamedTuple):
    """The mask of the order within rows, which is known at compile time."""

    queries: int
    keys: int
    is_causal: bool
    window: int | None
    prefix: bool  # the keys are given twice
    parts: int  # devices that the queries are split over
    swaps: bool  # each device has an early and a late chunk of them

    @property
    def is_full(self) -> bool:
        return not self.is_causal and self.window is None

    @property
    def scope(self) -> str:
        return FULL if self.is_full else PREFIX if self.prefix else "mask"

    @property
    def chunk(self) -> int:
        """Queries that stay next to each other."""
        return self.queries // self.parts // (2 if self.swaps else 1)

    def build(self) -> Any:
        """The kernel's own mask of queries, in the order of the devices that have them."""
        from jax.experimental.pallas.ops.tpu import splash_attention as splash

        shape = (self.queries, self.keys * (2 if self.prefix else 1))
        if self.is_full:
            return splash.FullMask(shape)
        mask: Any
        if self.window is None:
            mask = splash.CausalMask(shape, offset=self.keys if self.prefix else 0)
        else:
            back = self.window - 1
            mask = splash.LocalMask(shape, (back, 0 if self.is_causal else back), 0)
        if self.swaps:
            chunks = mask.q_sequence.reshape(2 * self.parts, -1)
            order = [c for i in range(self.parts) for c in (i, 2 * self.parts - 1 - i)]
            mask.q_sequence = chunks[order].reshape(-1)
        return mask


def wide_columns(keys: int, head_dim: int) -> int:
    """Columns of a block in the backward pass."""
    fit = WIDE * LANES // max(head_dim, LANES)
    return math.gcd(keys, _power_of_two(min(fit, max(BLOCK, keys // BLOCKS))))


def _power_of_two(most: int) -> int:
    return 1 << (most.bit_length() - 1)


def _kernel(mask: Mask, softcap: float | None, head_dim: int) -> Any:
    """(q [N, T, H], k [K, S, H], v [K, S, H'], SegmentIds(q [T], kv [S])) -> [N, T, H']

    A pytree of the mask's blocks, [1, T blocks, S blocks], and the positions of the queries [T],
    sharded so that each device has the mask of its own queries.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    rows, columns = math.gcd(mask.chunk, BLOCK), math.gcd(mask.keys, BLOCK)
    wide = wide_columns(mask.keys, head_dim)
    return splash.make_splash_mha(
        splash.MultiHeadMask([mask.build()]),  # one mask for every head
        block_sizes=splash.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_q_dkv=rows,
            block_kv_dkv=wide,
            block_kv_dkv_compute=min(columns, wide),
            use_fused_bwd_kernel=True,
        ),
        head_shards=1,
        q_seq_shards=mask.parts,
        attn_logits_soft_cap=softcap,
        residual_checkpoint_name="attention",  # so that saving attention also saves its sums
        interpret=INTERPRET,
    )
