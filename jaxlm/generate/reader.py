"""A model that reads prompts and then token after token: what every way of writing text does.

    reader = Reader(program, params, tokens, real, max_tokens, pad_id)   # within a jitted function
    logits, cache = reader.begin()                     # [B, V] after the prompts
    logits, cache = reader(tokens, turn, cache)        # [B, T, V] after T more tokens a row

Where a model has an encoder, that one reads the prompts, and what is written begins with the
model's `start_id`, which is not part of the text. So it does where a model fills blanks: it reads
the whole of a prompt at once, and what it writes has the place of the prompt's first blank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.types import ModelConfig
from jaxlm.training.program import Program


class Reader:
    """A model that has prompts [B, P] to read, and reads on from them (traceable)."""

    def __init__(
        self,
        program: Program,
        params: Any,
        tokens: jax.Array,
        real: jax.Array,  # [B, P], 0 is padding on the left
        max_tokens: int,
        pad_id: int,
    ) -> None:
        model = self.model = nnx.merge(program.graphdef, params)
        self.encoded, positions = None, jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0)
        if program.model.encodes:
            start, one = program.model.start_id, jnp.ones((len(tokens), 1), jnp.int32)
            self.encoded = model.encode(tokens, positions=positions, segment_ids=real)
            tokens, real = one * (pad_id if start is None else start), one
            positions = one * 0
        self.blank: jax.Array | None = None  # [B, 1] its place, where blanks are filled
        rows = {"positions": positions, "segment_ids": real}
        if program.model.fills_blanks:
            tokens, rows = self._before_a_blank(program.model, tokens, rows, pad_id)
        self.tokens, self.rows = tokens, rows
        self.next = rows["positions"][:, -1:] + 1  # [B, 1]
        self.max_len = tokens.shape[1] + max_tokens

    def begin(self) -> tuple[jax.Array, Any]:
        """Logits [B, V] of the first new token, and the cache."""
        cache = self.model.init_cache(len(self.tokens), self.max_len, self.encoded)
        hidden, cache, *_ = self.model(self.tokens, **self.rows, cache=cache)
        return self.model.logits(hidden[:, -1:])[:, 0], cache

    def __call__(
        self,
        tokens: jax.Array,  # [B, T], or [B * beams, T]
        turn: jax.Array,  # of the first of them, counted from the first new token
        cache: Any,
    ) -> tuple[jax.Array, Any]:
        """Logits [B, T, V] after each of T more tokens a row, and the cache with them."""
        copies, index = len(tokens) // len(self.next), turn + jnp.arange(tokens.shape[1])
        where: dict[str, jax.Array] = {}
        if self.blank is not None:  # the start is number 1 there
            blank = jnp.repeat(self.blank, copies, axis=0)
            where["places"] = jnp.stack(jnp.broadcast_arrays(blank, index + 2), axis=-1)
        hidden, cache, *_ = self.model(
            tokens,
            positions=jnp.repeat(self.next, copies, axis=0) + index,
            segment_ids=jnp.ones(tokens.shape, jnp.int32),
            cache=cache,
            **where,
        )
        return self.model.logits(hidden), cache

    def _before_a_blank(
        self, model: ModelConfig, tokens: jax.Array, rows: dict[str, jax.Array], pad_id: int
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Prompts that see all of themselves, and the start of what fills their first blank."""
        is_blank = jnp.isin(tokens, jnp.asarray(model.blank_ids)) & (rows["segment_ids"] > 0)
        first = is_blank.argmax(axis=1)[:, None]
        blank = self.blank = jnp.take_along_axis(rows["positions"], first, axis=1)
        start, one = model.start_id, jnp.ones_like(first)
        places = jnp.stack([rows["positions"], jnp.zeros_like(tokens)], axis=-1)
        begun = jnp.stack([blank, one], axis=-1)
        after = {
            "positions": rows["positions"][:, -1:] + 1,
            "segment_ids": one,
            "places": begun,
            "prefix": jnp.zeros_like(one, bool),
        }
        rows = rows | {"places": places, "prefix": rows["segment_ids"] > 0}
        join = lambda a, b: jnp.concatenate([a, b.astype(a.dtype)], axis=1)  # noqa: E731
        tokens = join(tokens, one * (pad_id if start is None else start))
        return tokens, {name: join(rows[name], after[name]) for name in rows}

    def taker(self) -> Callable[[Any, jax.Array], Any]:
        """A function that takes rows of a cache, whatever its arrays are.

        The rows of an array are along the dim whose size is the number of rows.
        """

        def make(rows: int) -> Any:
            source = jax.tree.map(lambda x: jnp.resize(x, (rows, *x.shape[1:])), self.encoded)
            return self.model.init_cache(rows, self.max_len, source)

        def dim(a: Any, b: Any) -> int:
            differ = [d for d, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n]
            return differ[0] if differ else -1

        dims = jax.tree.map(dim, *(jax.eval_shape(lambda n=n: make(n)) for n in (2, 3)))

        def take(cache: Any, index: jax.Array) -> Any:
            return jax.tree.map(lambda x, d: x if d < 0 else x.take(index, axis=d), cache, dims)

        return take
