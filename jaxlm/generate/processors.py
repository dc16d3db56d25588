"""Changes to the logits of a next token, from what was read and written before it.

    processors = processors_of(sampling, eos_ids=(2,))
    states = processors.begin(tokens, real, vocab=32000)       # of prompts [B, P]
    logits = processors(logits, states, turn)                  # [B, V]
    states = processors.add(states, token, turn)               # after one more token a row

A processor is one class: `of` makes it from the options, or gives None where it is off, and its
state is arrays whose first dim is B, on the device. To add one, write its class and put it in
`PROCESSORS`, which has transformers' order. With beams, B is all beams of all rows, the logits are
log probabilities, and the states of the beams that are kept are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.core.sampling import Sampling

NO_TOKEN = -1  # in place of an id, where a row has none


class Processor:
    """Changes logits; by default without a state."""

    @classmethod
    def of(cls, sampling: Sampling, eos_ids: Sequence[int]) -> Processor | None:
        """The processor of these options; None: it is off."""
        raise NotImplementedError

    def begin(self, tokens: jax.Array, real: jax.Array, vocab: int, most: int) -> Any:
        """The state after prompts [B, P]; `real` is 0 at padding, `most` the new tokens a row."""
        return ()

    def __call__(self, logits: jax.Array, state: Any, turn: jax.Array) -> jax.Array:
        """Logits [B, V] of new token number `turn`, from 0."""
        raise NotImplementedError

    def add(self, state: Any, token: jax.Array, turn: jax.Array) -> Any:
        """The state after the new tokens [B] of this turn."""
        return state


@dataclass(frozen=True)
class RepetitionPenalty(Processor):
    """Tokens of the prompt and the text get less likely: a positive logit is divided, a negative
    one multiplied (Keskar et al. 2019, arXiv:1909.05858). State: [B, V] whether a row has it."""

    penalty: float

    @classmethod
    def of(cls, sampling: Sampling, eos_ids: Sequence[int]) -> RepetitionPenalty | None:
        return cls(sampling.repetition_penalty) if sampling.repetition_penalty != 1 else None

    def begin(self, tokens: jax.Array, real: jax.Array, vocab: int, most: int) -> jax.Array:
        seen = jnp.zeros((len(tokens), vocab), bool)
        return seen.at[_rows(tokens), tokens].max(real > 0, mode="drop")

    def __call__(self, logits: jax.Array, seen: jax.Array, turn: jax.Array) -> jax.Array:
        less = jnp.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return jnp.where(seen, less, logits)

    def add(self, seen: jax.Array, token: jax.Array, turn: jax.Array) -> jax.Array:
        return seen.at[jnp.arange(len(token)), token].set(True)


@dataclass(frozen=True)
class NoRepeatNGrams(Processor):
    """No n tokens in a row come twice in prompt and text. State: [B, n - 1 + T + P] the ids so far
    of a row, on the right; none on their left."""

    size: int

    @classmethod
    def of(cls, sampling: Sampling, eos_ids: Sequence[int]) -> NoRepeatNGrams | None:
        size = sampling.no_repeat_ngram_size
        return cls(size) if size else None

    def begin(self, tokens: jax.Array, real: jax.Array, vocab: int, most: int) -> jax.Array:
        known = jnp.where(real > 0, tokens, NO_TOKEN)
        left = (0, 0), (self.size - 1 + most, 0)
        return jnp.pad(known, left, constant_values=NO_TOKEN)

    def __call__(self, logits: jax.Array, text: jax.Array, turn: jax.Array) -> jax.Array:
        count = text.shape[1] - self.size + 1
        windows = [text[:, j : j + count] for j in range(self.size)]  # n tokens in a row
        again = windows[-1] != NO_TOKEN
        for j, window in enumerate(windows[:-1]):
            again &= (window == text[:, count + j, None]) & (window != NO_TOKEN)
        forbidden = jnp.where(again, windows[-1], logits.shape[-1])
        return logits.at[_rows(forbidden), forbidden].set(-jnp.inf, mode="drop")

    def add(self, text: jax.Array, token: jax.Array, turn: jax.Array) -> jax.Array:
        return jnp.concatenate([text[:, 1:], token[:, None]], axis=1)


@dataclass(frozen=True)
class MinTokens(Processor):
    """No id that ends a text before so many tokens."""

    count: int
    eos_ids: tuple[int, ...]

    @classmethod
    def of(cls, sampling: Sampling, eos_ids: Sequence[int]) -> MinTokens | None:
        count = sampling.min_tokens
        return cls(count, tuple(eos_ids)) if count and eos_ids else None

    def __call__(self, logits: jax.Array, state: Any, turn: jax.Array) -> jax.Array:
        ids = jnp.array(self.eos_ids)
        return jnp.where(turn < self.count, logits.at[:, ids].set(-jnp.inf, mode="drop"), logits)


@dataclass(frozen=True)
class CountPenalties(Processor):
    """logit - frequency * count - presence * (count > 0), of the new text alone, as in OpenAI's
    interface and vLLM. State: [B, V] the counts."""

    presence: float
    frequency: float

    @classmethod
    def of(cls, sampling: Sampling, eos_ids: Sequence[int]) -> CountPenalties | None:
        found = cls(sampling.presence_penalty, sampling.frequency_penalty)
        return found if found.presence or found.frequency else None

    def begin(self, tokens: jax.Array, real: jax.Array, vocab: int, most: int) -> jax.Array:
        return jnp.zeros((len(tokens), vocab), jnp.int32)

    def __call__(self, logits: jax.Array, counts: jax.Array, turn: jax.Array) -> jax.Array:
        return logits - self.frequency * counts - self.presence * (counts > 0)

    def add(self, counts: jax.Array, token: jax.Array, turn: jax.Array) -> jax.Array:
        return counts.at[jnp.arange(len(token)), token].add(1)


PROCESSORS: tuple[type[Processor], ...] = (
    RepetitionPenalty,
    NoRepeatNGrams,
    MinTokens,
    CountPenalties,
)


@dataclass(frozen=True)
class Processors:
    """Those that are on, one after another."""

    each: tuple[Processor, ...] = ()

    def begin(self, tokens: jax.Array, real: jax.Array, vocab: int, most: int) -> tuple:
        return tuple(one.begin(tokens, real, vocab, most) for one in self.each)

    def __call__(self, logits: jax.Array, states: tuple, turn: jax.Array) -> jax.Array:
        for one, state in zip(self.each, states, strict=True):
            logits = one(logits, state, turn)
        return logits

    def add(self, states: tuple, token: jax.Array, turn: jax.Array) -> tuple:
        return tuple(one.add(s, token, turn) for one, s in zip(self.each, states, strict=True))


def processors_of(sampling: Sampling, eos_ids: Sequence[int]) -> Processors:
    """The processors that the options turn on, in order."""
    found = (kind.of(sampling, eos_ids) for kind in PROCESSORS)
    return Processors(tuple(one for one in found if one is not None))


def _rows(tokens: jax.Array) -> jax.Array:
    return jnp.arange(len(tokens))[:, None]
