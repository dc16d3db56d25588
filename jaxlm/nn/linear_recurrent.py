"""Recurrent layers whose gates see the inputs alone: minGRU, minLSTM and RG-LRU.

Their states are linear in the states before, so that all of them are one call of
`jaxlm.kernels.linear_recurrence`, in parallel over time. With s the sigmoid, W linear maps:

    minGRU (Feng et al. 2024, arXiv:2410.01201, section 3.1)
        z = s(W_z x);  h' = (1 - z) h + z g(W_h x)
    minLSTM (section 3.2; its gates share 1 between them)
        f = s(W_f x), i = s(W_i x);  h' = (f h + i g(W_h x)) / (f + i)
    RG-LRU (De et al. 2024, arXiv:2402.19427, section 2.4), with u = W x of the layer's width
        r = s(W_a u), i = s(W_x u), a = s(p)^(8 r);  h' = a h + sqrt(1 - a^2) (i u)

g(x) is x + 1/2 above 0 and s(x) below, as in the code that goes with Feng et al. (appendix B): the
states stay positive. At the start of a document a is 0, so RG-LRU's first input is not scaled down,
as in its authors' code (github.com/google-deepmind/recurrentgemma).

Initialisation is each paper's: minGRU and minLSTM draw kernels from U(-1/sqrt(D), 1/sqrt(D)),
PyTorch's rule for linear maps; RG-LRU's kernels are normal with variance 1/D (LeCun), and p is such
that s(p)^8 is uniform in [0.9, 0.999]. Biases are 0. Gates and states are float32.

    layer = MinGRU(inputs=D, hidden=H, rngs=rngs)
    y, state = layer(x, reset, layer.init_state(batch_size))        # [T, B, D] -> [T, B, H]
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.kernels.linear_recurrence import linear_recurrence
from jaxlm.kernels.recurrence import State, Steps
from jaxlm.mesh import shard
from jaxlm.nn.dense import Dense
from jaxlm.nn.recurrent_layer import RecurrentLayer, uniform_kernel

POWER = 8.0  # c of RG-LRU
DECAYS = (0.9, 0.999)  # of RG-LRU at the start, at an open gate


class LinearRecurrent(RecurrentLayer):
    """The base of the cells below, which make decays and inputs [T, B, H] of x."""

    recurrent_kernel = False

    def __init__(
        self,
        inputs: int,
        hidden: int,
        *,
        dtype: Any = jnp.float32,
        impl: str = "auto",
        rngs: nnx.Rngs,
        **_: Any,  # what only cells with recurrent weights have
    ) -> None:
        self.hidden, self.impl = hidden, impl
        self.dtype = jnp.dtype(dtype)

    def steps(
        self,
        x: jax.Array,
        reset: jax.Array,
        state: State,
        *,
        every_state: bool = False,
        key: jax.Array | None = None,
    ) -> Steps:
        decay, inputs = self.terms(x.astype(self.dtype), reset)
        h = linear_recurrence(decay, inputs, reset, state["h"], impl=self.impl)
        outputs = shard(h.astype(self.dtype), None, "batch", "act_hidden")
        return Steps({"h": outputs}, {"h": h[-1]})

    def terms(self, x: jax.Array, reset: jax.Array) -> tuple[jax.Array, jax.Array]:
        """a and b of h' = a h + b, float32."""
        raise NotImplementedError


class Minimal(LinearRecurrent):
    """minGRU and minLSTM: gates and a candidate, all of them linear maps of x."""

    gates: ClassVar[tuple[str, ...]]

    def __init__(self, inputs: int, hidden: int, *, rngs: nnx.Rngs, **options: Any) -> None:
        super().__init__(inputs, hidden, rngs=rngs, **options)
        for name in (*self.gates, "candidate"):
            dense = Dense(
                {"embed": inputs}, {"gates": hidden}, bias=True, dtype=self.dtype, rngs=rngs
            )
            kernel = uniform_kernel((inputs, hidden), inputs, rngs)
            dense.kernel = nnx.Param(kernel, axes=("embed", "gates"))
            setattr(self, name, dense)

    def _project(self, name: str, x: jax.Array) -> jax.Array:
        return _wide(getattr(self, name)(x))

    def _candidate(self, x: jax.Array) -> jax.Array:
        x = self._project("candidate", x)
        return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))


class MinGRU(Minimal):
    gates = ("update",)

    def terms(self, x: jax.Array, reset: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = self._project("update", x)
        return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * self._candidate(x)


class MinLSTM(Minimal):
    gates = ("forget", "input")

    def terms(self, x: jax.Array, reset: jax.Array) -> tuple[jax.Array, jax.Array]:
        f, i = (jax.nn.log_sigmoid(self._project(name, x)) for name in self.gates)
        # f / (f + i) by its logarithm, which is exact where both gates are nearly shut
        return jax.nn.sigmoid(f - i), jax.nn.sigmoid(i - f) * self._candidate(x)


class RGLRU(LinearRecurrent):
    def __init__(self, inputs: int, hidden: int, *, rngs: nnx.Rngs, **options: Any) -> None:
        super().__init__(inputs, hidden, rngs=rngs, **options)
        dense = partial(Dense, bias=True, dtype=self.dtype, rngs=rngs)
        self.input = dense({"embed": inputs}, {"gates": hidden})
        self.recurrence_gate = dense({"hidden": hidden}, {"gates": hidden})
        self.input_gate = dense({"hidden": hidden}, {"gates": hidden})
        open_decay = jax.random.uniform(rngs.params(), (hidden,), jnp.float32, *DECAYS)
        log_decay = jnp.log(open_decay) / POWER
        self.decay = nnx.Param(log_decay - jnp.log(-jnp.expm1(log_decay)), axes=("gates",))

    def terms(self, x: jax.Array, reset: jax.Array) -> tuple[jax.Array, jax.Array]:
        u = self.input(x)
        r, i = (jax.nn.sigmoid(_wide(gate(u))) for gate in (self.recurrence_gate, self.input_gate))
        log_a = POWER * r * jax.nn.log_sigmoid(self.decay.get_value())
        scale = jnp.where(reset[..., None], 1.0, _bounded_sqrt(-jnp.expm1(2 * log_a)))
        return jnp.exp(log_a), scale * i * _wide(u)


def _wide(x: jax.Array) -> jax.Array:
    """The input of the loop: float32, split over its width, which it never sums over."""
    return shard(x.astype(jnp.float32), None, "batch", "act_gates")


@jax.custom_vjp
def _bounded_sqrt(x: jax.Array) -> jax.Array:
    """sqrt with a slope of at most 1000, as in RG-LRU's authors' code: a may come to be 1."""
    return jnp.sqrt(x)


_bounded_sqrt.defvjp(
    lambda x: ((y := jnp.sqrt(x)), y), lambda y, d: (d / jnp.maximum(2 * y, 1e-3),)
)
