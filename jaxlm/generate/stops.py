"""Texts that end a text, found on the device: an automaton that reads the bytes of each token.

    stops = Stops.of(("\\n\\n",), tokenizer, vocab=32000)
    states = stops.begin((batch,))
    states, hit = stops.add(tables, states, token)       # any dims; hit: where a text has one now

For a text of L bytes there are the states 0 to L: how many of its bytes the new text ends with
(Knuth, Morris and Pratt); L is kept. The table [V, L + 1] says where a token leads. Tables go into
a compiled program as arguments. New text alone counts, not the end of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Tokenizer

Tables = tuple[jax.Array, ...]


@dataclass(frozen=True, eq=False)
class Stops:
    """The automata of some texts."""

    tables: tuple[np.ndarray, ...] = ()  # [V, L + 1] each

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Tokenizer, vocab: int) -> Stops:
        """vocab: the ids of the model, of which the tokenizer may know fewer."""
        if not texts:
            return cls()
        tokens = [*tokenizer.token_bytes[:vocab]]
        tokens += [b""] * (vocab - len(tokens))
        for text, i in tokenizer.special_tokens.items():
            if i < vocab:
                tokens[i] = text.encode()
        lengths = np.array([len(token) for token in tokens])
        bytes_ = np.zeros((vocab, lengths.max(initial=1)), np.uint8)
        for i, token in enumerate(tokens):
            bytes_[i, : len(token)] = np.frombuffer(token, np.uint8)
        return cls(tuple(_table(text.encode(), bytes_, lengths) for text in texts))

    def begin(self, dims: tuple[int, ...]) -> Tables:
        """The states [*dims] of texts without a token."""
        return tuple(jnp.zeros(dims, jnp.int32) for _ in self.tables)

    def add(self, tables: Tables, states: Tables, token: jax.Array) -> tuple[Tables, jax.Array]:
        """The states after one more token, and where a text now has one of the texts."""
        hit = jnp.zeros(token.shape, bool)
        after = tuple(table[token, s] for table, s in zip(tables, states, strict=True))
        for table, state in zip(tables, after, strict=True):
            hit |= state == table.shape[1] - 1
        return after, hit

    def end(self, ids: Sequence[int]) -> int:
        """The number of ids up to the one that completes a text; all of them where none does."""
        states = [0] * len(self.tables)
        for n, i in enumerate(ids):
            states = [int(t[i, s]) for t, s in zip(self.tables, states, strict=True)]
            if any(s == t.shape[1] - 1 for t, s in zip(self.tables, states, strict=True)):
                return n + 1
        return len(ids)


def _table(text: bytes, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The next state of each token [V, bytes] from each state."""
    byte = _bytes_table(text)
    states = np.tile(np.arange(len(text) + 1, dtype=np.int32), (len(tokens), 1))
    for n in range(lengths.max(initial=0)):
        longer = np.flatnonzero(lengths > n)
        states[longer] = byte[states[longer], tokens[longer, n, None]]
    return states


def _bytes_table(text: bytes) -> np.ndarray:
    """The next state of each byte from each state [L + 1, 256]."""
    found = np.zeros((len(text) + 1, 256), np.int32)
    for state in range(len(text)):
        for byte in {*text}:
            ends = text[:state] + bytes([byte])
            sizes = (n for n in range(len(ends), 0, -1) if text.startswith(ends[-n:]))
            found[state, byte] = next(sizes, 0)
    found[len(text)] = len(text)
    return found
