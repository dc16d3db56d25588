"""The encoder of a recurrent encoder-decoder: layers that read a source, both ways or one.

hidden, ends = encoder(x, positions, segment_ids)
# [T, B, D]; and for every layer and place the state that the place's document ended in
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from flax import nnx

from jaxlm.core.config import Config, field
from jaxlm.kernels.recurrence import State
from jaxlm.mesh import shard
from jaxlm.nn.bidirectional import Ends, Reader
from jaxlm.nn.dropout import dropout
from jaxlm.nn.given import Found, Given
from jaxlm.nn.stack import Remat, apply_stack, runs_of, stack


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Config):
    """The layers that read a source."""

    hidden_size: int | None = field(
        None, "width of each direction of the layers; null: the decoder's", ge=1
    )
    num_layers: int = field(1, "recurrent layers", ge=1, le=2000)
    bidirectional: bool = field(
        True, "layers read both ways, and give twice their width; else from first to last"
    )


class Encoder(nnx.Module):
    """`config` is that of the whole model; its cell, dropout and dtype are the encoder's too."""

    def __init__(self, config: Any, inputs: int, *, rngs: nnx.Rngs, **options: Any) -> None:
        """`options`: those of the cells."""
        c = config.encoder
        self.num_layers, self.remat, self.dropout = c.num_layers, config.remat, config.dropout
        self.hidden = c.hidden_size or config.hidden_size
        self.output_size = self.hidden * (2 if c.bidirectional else 1)
        widths = [inputs, *[self.output_size] * c.num_layers]
        self.runs = runs_of(list(itertools.pairwise(widths)))

        def make(inputs: int, rngs: nnx.Rngs) -> Reader:
            both = c.bidirectional
            return Reader(
                config.cell, inputs, self.hidden, bidirectional=both, rngs=rngs, **options
            )

        for run in self.runs:
            setattr(self, run.name, stack(partial(make, run.kind[0]), run.count, rngs=rngs))

    def __call__(
        self,
        x: jax.Array,  # [T, B, E]
        positions: jax.Array,  # [B, T]
        segment_ids: jax.Array,  # [B, T]
        *,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, list[State]]:
        """Dropout is on every layer's input. Returns the last layer's outputs [T, B, D], and
        each layer's `Ends.last_states`, [T, B, D] too.
        """
        ends = Ends.of(positions, segment_ids)
        keys = None if key is None else jax.random.split(key, self.num_layers)
        found: list[State] = []
        for run in self.runs:

            def body(layer: Reader, x: jax.Array, given: Given) -> tuple[jax.Array, Found]:
                states = layer(dropout(x, self.dropout, given.key), ends)
                x = shard(states["h"], None, "batch", "act_hidden")
                return x, Found(ends.last_states(states, self.hidden))

            layers = getattr(self, run.name)
            some = None if keys is None else keys[run.first :][: run.count]
            x, last = apply_stack(
                layers,
                body,
                x,
                num_layers=run.count,
                scan=run.count > 1,
                keys=some,
                remat=Remat(self.remat),
            )
            found += [jax.tree.map(lambda s, i=i: s[i], last.by_row) for i in range(run.count)]
        return x, found
