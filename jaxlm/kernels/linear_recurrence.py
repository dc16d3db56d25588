"""An elementwise linear recurrence over time, computed in parallel or step by step:

    h_t = a_t h_{t-1} + b_t        a_t = 0 where `reset` is true

minGRU, minLSTM and RG-LRU are this recurrence once their gates, which depend on the inputs alone,
are computed (see `jaxlm.nn.linear_recurrent`). Two steps combine to one: (a, b) then (a', b') is
(a' a, a' b + b'). So all states are a prefix sum of an associative operator (Blelloch 1990;
Martin & Cundy 2018, arXiv:1709.04057), in 2 log2 T rounds instead of T steps.

    h = linear_recurrence(a, b, reset, state)        # [T, B, H], float32 throughout

The gradient is one more linear recurrence, backward in time. With d_t the gradient of output t and
g_t that of h_t as a whole:

    g_t = d_t + a_{t+1} g_{t+1};    db_t = g_t;    da_t = g_t h_{t-1}

Inputs before a reset are left out by selection, never by a product with 0, so values, gradients and
NaNs of one document do not reach another.

Which form is faster depends on the machine. On two CPU cores the loop is 2 to 4 times faster at
every length: values and gradients of [T, 16, 512] took 2, 16 and 135 ms at T 64, 256 and 1024, the
associative scan 4, 50 and 424, chunks of 16 steps 5, 63 and 368. On an accelerator the number of
rounds determines the time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxlm.kernels.registry import Kernel

linear_recurrence_kernels = Kernel("linear recurrence")

Form = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


@jax.named_scope("recurrence")
def linear_recurrence(
    decay: jax.Array,  # [T, B, H] a
    inputs: jax.Array,  # [T, B, H] b
    reset: jax.Array,  # [T, B] bool: the state is set to zero before this step
    state: jax.Array,  # [B, H] before the first step
    *,
    impl: str = "auto",
) -> jax.Array:
    """The states after every step, [T, B, H] float32."""
    run = linear_recurrence_kernels.pick(impl)
    decay, inputs, state = (x.astype(jnp.float32) for x in (decay, inputs, state))
    return run(_keep(decay, reset), inputs, reset, state)


@linear_recurrence_kernels.register("reference")
def _loop(a: jax.Array, b: jax.Array, reset: jax.Array, state: jax.Array) -> jax.Array:
    """The loop over time, step by step."""

    def step(h: jax.Array, inputs: tuple) -> tuple[jax.Array, jax.Array]:
        a, b, reset = inputs
        h = a * _keep(h, reset) + b
        return h, h

    return jax.lax.scan(step, state, (a, b, reset))[1]


def _tree(a: jax.Array, b: jax.Array, reset: jax.Array, state: jax.Array) -> jax.Array:
    """A prefix sum; a segment that contains a reset drops the state on its left."""

    def join(left: tuple, right: tuple) -> tuple:
        (a, b, reset), (later_a, later_b, later_reset) = left, right
        joined = later_b + jnp.where(later_reset, 0, later_a * b)
        return later_a * a, joined, reset | later_reset

    b = b.at[0].add(_keep(a[0] * state, reset[0]))
    return jax.lax.associative_scan(join, (a, b, reset[..., None]))[1]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _solve(form: Form, a: jax.Array, b: jax.Array, reset: jax.Array, state: jax.Array) -> jax.Array:
    """The recurrence in this form, forward and backward."""
    return form(a, b, reset, state)


def _solve_forward(form, a, b, reset, state):  # type: ignore[no-untyped-def]
    h = form(a, b, reset, state)
    return h, (a, reset, state, h)


def _solve_backward(form, residuals, d):  # type: ignore[no-untyped-def]
    a, reset, state, h = residuals
    # From the last step to the first; the last step has no gradient from a later one.
    following = lambda x, end: jnp.concatenate([x[1:], jnp.full_like(x[:1], end)])[::-1]  # noqa: E731
    g = form(following(a, 0), d[::-1], following(reset, True), jnp.zeros_like(state))[::-1]
    before = _keep(jnp.concatenate([state[None], h[:-1]]), reset)
    return g * before, g, None, _keep(a[0] * g[0], reset[0])


_solve.defvjp(_solve_forward, _solve_backward)

linear_recurrence_kernels.register("scan", auto_on=("cpu",))(partial(_solve, _loop))
linear_recurrence_kernels.register("associative", auto_on=("gpu", "tpu"))(partial(_solve, _tree))


def _keep(x: jax.Array, reset: jax.Array) -> jax.Array:
    """x [..., H] with zeros where `reset` [...] is true: a selection, so no NaN passes."""
    return jnp.where(reset[..., None], 0, x)
