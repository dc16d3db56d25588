"""The attention of a recurrent decoder to its source: additive and multiplicative.

With q a state of the decoder and k_s the encoder's output at place s, weights are the softmax over
the places of the document's own source of

    additive  v . tanh(W q + U k_s)    Bahdanau et al. 2015 (arXiv:1409.0473, appendix A.1.2);
                                       Luong's "concat", tanh(W [q; k_s]), is the same
    general   q . W k_s                Luong et al. 2015 (arXiv:1508.04025, section 3.1)
    dot       q . k_s

and the context is the weighted sum of the k_s. A query of segment i sees the places of segment i of
its row's source; without a source, and in padding, the context is 0.

    attention = Additive(query=H, source=D, size=A, rngs=rngs)
    source = attention.prepare(hidden, segment_ids)
    context = look(attention, attention.weights(), q, segments, source)     # [B, Q, D]

What depends on the source alone is computed once. `weights` are whole on every device, for use in a
loop over time. Scores and their softmax are float32.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.kernels.attention import wide_einsum
from jaxlm.mesh import shard
from jaxlm.nn.dense import Dense, whole
from jaxlm.nn.flops import matmul_flops
from jaxlm.nn.recurrent_layer import uniform_kernel

Source = dict[str, Any]  # "keys" [B, S, A], "values" [B, S, D], "segment_ids" [B, S]


class SourceAttention(nnx.Module):
    """The base: scores of queries and prepared keys.

    `query`, `source`: widths of a query and of the encoder's output; `size`: of additive scores.
    """

    def __init__(self, query: int, source: int, size: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        self.size = query

    @jax.named_scope("attention")
    def prepare(self, hidden: jax.Array, segment_ids: jax.Array) -> Source:
        """An encoder's output [B, S, D] for `look`; padding is 0, since 0 * NaN is NaN."""
        values = jnp.where((segment_ids > 0)[..., None], hidden, 0)
        parts = {"keys": self.keys(values), "values": values}
        parts = {name: shard(x, "batch", None, None) for name, x in parts.items()}
        return parts | {"segment_ids": segment_ids}

    def keys(self, hidden: jax.Array) -> jax.Array:  # [B, S, D] -> [B, S, A]
        raise NotImplementedError

    def weights(self) -> Any:
        """The arrays that `scores` needs."""
        return ()

    def scores(self, weights: Any, query: jax.Array, keys: jax.Array) -> jax.Array:
        """[B, Q, H], [B, S, A] -> [B, Q, S] float32."""
        return wide_einsum("BQH,BSH->BQS", query, keys)

    def source_flops(self) -> float:
        """For each place, of `keys`."""
        return 0.0

    def score_flops(self) -> float:
        """For each pair of a query and a place, its part of the context left out."""
        return 2.0 * self.size


class Additive(SourceAttention):
    def __init__(self, query: int, source: int, size: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        self.query = Dense({"embed": query}, {"gates": size}, dtype=dtype, rngs=rngs)
        self.key = Dense({"embed": source}, {"gates": size}, dtype=dtype, rngs=rngs)
        self.score = nnx.Param(uniform_kernel((size,), size, rngs), axes=("gates",))
        self.size = size

    def keys(self, hidden: jax.Array) -> jax.Array:
        return self.key(hidden)

    def source_flops(self) -> float:
        return matmul_flops(self.key)

    def weights(self) -> Any:
        return whole(self.query.adapted_kernel(), self.query.dtype), whole(self.score, jnp.float32)

    def scores(self, weights: Any, query: jax.Array, keys: jax.Array) -> jax.Array:
        kernel, score = weights
        both = (query @ kernel)[:, :, None] + keys[:, None]  # [B, Q, S, A]
        return jnp.tanh(both.astype(jnp.float32)) @ score


class General(SourceAttention):
    def __init__(self, query: int, source: int, size: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        super().__init__(query, source, size, dtype=dtype, rngs=rngs)
        self.key = Dense({"embed": source}, {"gates": query}, dtype=dtype, rngs=rngs)

    def keys(self, hidden: jax.Array) -> jax.Array:
        return self.key(hidden)

    def source_flops(self) -> float:
        return matmul_flops(self.key)


class Dot(SourceAttention):
    def keys(self, hidden: jax.Array) -> jax.Array:
        return hidden


@jax.named_scope("attention")
def look(
    attention: SourceAttention,
    weights: Any,
    query: jax.Array,  # [B, Q, H]
    segment_ids: jax.Array,  # [B, Q] of the queries
    source: Source,
) -> jax.Array:
    """The contexts of the queries, [B, Q, D] in the dtype of the source."""
    values = source["values"]
    scores = attention.scores(weights, query.astype(values.dtype), source["keys"])
    seen = segment_ids[:, :, None] == source["segment_ids"][:, None]
    seen &= segment_ids[:, :, None] > 0  # [B, Q, S]
    scores = jnp.where(seen, scores, -1e30)  # finite, so that a query that sees nothing has no NaN
    probs = jnp.where(seen, jax.nn.softmax(scores), 0).astype(values.dtype)
    return jnp.einsum("BQS,BSD->BQD", probs, values)
