"""Self-attention with the sequence split over a mesh axis (context parallelism).

    attend = context_kernels.pick("auto", bias=False, dropout=False, impl="auto")
    y = attend(q, k, v, rows, is_causal=True, window=None, softcap=None, scale=None, ...)

"reference" all-gathers the keys, which is cheap with few kv heads, and calls the attention kernels;
on TPUs that is splash attention with balanced work. "ring" rotates the keys
(jaxlm.kernels.ring), so that no device holds more than two parts of them.
"""

from __future__ import annotations

from typing import Any

import jax

from jaxlm.kernels.attention import attention
from jaxlm.kernels.registry import Kernel
from jaxlm.kernels.ring import Static, ring_attention
from jaxlm.mesh import gather_length, on_each_device

context_kernels = Kernel("context")


@context_kernels.register("reference")
def _gather(q: jax.Array, k: jax.Array, v: jax.Array, rows: Any, **options: Any) -> jax.Array:
    """Queries stay on their device; keys and values are all-gathered."""
    k, v, keys = jax.tree.map(gather_length, (k, v, rows))
    return attention(
        q,
        k,
        v,
        q_positions=rows.positions,
        k_positions=keys.positions,
        q_segment_ids=rows.segment_ids,
        k_segment_ids=keys.segment_ids,
        k_prefix=keys.prefix,
        same_rows=True,
        **options,
    )


def _supports_ring(*, bias: bool, dropout: bool, impl: str) -> bool:
    return not (bias or dropout) and impl == "auto"


@context_kernels.register("ring", supports=_supports_ring)
def _ring(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    rows: Any,
    *,
    is_causal: bool,
    window: int | None,
    softcap: float | None,
    scale: float | None,
    **_: Any,
) -> jax.Array:
    static = Static(
        "context",
        is_causal=is_causal,
        window=window,
        softcap=softcap,
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
    )
    places = [x for x in rows if x is not None]  # positions, segment ids, perhaps a prefix

    def part(q: jax.Array, k: jax.Array, v: jax.Array, *places: jax.Array) -> jax.Array:
        return ring_attention(q, k, v, places[:2], places, static)

    heads, kv_heads = (("batch", "length", axis, None) for axis in ("act_heads", "act_kv_heads"))
    inputs = [heads, kv_heads, kv_heads, *(("batch", "length") for _ in places)]
    return on_each_device(part, inputs, heads)(q, k, v, *places)
