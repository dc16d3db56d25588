"""Speculative decoding: a small model drafts, a large one reads a whole draft in one call.

Leviathan et al. 2023 (arXiv:2211.17192, algorithm 1). With p of the large and q of the small model,
a drafted token x is kept with probability min(1, p(x) / q(x)); the first that is not is drawn again
from max(p - q, 0), and after a draft that is kept whole one more token is drawn from p. So texts
have the distribution of the large model alone; at temperature 0 they are its very tokens.

    generate = SpeculativeGenerator(program, draft_program, sampling, eos_id=2, pad_id=0)
    generate((params, draft_params), prompts)

The rows of a batch go on together, by as many tokens as the row that keeps the fewest: a row that
would keep more takes its next drafted token in place of a new draw, which keeps its distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.core.config import UserError, type_name
from jaxlm.core.types import ModelConfig
from jaxlm.data.prompt_formats.base import Prompts
from jaxlm.generate.beam import EosId, is_any
from jaxlm.generate.generator import Generator
from jaxlm.generate.reader import Reader
from jaxlm.generate.sampling import Sampling, cut, next_token
from jaxlm.training.ahead import Compiling
from jaxlm.training.program import Program

Probs = Callable[[jax.Array], jax.Array]  # logits [..., V] -> probabilities


class SpeculativeGenerator(Generator):
    """Continues prompts as `Generator` does; its parameters are the pair of both models'."""

    def __init__(
        self,
        program: Program,
        draft: Program,
        sampling: Sampling,
        *,
        num_drafts: int = 4,
        eos_id: EosId,
        pad_id: int,
    ) -> None:
        """Raises `UserError` where the two models do not go together."""
        super().__init__(program, sampling, eos_id=eos_id, pad_id=pad_id)
        self.draft, self.num_drafts = draft, num_drafts
        for model in self._models:
            if not model.rewinds:
                raise UserError(
                    f"draft: a model of type {type_name(type(model))} cannot take back what it "
                    "has read; use one with a cache of tokens, such as transformer, and without "
                    "dynamic scaling of positions"
                )
        sizes = [model.vocab_size for model in self._models]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"draft: its vocabulary has {sizes[1]} ids, the model's {sizes[0]}; draft with a "
                "model of the same tokenizer"
            )

    @property
    def _models(self) -> list[ModelConfig]:
        return [self.program.model, self.draft.model]

    @property
    def _max_tokens(self) -> int:
        return self.sampling.max_tokens + self.num_drafts

    def _write(
        self, *given: Any, on_part: Callable[[], object], compiling: Compiling
    ) -> tuple[Any, Any]:
        return self._whole(*given, compiling=compiling)

    def _generate(
        self, params: Any, prompts: tuple[Prompts, ...], alive: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(alive)))
        programs = (self.program, self.draft)
        target, draft = (
            Reader(program, own, read, self._max_tokens + 1)
            for program, own, read in zip(programs, params, prompts, strict=True)
        )
        logits, cache = target.begin()
        _, draft_cache = draft.begin()
        greedy = self.sampling.temperature == 0
        ids = speculate(
            Side(target, target.model.rewind),
            Side(draft, draft.model.rewind),
            (cache, draft_cache),
            next_token(logits, keys, self.sampling),
            alive,
            keys,
            Options(
                num_drafts=self.num_drafts,
                max_tokens=self.sampling.max_tokens,
                eos_id=self.eos_ids,
                pad_id=self.pad_id,
                probs=most_likely if greedy else lambda x: jax.nn.softmax(cut(x, self.sampling)),
            ),
        )
        return ids, jnp.zeros(len(alive))


class Side(NamedTuple):
    """One of the two models."""

    read: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]  # as a `Reader`
    rewind: Callable[[Any, jax.Array], Any]  # a cache without its last n tokens


@dataclass(frozen=True, kw_only=True)
class Options:
    """How texts are written."""

    num_drafts: int
    max_tokens: int
    eos_id: EosId
    pad_id: int
    probs: Probs


def most_likely(logits: jax.Array) -> jax.Array:
    return jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])


