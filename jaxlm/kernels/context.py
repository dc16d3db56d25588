"""Self-attention where a mesh splits the length: who sends keys to whom.

    attend = context_kernels.pick("auto", bias=False, dropout=False, impl="auto")
    y = attend(q, k, v, rows, causal=True, window=None, softcap=None, scale=None, ...)

"reference" gathers the keys of the whole length on every device, which is soon done where few heads
have keys, and asks the attention kernels; on TPUs that is splash attention, whose work is even. In
"ring" keys pass by (jaxlm.kernels.ring), and no device holds more than its part.
"""

from __future__ import annotations

from typing import Any

import jax

from jaxlm.kernels.attention import attention
from jaxlm.kernels.registry import Kernel
from jaxlm.kernels.ring import How, ring_attention
from jaxlm.mesh import gather_length, on_each_device

context_kernels = Kernel("context")


@context_kernels.register("reference")
def _gather(q: jax.Array, k: jax.Array, v: jax.Array, rows: Any, **how: Any) -> jax.Array:
    """Queries stay: a kernel is asked that knows of parts of rows, or all scores are formed."""
    k, v, keys = jax.tree.map(gather_length, (k, v, rows))
    return attention(
        *(q, k, v),
        q_positions=rows.positions,
        k_positions=keys.positions,
        q_segment_ids=rows.segment_ids,
        k_segment_ids=keys.segment_ids,
        k_prefix=keys.prefix,
        same_rows=True,
        **how,
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
    causal: bool,
    window: int | None,
    softcap: float | None,
    scale: float | None,
    **_: Any,
) -> jax.Array:
    how = How(
        "context",
        causal=causal,
        window=window,
        softcap=softcap,
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
    )
    places = [x for x in rows if x is not None]  # positions, segment ids, perhaps a prefix

    def part(q: jax.Array, k: jax.Array, v: jax.Array, *places: jax.Array) -> jax.Array:
        return ring_attention(q, k, v, places[:2], places, how)

    heads, kv_heads = (("batch", "length", axis, None) for axis in ("act_heads", "act_kv_heads"))
    inputs = [heads, kv_heads, kv_heads, *(("batch", "length") for _ in places)]
    return on_each_device(part, inputs, heads)(q, k, v, *places)
