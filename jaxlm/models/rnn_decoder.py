"""The decoder of a recurrent encoder-decoder: recurrent layers that attend to a source.

With s_t the state of the last layer, k_1 .. k_S the encoder's outputs, x_t the embedded token, [;]
concatenation, c = look(q) the context of `jaxlm.nn.source_attention`:

    none      s_t = cell(x_t, s_{t-1});  y_t = s_t                      (Sutskever et al. 2014)
    bahdanau  c_t = look(s_{t-1});  s_t = cell([x_t; c_t], s_{t-1});
              y_t = maxout(W [s_t; x_t; c_t])      (Bahdanau et al. 2015, arXiv:1409.0473, A.2.2)
    luong     s_t = cell([x_t; y_{t-1}], s_{t-1});  c_t = look(s_t);
              y_t = tanh(W [c_t; s_t])             (Luong et al. 2015, arXiv:1508.04025, 3.3)

where maxout takes the larger one of each pair of neighbours, and Luong's y_{t-1} at the input
("input feeding") may be left out. Of several layers only the first is given contexts, and the last
one asks for them.

A document starts from what a bridge makes of the last states of the encoder on its own source, the
one with its segment id; without one, from 0.

Everything that the loop over time multiplies with is made whole on every device before it, and the
first layer's input projections are one matmul for all steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.kernels import recurrence
from jaxlm.kernels.recurrence import State
from jaxlm.mesh import shard
from jaxlm.nn.dense import Dense, weight, whole
from jaxlm.nn.dropout import dropout, split_key
from jaxlm.nn.recurrent import CELLS, Gated
from jaxlm.nn.source_attention import Additive, Dot, General, Source, SourceAttention, look

ATTENTIONS: dict[str, type[SourceAttention]] = {
    "bahdanau": Additive,
    "luong_general": General,
    "luong_dot": Dot,
    "luong_concat": Additive,
}


class Carry(NamedTuple):
    """The carry of the loop over time."""

    layers: tuple[State, ...]
    fed: jax.Array | None  # [B, D] the output before, where it is fed to the next step


class Step(NamedTuple):
    """The inputs of one time step that are computed before the loop; stacked to [T, ...]."""

    gates: jax.Array  # [B, G*H] the first layer's input projections
    segment_ids: jax.Array  # [B]
    reset: jax.Array  # [B] bool: a document starts
    start: tuple[State, ...]  # [B, H] what it starts from
    keys: jax.Array | None  # one for each layer but the first


class Decoder(nnx.Module):
    """`config` is that of the whole model. `source`, `output`: widths of encoder and result."""

    def __init__(
        self, config: Any, *, source: int, output: int, rngs: nnx.Rngs, **options: Any
    ) -> None:
        """`options`: those of the cells."""
        c = self.config = config
        width, self.num_layers = c.hidden_size, c.num_layers
        shared: dict[str, Any] = {"dtype": options["dtype"], "rngs": rngs}
        for i in range(c.num_layers):
            inputs = c.input_size if i == 0 else width
            setattr(self, f"layers_{i}", CELLS[c.cell](inputs, width, rngs=rngs, **options))
        self.bridge = Bridge(c, source, **shared) if c.bridge == "dense" else None
        self.asks_first, self.feeds = c.attention == "bahdanau", c.input_feeding
        # The part of the first layer's input that is not the token: more columns of its kernel.
        extra = source if self.asks_first else output if self.feeds else 0
        gates = {"gates": self.layer(0).num_gates * width}
        self.context = Dense({"embed": extra}, gates, **shared) if extra else None

        size = c.attention_size or width
        make = ATTENTIONS.get(c.attention)
        self.attention = make(width, source, size, **shared) if make else None
        inputs, outputs = {"embed": source + width}, {"gates": output}
        if self.asks_first:
            inputs, outputs = {"embed": width + c.input_size + source}, {"gates": 2 * output}
        bias = self.asks_first
        self.readout = Dense(inputs, outputs, bias=bias, **shared) if make else None

    @jax.named_scope("recurrence")
    def __call__(
        self,
        x: jax.Array,  # [T, B, E]
        segment_ids: jax.Array,  # [B, T]
        reset: jax.Array,  # [T, B] bool: a document starts here
        carry: Carry,
        source: Source,
        *,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Carry]:
        """Outputs [T, B, D], and the carry for a call with the next tokens."""
        c, (input_key, steps_key) = self.config, split_key(key, 2)
        x = dropout(x, c.dropout, input_key)
        keys = None
        if steps_key is not None:
            keys = jax.random.split(steps_key, (len(x), self.num_layers))[:, 1:]
        start = self._starts(segment_ids, source)
        steps = Step(self.layer(0).project(x), segment_ids.T, reset, start, keys)
        loop = self._loop(source)
        if c.remat == "full":
            loop = jax.checkpoint(loop, prevent_cse=False)
        carry, (states, contexts) = jax.lax.scan(loop, carry, steps)
        if self.feeds:
            return states, carry
        if self.asks_first:
            assert self.readout is not None
            pairs = self.readout(jnp.concatenate([states, x, contexts], axis=-1))
            return pairs.reshape(*pairs.shape[:-1], -1, 2).max(-1), carry
        if self.attention is None:
            return states, carry
        query = states.swapaxes(0, 1)  # no step depends on a context: one product for all steps
        context = look(self.attention, self.attention.weights(), query, segment_ids, source)
        assert self.readout is not None
        kernel = weight(self.readout.adapted_kernel(), self.readout.dtype)
        return attentional(context.swapaxes(0, 1), states, kernel), carry

    def layer(self, index: int) -> Gated:
        return getattr(self, f"layers_{index}")

    def init_carry(self, batch_size: int, output: int) -> Carry:
        layers = tuple(self.layer(i).init_state(batch_size) for i in range(self.num_layers))
        return Carry(layers, jnp.zeros((batch_size, output)) if self.feeds else None)

    def _loop(self, source: Source) -> Any:
        """The body of the loop, (carry, step) -> (carry, (state, context)), with whole weights."""
        dtype = self.layer(0).dtype
        cells = [self.layer(i) for i in range(self.num_layers)]
        recurrent = [cell.weights() for cell in cells]
        inputs = [cell.input_weights() for cell in cells[1:]]
        from_context: Any = (
            None if self.context is None else whole(self.context.adapted_kernel(), dtype)
        )
        to_output = None if self.readout is None else whole(self.readout.adapted_kernel(), dtype)
        attention = self.attention
        asking = None if attention is None else attention.weights()

        def ask(state: State, segments: jax.Array) -> jax.Array:
            assert attention is not None
            return look(attention, asking, state["h"][:, None], segments[:, None], source)[:, 0]

        def loop(carry: Carry, step: Step) -> tuple[Carry, Any]:
            layers = jax.tree.map(
                lambda new, old: jnp.where(step.reset[:, None], new, old), step.start, carry.layers
            )
            gates, context, fed = step.gates, None, carry.fed
            if self.asks_first:
                context = ask(layers[-1], step.segment_ids)
                gates = gates + context @ from_context
            if fed is not None:
                fed = jnp.where(step.reset[:, None], 0, fed)
                gates = gates + fed.astype(dtype) @ from_context
            after: list[State] = []
            for i, cell in enumerate(cells):
                if i > 0:
                    key = None if step.keys is None else step.keys[i - 1]
                    h = dropout(after[-1]["h"].astype(dtype), self.config.dropout, key)
                    kernel, bias = inputs[i - 1]
                    gates = h @ kernel + bias
                after.append(recurrence.step(cell.cell, gates, *recurrent[i], layers[i]))
            out = after[-1]["h"].astype(dtype)
            if fed is not None:
                out = attentional(ask(after[-1], step.segment_ids), out, to_output)
                fed = out.astype(jnp.float32)
            return Carry(tuple(after), fed), (out, context)

        return loop

    def _starts(self, segment_ids: jax.Array, source: Source) -> tuple[State, ...]:
        """The states [T, B, H] that a document would start from at each token."""
        c = self.config
        if c.bridge == "zero":
            shape = segment_ids.T.shape
            zeros = [self.layer(i).init_state(1) for i in range(self.num_layers)]
            return jax.tree.map(lambda z: jnp.broadcast_to(z, (*shape, z.shape[-1])), tuple(zeros))
        same = segment_ids[:, :, None] == source["segment_ids"][:, None]
        same &= segment_ids[:, :, None] > 0  # [B, T, S]
        place, found = same.argmax(-1)[..., None], same.any(-1)[..., None]

        def of_own(states: jax.Array) -> jax.Array:  # [B, S, D] -> [T, B, D]
            own = jnp.take_along_axis(states, place, axis=1)
            return jnp.where(found, own, 0).swapaxes(0, 1)

        ends = jax.tree.map(of_own, source["ends"])
        if self.bridge is not None:
            made = self.bridge(ends[-1])
            return jax.tree.map(lambda s: jnp.where(found.swapaxes(0, 1), s, 0), made)
        return jax.tree.map(lambda s: s.astype(jnp.float32), tuple(ends))


def attentional(context: jax.Array, state: jax.Array, kernel: Any) -> jax.Array:
    """Luong's attentional vector, tanh(W [c; s])."""
    return jnp.tanh(jnp.concatenate([context, state], axis=-1) @ kernel)


class Bridge(nnx.Module):
    """Each layer's first state, from those that the encoder's last layer ended in:
    h = tanh(W [forward h; backward h] + b), and c by a map of its own without tanh."""

    def __init__(self, config: Any, source: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        self.names = CELLS[config.cell].state_names
        self.num_layers = config.num_layers
        outputs = {"gates": config.num_layers * config.hidden_size}
        for name in self.names:
            dense = Dense({"embed": source}, outputs, bias=True, dtype=dtype, rngs=rngs)
            setattr(self, name, dense)

    def __call__(self, ends: State) -> tuple[State, ...]:  # [T, B, D] -> [T, B, H] a layer
        made = {name: getattr(self, name)(ends[name]).astype(jnp.float32) for name in self.names}
        made["h"] = jnp.tanh(made["h"])
        parts = {
            name: jnp.split(shard(s, None, "batch", None), self.num_layers, axis=-1)
            for name, s in made.items()
        }
        return tuple({name: parts[name][i] for name in parts} for i in range(self.num_layers))

    def matmul_flops(self) -> float:
        return 0.0  # once a text, not once a token