def speculate(
    target: Side,
    draft: Side,
    caches: tuple[Any, Any],
    first: jax.Array,  # [B] the first new token of each row, which no cache holds
    alive: jax.Array,  # [B] bool: rows to write
    keys: jax.Array,  # [B] one a row
    options: Options,
) -> jax.Array:  # [B, max_tokens], padded after the end
    """The whole loop; a turn writes 1 to num_drafts + 1 tokens."""
    o, batch, count = options, len(first), options.num_drafts

    def more(loop: tuple) -> jax.Array:
        written, _, _, _, alive = loop
        return (written < o.max_tokens) & alive.any()

    def turn(loop: tuple) -> tuple:
        written, out, last, (cache, draft_cache), alive = loop
        own = _fold(keys, written)

        def guess(carry: tuple, j: jax.Array) -> tuple:
            token, cache = carry
            logits, cache = draft.read(token[:, None], written - 1 + j, cache)
            q = o.probs(logits[:, 0])
            token = jax.vmap(jax.random.categorical)(_fold(own, j), jnp.log(q)).astype(jnp.int32)
            return (token, cache), (token, q)

        # The last guess is not used, but the draft's cache then holds what the target's does.
        steps = jnp.arange(count + 1)
        scanned: Any = jax.lax.scan(guess, (last, draft_cache), steps)
        (_, draft_cache), guessed = scanned
        tokens, q = (jnp.moveaxis(x, 0, 1)[:, :-1] for x in guessed)  # [B, n], [B, n, V]
        logits, cache = target.read(jnp.column_stack([last, tokens]), written - 1, cache)
        p = o.probs(logits)  # [B, n + 1, V]
        kept, new = verify(p, q, tokens, alive, _fold(own, count + 1))

        out = jax.lax.dynamic_update_slice(out, new, (0, written))
        ended = (is_any(new, o.eos_id) & (jnp.arange(count + 1) <= kept)).any(1)
        last = new[:, kept]
        caches = target.rewind(cache, count - kept), draft.rewind(draft_cache, count - kept)
        return written + kept + 1, out, last, caches, alive & ~ended

    out = jnp.full((batch, o.max_tokens + count + 1), o.pad_id, jnp.int32).at[:, 0].set(first)
    begun = (jnp.ones((), jnp.int32), out, first, caches, alive & ~is_any(first, o.eos_id))
    out = jax.lax.while_loop(more, turn, begun)[1][:, : o.max_tokens]
    is_end = is_any(out, o.eos_id)
    after = jnp.cumsum(is_end, axis=1) - is_end > 0
    return jnp.where(after | ~alive[:, None], o.pad_id, out)


def verify(
    p: jax.Array,  # [B, n + 1, V] of the target
    q: jax.Array,  # [B, n, V] of the draft
    tokens: jax.Array,  # [B, n] drafted
    alive: jax.Array,  # [B] bool: rows that count
    keys: jax.Array,  # [B]
) -> tuple[jax.Array, jax.Array]:
    """(m, new [B, n + 1]): every row keeps m drafted tokens and has one more, new[:, : m + 1]."""
    count = tokens.shape[1]
    draws = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(_fold(keys, 0))
    at = lambda x: jnp.take_along_axis(x, tokens[..., None], axis=-1)[..., 0]  # noqa: E731
    good = draws * at(q) < at(p[:, :count])
    own = jnp.where(alive, jnp.cumprod(good, axis=1).sum(1), count)  # kept by each row
    kept = own.min()
    q = jnp.pad(q, ((0, 0), (0, 1), (0, 0)))  # nothing is guessed after a draft
    rest = jnp.maximum(p[:, kept] - q[:, kept], 0.0)
    redrawn = jax.vmap(jax.random.categorical)(_fold(keys, 1), jnp.log(rest)).astype(jnp.int32)
    tokens = jnp.pad(tokens, ((0, 0), (0, 1)))
    one_more = jnp.where(own > kept, tokens[:, kept], redrawn)
    return kept, tokens.at[:, kept].set(one_more)


def _fold(keys: jax.Array, number: Any) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)
