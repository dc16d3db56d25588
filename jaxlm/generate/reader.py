"""A model that reads prompts and then token after token: what every way of writing text does.

    reader = Reader(program, params, prompts, max_tokens)     # within a jitted function
    logits, cache = reader.begin()                     # [B, V] after the prompts
    logits, cache = reader(tokens, turn, cache)        # [B, T, V] after T more tokens a row

The rows of prompts and of new tokens are those of the model's prompt format
(`jaxlm.data.prompt_formats`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.data.prompt_formats.base import Prompts
from jaxlm.data.prompts import format_of
from jaxlm.generate.processors import Processors
from jaxlm.models.blocks import unstack
from jaxlm.training.program import Program


class Reader:
    """A model that has prompts to read, and continues to read after them (traceable)."""

    def __init__(self, program: Program, params: Any, prompts: Prompts, max_tokens: int) -> None:
        model = self.model = nnx.merge(program.graphdef, params)
        self.encoded = None
        if prompts.source is not None:
            source = dict(prompts.source)
            self.encoded = model.encode(source.pop("tokens"), **source)
        unstack(model)
        self.rows = dict(prompts.read)
        self.tokens = self.rows.pop("tokens")
        self.first, self.step = prompts.first, format_of(program.model).step
        self.max_len = self.tokens.shape[1] + max_tokens

    def begin(self) -> tuple[jax.Array, Any]:
        """Logits [B, V] of the first new token, and the cache."""
        cache = self.model.init_cache(len(self.tokens), self.max_len, self.encoded)
        hidden, cache, *_ = self.model(self.tokens, **self.rows, cache=cache)
        return self.model.logits(hidden[:, -1:])[:, 0], cache

    def states(self, processors: Processors, vocab: int, most: int) -> tuple[Any, ...]:
        """The states of processors after the prompts, as the decoder reads them."""
        real = jnp.asarray(self.rows["segment_ids"])
        return processors.begin(jnp.asarray(self.tokens), real, vocab, most)

    def __call__(
        self,
        tokens: jax.Array,  # [B, T], or [B * beams, T]
        turn: jax.Array,  # the number of the first of them, counted from the first new token
        cache: Any,
    ) -> tuple[jax.Array, Any]:
        """Logits [B, T, V] after each of T more tokens a row, and the cache with them."""
        copies = len(tokens) // len(self.tokens)
        index = turn + jnp.arange(tokens.shape[1])

        def rows(name: str) -> jax.Array:
            first = jnp.repeat(self.first[name], copies, axis=0)  # [B, 1, ...]
            more = index.reshape(-1, *(1,) * (first.ndim - 2)) * jnp.asarray(self.step[name])
            return first + more

        hidden, cache, *_ = self.model(
            tokens,
            segment_ids=jnp.ones(tokens.shape, jnp.int32),
            cache=cache,
            **{name: rows(name) for name in self.first},
        )
        return self.model.logits(hidden), cache

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
