"""Recurrent layers: LSTM, GRU and Elman RNN, with weight dropout; and all cells by name.

The projections of the inputs at all time steps are one matmul before the loop over time; what the
loop computes, and each cell's formula, is in `jaxlm.kernels.recurrence`. All arrays are time-major.
The cells whose gates do not see the state, and which run in parallel over time for that, are in
`jaxlm.nn.linear_recurrent`.

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

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.kernels import recurrence
from jaxlm.mesh import shard
from jaxlm.nn.dense import Adaptable, Dense, whole
from jaxlm.nn.dropout import dropout
from jaxlm.nn.linear_recurrent import RGLRU, MinGRU, MinLSTM
from jaxlm.nn.recurrent_layer import RecurrentLayer, uniform_kernel

Initializer = Literal["uniform", "orthogonal"]


class Gated(RecurrentLayer):
    """A layer whose gates see the state: the base of the cells below."""

    num_gates: ClassVar[int]
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
            kernel = uniform_kernel((inputs, outputs["gates"]), hidden, rngs)
            self.input.kernel = nnx.Param(kernel, axes=("embed", "gates"))
            kernel = uniform_kernel((hidden, outputs["gates"]), hidden, rngs)
        else:
            kernel = _orthogonal(self.num_gates, hidden, rngs)
        self.recurrent = RecurrentWeights(kernel, hidden if self.recurrent_bias else 0)

    @property
    def cell(self) -> recurrence.Cell:
        raise NotImplementedError

    def steps(
        self,
        x: jax.Array,
        reset: jax.Array,
        state: recurrence.State,
        *,
        every_state: bool = False,
        key: jax.Array | None = None,
    ) -> recurrence.Steps:
        kernel, bias = self.weights(key)
        gates = self.project(x)
        states, state = recurrence.recur(
            self.cell,
            gates,
            kernel,
            bias,
            reset,
            state,
            unroll=self.unroll,
            impl=self.impl,
            every_state=every_state,
        )
        shown = {name: shard(s, None, "batch", "act_hidden") for name, s in states.items()}
        return recurrence.Steps(shown, state)

    @jax.named_scope("recurrence")
    def project(self, x: jax.Array) -> jax.Array:  # [T, B, D] -> [T, B, G*H]
        """The inputs' part of all gates, at all time steps together."""
        return shard(self.input(x), None, "batch", None)

    def input_weights(self) -> tuple[jax.Array, jax.Array]:
        """Kernel and bias of `project`, for a loop over time of the caller's own."""
        assert self.input.bias is not None
        return whole(self.input.adapted_kernel(), self.dtype), whole(self.input.bias, self.dtype)

    @jax.named_scope("recurrence")
    def weights(self, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
        """The weights that the loop over time applies to the state: the kernel and its bias [G*H].

        They are whole on every device; the input projection stays split over its gates.
        """
        kernel = dropout(self.recurrent.adapted_kernel().get_value(), self.weight_dropout, key)
        kernel = shard(kernel.astype(self.dtype), None, None)
        if self.recurrent.bias is None:
            return kernel, None
        bias = whole(self.recurrent.bias, jnp.float32)  # it belongs to the last gate
        return kernel, jnp.pad(bias, ((self.num_gates - 1) * self.hidden, 0))


class RecurrentWeights(Adaptable):
    """The kernel [H, G*H] that the loop over time multiplies the state with; a GRU's bias [H]."""

    def __init__(self, kernel: jax.Array, bias: int) -> None:
        self.num_inputs = 1
        self.kernel = nnx.Param(kernel, axes=("hidden", "gates"))
        zeros = jnp.zeros((bias,), jnp.float32)
        self.bias = nnx.Param(zeros, axes=("gates",)) if bias else None


class LSTM(Gated):
    num_gates = 4  # i, f, g, o
    state_names = ("h", "c")
    cell = recurrence.LSTM()

    def __init__(self, inputs: int, hidden: int, **options: Any) -> None:
        super().__init__(inputs, hidden, **options)
        bias = jnp.zeros((4, hidden), jnp.float32).at[1].set(1.0).reshape(-1)
        self.input.bias = nnx.Param(bias, axes=("gates",))


class GRU(Gated):
    num_gates = 3  # r, z, n
    recurrent_bias = True  # of n alone: those of r and z would only add to the input's
    cell = recurrence.GRU()


class Elman(Gated):
    num_gates = 1
    own_activation = False

    @property
    def cell(self) -> recurrence.Cell:
        return recurrence.Elman(self.activation)


CELLS: dict[str, type[RecurrentLayer]] = {
    "lstm": LSTM,
    "gru": GRU,
    "elman": Elman,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
    "rglru": RGLRU,
}


@jax.named_scope("recurrence")
def word_dropout(
    x: jax.Array,  # [..., D] embeddings of
    tokens: jax.Array,  # [...]
    vocab_size: int,
    rate: float,
    key: jax.Array | None,
) -> jax.Array:
    """Zeroes each word of the vocabulary, at all of its places, with probability `rate`."""
    if key is None or rate == 0.0:
        return x
    words = dropout(jnp.ones((vocab_size,), x.dtype), rate, key)
    return x * jnp.take(words, tokens, axis=0)[..., None]


def _orthogonal(num_gates: int, hidden: int, rngs: nnx.Rngs) -> jax.Array:
    matrices = jax.random.orthogonal(rngs.params(), hidden, (num_gates,))  # [G, H, H]
    return jnp.concatenate(list(matrices), axis=1)  # [H, G*H]
