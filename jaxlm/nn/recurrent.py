"""Recurrent layers: LSTM, GRU and Elman RNN, with weight dropout.

The projections of the inputs at all time steps are one matmul before the loop over time; what the
loop computes, and each cell's formula, is in `jaxlm.kernels.recurrence`. All arrays are time-major.

    layer = CELLS["lstm"](inputs=D, hidden=H, rngs=rngs)
    y, state = layer(x, reset, layer.init_state(batch_size))        # [T, B, D] -> [T, B, H]

Weight dropout (DropConnect, as in AWD-LSTM, Merity et al. 2018, arXiv:1708.02182, section 2) zeroes
elements of the recurrent kernel, with one mask for all steps of a call; `word_dropout` zeroes whole
words (section 4.3). Variational dropout is `dropout(x, rate, key, shared_dims=(0,))`: one mask over
time.

Initialisation: "uniform" draws kernels from U(-1/sqrt(H), 1/sqrt(H)), PyTorch's rule; "orthogonal"
makes each gate's recurrent matrix orthogonal (Saxe et al. 2014) and the input kernel normal with
variance 1/D. Biases are 0, the LSTM's forget gate's 1 (Jozefowicz et al. 2015).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.kernels import recurrence
from jaxlm.mesh import shard
from jaxlm.nn.dense import Dense
from jaxlm.nn.dropout import dropout

Initializer = Literal["uniform", "orthogonal"]


class Recurrent(nnx.Module):
    """One recurrent layer: the base of the cells below, which say how its gates are used."""

    num_gates: ClassVar[int]
    state_names: ClassVar[tuple[str, ...]] = ("h",)
    recurrent_bias: ClassVar[bool] = False

    def __init__(
        self,
        inputs: int,
        hidden: int,
        *,
        weight_dropout: float = 0.0,
        activation: recurrence.Activation = "tanh",
        initializer: Initializer = "uniform",
        dtype: Any = jnp.float32,
        unroll: int = 1,
        impl: str = "auto",
        rngs: nnx.Rngs,
    ) -> None:
        """`weight_dropout`: the share of recurrent weights dropped; `activation`: the Elman cell's.

        `unroll`: time steps in one iteration of the loop; `impl`: the recurrence kernel's name.
        """
        self.hidden = hidden
        self.weight_dropout = weight_dropout
        self.activation = activation
        self.dtype = jnp.dtype(dtype)
        self.unroll, self.impl = unroll, impl
        outputs = {"gates": self.num_gates * hidden}
        self.input = Dense({"embed": inputs}, outputs, bias=True, dtype=dtype, rngs=rngs)
        if initializer == "uniform":
            kernel = _uniform((inputs, outputs["gates"]), hidden, rngs)
            self.input.kernel = nnx.Param(kernel, axes=("embed", "gates"))
            kernel = _uniform((hidden, outputs["gates"]), hidden, rngs)
        else:
            kernel = _orthogonal(self.num_gates, hidden, rngs)
        self.recurrent = RecurrentWeights(kernel, hidden if self.recurrent_bias else 0)

    def __call__(
        self,
        x: jax.Array,  # [T, B, D]
        reset: jax.Array,  # [T, B] bool: the state is zero before this step
        state: recurrence.State,  # {"h": [B, H], ...} float32
        *,
        key: jax.Array | None = None,
    ) -> recurrence.Result:
        """Outputs [T, B, H] in the compute dtype, and the state after the last step."""
        kernel = dropout(self.recurrent.kernel.get_value(), self.weight_dropout, key)
        # Whole on every device: a collective at each of T small steps would cost more than the
        # matmuls that it saves. The input projection stays split over its gates.
        kernel = shard(kernel.astype(self.dtype), None, None)
        gates = shard(self.input(x), None, "batch", None)  # [T, B, G*H]
        result = self._recur(gates, kernel, reset, state, unroll=self.unroll, impl=self.impl)
        return recurrence.Result(shard(result.outputs, None, "batch", "act_hidden"), result.state)

    def init_state(self, batch_size: int) -> recurrence.State:
        return {
            name: jnp.zeros((batch_size, self.hidden), jnp.float32) for name in self.state_names
        }

    def _recur(self, gates: Any, kernel: Any, reset: Any, state: Any, **how: Any) -> Any:
        raise NotImplementedError


class RecurrentWeights(nnx.Module):
    """The kernel [H, G*H] that the loop over time multiplies the state with; a GRU's bias [H]."""

    def __init__(self, kernel: jax.Array, bias: int) -> None:
        self.kernel = nnx.Param(kernel, axes=("hidden", "gates"))
        zeros = jnp.zeros((bias,), jnp.float32)
        self.bias = nnx.Param(zeros, axes=("gates",)) if bias else None


class LSTM(Recurrent):
    num_gates = 4  # i, f, g, o
    state_names = ("h", "c")

    def __init__(self, inputs: int, hidden: int, **options: Any) -> None:
        super().__init__(inputs, hidden, **options)
        bias = jnp.zeros((4, hidden), jnp.float32).at[1].set(1.0).reshape(-1)
        self.input.bias = nnx.Param(bias, axes=("gates",))

    def _recur(self, gates: Any, kernel: Any, reset: Any, state: Any, **how: Any) -> Any:
        return recurrence.lstm(gates, kernel, reset, state, **how)


class GRU(Recurrent):
    num_gates = 3  # r, z, n
    recurrent_bias = True  # of n alone: those of r and z would only add to the input's

    def _recur(self, gates: Any, kernel: Any, reset: Any, state: Any, **how: Any) -> Any:
        assert self.recurrent.bias is not None
        bias = shard(self.recurrent.bias.get_value(), None)
        return recurrence.gru(gates, kernel, bias, reset, state, **how)


class Elman(Recurrent):
    num_gates = 1

    def _recur(self, gates: Any, kernel: Any, reset: Any, state: Any, **how: Any) -> Any:
        act = self.activation
        return recurrence.elman(gates, kernel, reset, state, activation=act, **how)


CELLS: dict[str, type[Recurrent]] = {"lstm": LSTM, "gru": GRU, "elman": Elman}


def word_dropout(
    x: jax.Array,  # [..., D] embeddings of
    tokens: jax.Array,  # [...]
    vocab_size: int,
    rate: float,
    key: jax.Array | None,
) -> jax.Array:
    """Zeroes each word of the vocabulary, wherever it stands, with probability `rate`."""
    if key is None or rate == 0.0:
        return x
    words = dropout(jnp.ones((vocab_size,), x.dtype), rate, key)
    return x * jnp.take(words, tokens, axis=0)[..., None]


def _uniform(shape: tuple[int, ...], hidden: int, rngs: nnx.Rngs) -> jax.Array:
    bound = 1 / math.sqrt(hidden)
    return jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)


def _orthogonal(num_gates: int, hidden: int, rngs: nnx.Rngs) -> jax.Array:
    matrices = jax.random.orthogonal(rngs.params(), hidden, (num_gates,))  # [G, H, H]
    return jnp.concatenate(list(matrices), axis=1)  # [H, G*H]
