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
from jaxlm.core.sampling import Sampling
from jaxlm.core.types import ModelConfig
from jaxlm.data.prompt_formats.base import Prompts
from jaxlm.generate.beam import EosId, is_any
from jaxlm.generate.generator import Generator, OnIds, Wanted
from jaxlm.generate.processors import Processors
from jaxlm.generate.reader import Reader
from jaxlm.generate.sampling import cut, next_token
from jaxlm.generate.stops import Stops, Tables
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
        stops: Stops | None = None,
    ) -> None:
        """Raises `UserError` where the two models do not go together."""
        super().__init__(program, sampling, eos_id=eos_id, pad_id=pad_id, stops=stops)
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
        self,
        *given: Any,
        on_part: Callable[[], object],
        on_ids: OnIds | None,
        wanted: Wanted | None,
        compiling: Compiling,
    ) -> tuple[Any, Any]:
        return self._whole(*given, compiling=compiling)

    def _generate(
        self,
        params: Any,
        prompts: tuple[Prompts, ...],
        alive: jax.Array,
        key: jax.Array,
        tables: Tables,
    ) -> tuple[jax.Array, jax.Array]:
        """A text that a stop ends is cut on the host; its row is written on."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(alive)))
        programs = (self.program, self.draft)
        target, draft = (
            Reader(program, own, read, self._max_tokens + 1)
            for program, own, read in zip(programs, params, prompts, strict=True)
        )
        logits, cache = target.begin()
        _, draft_cache = draft.begin()
        states = target.states(self.processors, logits.shape[-1], self._max_tokens)
        begin = jnp.zeros((), jnp.int32)
        first = next_token(self.processors(logits, states, begin), keys, self.sampling)
        greedy = self.sampling.temperature == 0
        ids = speculate(
            Side(target, target.model.rewind),
            Side(draft, draft.model.rewind),
            (cache, draft_cache),
            first,
            alive,
            keys,
            Options(
                num_drafts=self.num_drafts,
                max_tokens=self.sampling.max_tokens,
                eos_id=self.eos_ids,
                pad_id=self.pad_id,
                probs=most_likely if greedy else lambda x: jax.nn.softmax(cut(x, self.sampling)),
                processors=self.processors,
            ),
            states=self.processors.add(states, first, begin),
        )
        return ids, jnp.zeros(len(alive))


class Side(NamedTuple):
    """One of the two models."""

    read: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]  # as a `Reader`
    rewind: Callable[[Any, jax.Array], Any]  # a cache without its last n tokens


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings for writing texts."""

    num_drafts: int
    max_tokens: int
    eos_id: EosId
    pad_id: int
    probs: Probs
    processors: Processors = Processors()


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
    *,
    states: tuple[Any, ...] = (),  # of the processors, with `first`
) -> jax.Array:  # [B, max_tokens], padded after the end
    """The whole loop; a turn writes 1 to num_drafts + 1 tokens."""
    o, batch, count = options, len(first), options.num_drafts

    def more(loop: tuple) -> jax.Array:
        written, _, _, _, alive, _ = loop
        return (written < o.max_tokens) & alive.any()

    def turn(loop: tuple) -> tuple:
        written, out, last, (cache, draft_cache), alive, states = loop
        own = _fold(keys, written)

        def guess(carry: tuple, j: jax.Array) -> tuple:
            token, cache, states = carry
            logits, cache = draft.read(token[:, None], written - 1 + j, cache)
            q = o.probs(o.processors(logits[:, 0], states, written + j))
            token = jax.vmap(jax.random.categorical)(_fold(own, j), jnp.log(q)).astype(jnp.int32)
            states = o.processors.add(states, token, written + j)
            return (token, cache, states), (token, q)

        # The last guess is not used, but the draft's cache then holds what the target's does.
        steps = jnp.arange(count + 1)
        scanned: Any = jax.lax.scan(guess, (last, draft_cache, states), steps)
        (_, draft_cache, _), guessed = scanned
        tokens, q = (jnp.moveaxis(x, 0, 1)[:, :-1] for x in guessed)  # [B, n], [B, n, V]
        logits, cache = target.read(jnp.column_stack([last, tokens]), written - 1, cache)
        p = o.probs(_processed(logits, tokens, states, written, o.processors))  # [B, n + 1, V]
        kept, new = verify(p, q, tokens, alive, _fold(own, count + 1))

        out = jax.lax.dynamic_update_slice(out, new, (0, written))
        ended = (is_any(new, o.eos_id) & (jnp.arange(count + 1) <= kept)).any(1)
        last = new[:, kept]
        states = _states_after(new, kept, states, written, o.processors)
        caches = target.rewind(cache, count - kept), draft.rewind(draft_cache, count - kept)
        return written + kept + 1, out, last, caches, alive & ~ended, states

    out = jnp.full((batch, o.max_tokens + count + 1), o.pad_id, jnp.int32).at[:, 0].set(first)
    alive_now = alive & ~is_any(first, o.eos_id)
    begun = (jnp.ones((), jnp.int32), out, first, caches, alive_now, states)
    out = jax.lax.while_loop(more, turn, begun)[1][:, : o.max_tokens]
    is_end = is_any(out, o.eos_id)
    after = jnp.cumsum(is_end, axis=1) - is_end > 0
    return jnp.where(after | ~alive[:, None], o.pad_id, out)


def _processed(
    logits: jax.Array,  # [B, n + 1, V] after each drafted token
    tokens: jax.Array,  # [B, n] drafted
    states: tuple[Any, ...],  # before them
    written: jax.Array,
    processors: Processors,
) -> jax.Array:
    """The logits as the processors change them, each after the tokens before it."""
    if not processors.each:
        return logits

    def one(states: tuple, step: tuple) -> tuple:
        turn, logits, token = step
        changed = processors(logits, states, turn)
        return processors.add(states, token, turn), changed

    turns = written + jnp.arange(logits.shape[1])
    following = jnp.pad(tokens, ((0, 0), (0, 1)))  # nothing is read after the last
    steps = (turns, jnp.moveaxis(logits, 1, 0), following.T)
    scanned: Any = jax.lax.scan(one, states, steps)
    return jnp.moveaxis(scanned[1], 0, 1)


def _states_after(
    new: jax.Array,  # [B, n + 1], of which the first kept + 1 were written
    kept: jax.Array,
    states: tuple[Any, ...],
    written: jax.Array,
    processors: Processors,
) -> tuple[Any, ...]:
    def one(j: jax.Array, states: tuple) -> tuple:
        return processors.add(states, new[:, j], written + j)

    return jax.lax.fori_loop(0, kept + 1, one, states) if processors.each else states


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
