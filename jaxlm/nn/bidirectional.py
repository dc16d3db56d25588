"""Recurrent layers that read documents both ways (Schuster & Paliwal 1997), or one way.

    forward:  from a document's first token to its last;  backward: from its last to its first
    y_t = [forward h_t; backward h_t]

as Bahdanau et al. 2015 (arXiv:1409.0473, section 3.2) and PyTorch's bidirectional layers have it.
Both directions begin again at every document of a row: backward at the document's own end, so that
neither padding nor a neighbour is read into it.

    ends = Ends.of(positions, segment_ids)
    reader = Reader("gru", inputs=D, hidden=H, bidirectional=True, rngs=rngs)
    states = reader(x, ends)                # [T, B, D] -> {"h": [T, B, 2 H]}
    last = ends.last_states(states, H)      # what each place's document ended in
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.kernels.recurrence import State
from jaxlm.nn.dropout import split_key
from jaxlm.nn.recurrent import CELLS


class Ends(NamedTuple):
    """The places where the documents of time-major rows begin and end."""

    first: jax.Array  # [T, B] bool
    last: jax.Array  # [T, B] bool

    @classmethod
    def of(cls, positions: jax.Array, segment_ids: jax.Array) -> Ends:  # [B, T]
        """A document begins at position 0, at another segment, and with the row."""
        other = segment_ids[:, 1:] != segment_ids[:, :-1]
        inner = (positions[:, 1:] == 0) | other
        edge = jnp.ones_like(inner, shape=(len(inner), 1))
        first = jnp.concatenate([edge, inner], axis=1)
        return cls(first.T, jnp.concatenate([inner, edge], axis=1).T)

    def last_states(self, states: State, hidden: int) -> State:
        """At every place [T, B, *], the state that each direction ends its document in.

        `hidden`: the width of one direction.
        """
        length = len(self.first)
        places = jnp.arange(length)[:, None]
        begin = jax.lax.cummax(jnp.where(self.first, places, 0))
        end = jax.lax.cummin(jnp.where(self.last, places, length - 1), reverse=True)

        def at(x: jax.Array) -> jax.Array:
            forward, backward = x[..., :hidden], x[..., hidden:]
            parts = [jnp.take_along_axis(forward, end[..., None], axis=0)]
            if backward.shape[-1]:
                parts.append(jnp.take_along_axis(backward, begin[..., None], axis=0))
            return jnp.concatenate(parts, axis=-1)

        return {name: at(x) for name, x in states.items()}


class Reader(nnx.Module):
    """One layer over whole documents, in one direction or both."""

    def __init__(
        self,
        cell: str,
        inputs: int,
        hidden: int,
        *,
        bidirectional: bool,
        rngs: nnx.Rngs,
        **options: Any,
    ) -> None:
        """`options`: those of the cells of `jaxlm.nn.recurrent`."""
        make = partial(CELLS[cell], inputs, hidden, rngs=rngs, **options)
        self.forward = make()
        self.backward = make() if bidirectional else None

    @jax.named_scope("recurrence")
    def __call__(
        self,
        x: jax.Array,  # [T, B, D]
        ends: Ends,
        *,
        key: jax.Array | None = None,
    ) -> State:
        """The states after every step, [T, B, H or 2 H] each; "h" is the output."""
        keys = split_key(key, 2)
        zero = self.forward.init_state(x.shape[1])
        states = self.forward.steps(x, ends.first, zero, every_state=True, key=keys[0]).states
        if self.backward is None:
            return states
        reverse = lambda a: jnp.flip(a, axis=0)  # noqa: E731
        back = self.backward.steps(
            reverse(x), reverse(ends.last), zero, every_state=True, key=keys[1]
        ).states
        return {
            name: jnp.concatenate([states[name], reverse(back[name])], axis=-1) for name in states
        }
