"""Beam search: the likeliest text of those that K beginnings at a time lead to.

Each turn forms the 2K likeliest continuations of the K beginnings, or (n + 1) K where n ids end a
text, so that K of them go on. Those that end there and are among the first K are kept as texts,
those that go on and are likeliest are the next K beginnings:

    score(text) = log p(text) / length ** length_penalty

A row is done when no beginning, by its present score, is better than the worst of K texts.
This is what transformers does with `early_stopping=False`, whose rule this is; with another length
penalty it is that of Wu et al. 2016 (arXiv:1609.08144, section 7) without its constant.

    ids, scores = beam_search(logits, cache, advance, take_rows, alive, search)   # the best of each
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.generate.processors import Processors
from jaxlm.generate.stops import Stops, Tables

NEVER = -1e9  # in place of the score of what may not be chosen
EosId = int | Sequence[int] | None  # what ends a text


def is_any(token: jax.Array, ids: EosId) -> jax.Array:
    """Whether each token is one of the ids."""
    return jnp.isin(token, jnp.asarray(_listed(ids), jnp.int32))


def _listed(ids: EosId) -> tuple[int, ...]:
    return (ids,) if isinstance(ids, int) else tuple(ids or ())


@dataclass(frozen=True, kw_only=True)
class Search:
    """The settings of a search for texts."""

    num_beams: int
    length_penalty: float
    max_tokens: int
    eos_id: EosId
    pad_id: int
    processors: Processors = Processors()
    stops: Stops = Stops()


class Loop(NamedTuple):
    """The state that a turn hands to the next; B rows of K beams."""

    turn: jax.Array
    begun: jax.Array  # [B, K, T] beginnings, best first
    begun_scores: jax.Array  # [B, K] their log probabilities
    ended: jax.Array  # [B, K, T] texts, best first
    ended_scores: jax.Array  # [B, K]
    has_ended: jax.Array  # [B, K] whether there is such a text
    open: jax.Array  # [B] whether a better one may come
    logits: jax.Array  # [B * K, V]
    cache: Any
    states: tuple[Any, ...]  # the processors' states, [B * K, ...] each
    matched: Tables  # [B, K] each: the states of the stops


def beam_search(
    logits: jax.Array,  # [B, V] after the prompts
    cache: Any,  # the cache of B rows
    advance: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]],
    take_rows: Callable[[Any, jax.Array], Any],
    alive: jax.Array,  # [B] bool: rows to search for
    search: Search,
    *,
    states: tuple[Any, ...] = (),
    tables: Tables = (),
) -> tuple[jax.Array, jax.Array]:
    """The best text of each row [B, T], padded after its end, and its score [B].

    `advance(tokens, turn, cache)`: logits after one more token a row, and the cache with it.
    `take_rows(cache, index)`: the cache of the rows `index`. `states`: those of the processors of
    `search` after the prompts; `tables`: those of its stops.
    """
    rows, beams = jnp.arange(len(logits))[:, None], search.num_beams

    def more(loop: Loop) -> jax.Array:
        return (loop.turn < search.max_tokens) & loop.open.any()

    def grow(loop: Loop) -> Loop:
        longer = _longer(loop, search, tables)
        length = (loop.turn + 1.0) ** search.length_penalty
        ended, ended_scores, has_ended = _ended(loop, longer, length)
        begun_scores, kept = jax.lax.top_k(jnp.where(longer.ends, NEVER, longer.scores), beams)
        worst = jnp.where(has_ended, ended_scores[:, -1:], NEVER)
        can_improve = (begun_scores[:, :1] / length > worst).any(1)
        index = (rows * beams + longer.beam[rows, kept]).reshape(-1)
        token = longer.token[rows, kept].reshape(-1).astype(jnp.int32)
        states = search.processors.add(_take(loop.states, index), token, loop.turn)
        logits, cache = advance(token, loop.turn, take_rows(loop.cache, index))
        return Loop(
            turn=loop.turn + 1,
            begun=longer.texts[rows, kept],
            begun_scores=begun_scores,
            ended=ended,
            ended_scores=ended_scores,
            has_ended=has_ended,
            open=loop.open & can_improve,
            logits=logits,
            cache=cache,
            states=states,
            matched=tuple(state[rows, kept] for state in longer.matched),
        )

    every = jnp.repeat(jnp.arange(len(logits)), beams)
    first = _first(logits[every], take_rows(cache, every), _take(states, every), alive, search)
    last = jax.lax.while_loop(more, grow, first)
    return last.ended[:, 0], last.ended_scores[:, 0]


def _first(
    logits: jax.Array,  # [B * K, V]
    cache: Any,
    states: tuple[Any, ...],
    alive: jax.Array,  # [B]
    search: Search,
) -> Loop:
    """No text has ended, and each row has one beginning: K equal ones would stay equal."""
    shape = len(alive), search.num_beams
    nothing = jnp.full((*shape, search.max_tokens), search.pad_id, jnp.int32)
    none = jnp.full(shape, NEVER, jnp.float32)
    return Loop(
        turn=jnp.zeros((), jnp.int32),
        begun=nothing,
        begun_scores=none.at[:, 0].set(0.0),
        ended=nothing,
        ended_scores=none,
        has_ended=jnp.zeros(shape, bool),
        open=alive,
        logits=logits,
        cache=cache,
        states=states,
        matched=search.stops.begin(shape),
    )


class Longer(NamedTuple):
    """The W likeliest continuations of each row's beginnings, best first."""

    scores: jax.Array  # [B, W] log probabilities
    beam: jax.Array  # [B, W] the beginning that each continues
    token: jax.Array  # [B, W] the token that it adds
    texts: jax.Array  # [B, W, T]
    ends: jax.Array  # [B, W] whether it is a whole text
    matched: Tables  # [B, W] each


def _longer(loop: Loop, search: Search, tables: Tables) -> Longer:
    (batch, beams, steps), vocab = loop.begun.shape, loop.logits.shape[-1]
    rows = jnp.arange(batch)[:, None]
    width = min(max(2, len(_listed(search.eos_id)) + 1), vocab) * beams
    log_probs = search.processors(jax.nn.log_softmax(loop.logits), loop.states, loop.turn)
    log_probs = log_probs.reshape(batch, beams, vocab) + loop.begun_scores[..., None]
    scores, index = jax.lax.top_k(log_probs.reshape(batch, beams * vocab), width)
    beam, token = index // vocab, index % vocab
    texts = loop.begun[rows, beam].at[:, :, loop.turn].set(token)
    matched = tuple(state[rows, beam] for state in loop.matched)
    matched, stopped = search.stops.add(tables, matched, token)
    ends = is_any(token, search.eos_id) | stopped | (loop.turn + 1 == steps)
    return Longer(scores, beam, token, texts, ends, matched)


def _ended(loop: Loop, longer: Longer, length: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(texts, scores, whether there are such) of the K best that have ended, now or before."""
    (batch, beams, _), width = loop.begun.shape, longer.scores.shape[1]
    rows = jnp.arange(batch)[:, None]
    counts = longer.ends & (jnp.arange(width) < beams) & loop.open[:, None]
    own = jnp.where(counts, longer.scores / length, NEVER)
    scores, kept = jax.lax.top_k(jnp.concatenate([loop.ended_scores, own], 1), beams)
    texts = jnp.concatenate([loop.ended, longer.texts], 1)[rows, kept]
    return texts, scores, jnp.concatenate([loop.has_ended, counts], 1)[rows, kept]


def _take(states: tuple[Any, ...], index: jax.Array) -> tuple[Any, ...]:
    return jax.tree.map(lambda x: x[index], states)
