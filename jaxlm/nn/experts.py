"""The experts of a mixture: stacked feed-forward networks that sorted tokens pass.

    up = ExpertKernels(num_experts, {"embed": D}, {"mlp": F}, std=0.02, rngs=rngs)     # [E, D, F]
    y = run_experts(function, [gate, up, down], x, chosen, weights, taken)             # [B, T, D]

Every device sorts its own tokens by expert, multiplies group by group, and brings the results back
to their places, where each token's are summed with their weights: nothing of a token depends on
where other tokens are. Where the mesh splits the experts, sorted tokens go to the devices that have
them, and come back; none is dropped. Kernels come gathered over fsdp; what `tensor` splits, the
width of the experts, is summed last, when a token's results are one again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

import jaxlm.kernels.megablox  # noqa: F401  (registers itself)
from jaxlm.kernels.exchange import Route, apart, send, send_back
from jaxlm.kernels.filled import move_filled, on_filled, sorted_by_group, twice_filled
from jaxlm.kernels.grouped_matmul import grouped_matmul
from jaxlm.kernels.quantized import Quantization, quantized_grouped_matmul
from jaxlm.mesh import gather_part, is_split, on_each_device, sum_parts
from jaxlm.nn.dense import Adaptable
from jaxlm.nn.stored_kernel import StoredKernel

KEPT = "experts"  # the name of what a backward pass that restores kernels finds saved
kept = partial(checkpoint_name, name=KEPT)


class ExpertKernels(Adaptable):
    """A kernel for each expert, drawn as `jaxlm.nn.dense.Dense` draws one."""

    def __init__(
        self,
        num_experts: int,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        *,
        std: float | None,
        scale: float = 1.0,
        rngs: nnx.Rngs,
    ) -> None:
        (rows,), (columns,) = inputs.values(), outputs.values()
        std = 1 / math.sqrt(rows) if std is None else std
        # In the kernel's own shape, so that each device draws its part and no more.
        draws = std * scale * jax.random.normal(rngs.params(), (num_experts, rows, columns))
        self.quantization: Quantization | None = None  # a model sets it
        self.num_inputs = 1
        self.kernel = nnx.Param(draws, axes=("experts", *inputs, *outputs))


@jax.named_scope("experts")
def run_experts(
    function: Callable[[jax.Array], jax.Array],
    parts: Sequence[ExpertKernels],
    x: jax.Array,  # [B, T, D]
    chosen: jax.Array,  # [B, T, k] int
    weights: jax.Array,  # [B, T, k]
    taken: jax.Array,  # [B, T, k] bool: a choice that is not is of weight 0, and costs nothing
) -> jax.Array:
    """sum_k weights_k down_k(function(gate_k(x)) * up_k(x)), [B, T, D]; without gate if not given.

    `parts` are [gate,] up, down.
    """
    axes = [part.kernel.get_metadata()["axes"] for part in parts]
    tokens, choices = ("batch", "length", "act_embed"), ("batch", "length", None)
    run = on_each_device(
        partial(_run, function, axes, parts[0].quantization),
        [tokens, choices, choices, choices, *axes],
        tokens,
    )

    def restored(*inputs: jax.Array) -> jax.Array:
        return run(*inputs, *(part.adapted_kernel().get_value() for part in parts))

    if any(isinstance(part.kernel, StoredKernel) for part in parts):
        # The backward pass restores the kernels again: saved, those of all layers would be whole.
        # Products, and what devices have sent each other, are saved.
        policy = jax.checkpoint_policies.save_only_these_names(KEPT)
        restored = jax.checkpoint(restored, policy=policy, prevent_cse=False)
    return restored(x, chosen, weights, taken)


def _run(
    function: Any,
    axes: list[tuple[str, ...]],
    low: Quantization | None,
    x: jax.Array,  # [B, T, D]
    chosen: jax.Array,  # [B, T, k]
    weights: jax.Array,
    taken: jax.Array,  # bool
    *kernels: jax.Array,  # [gate,] up, down: this device's parts
) -> jax.Array:
    """The tokens are sorted by expert, pass, and come back."""
    split = jax.lax.axis_size("expert") if is_split("expert") else 1
    num_experts, k, dim = split * len(kernels[0]), chosen.shape[-1], x.shape[-1]
    expert = jnp.where(taken, chosen, num_experts).reshape(-1)  # [M]; none comes last
    order = jnp.argsort(expert, stable=True)
    back = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)), unique_indices=True)
    sizes = jnp.diff(jnp.searchsorted(expert[order], jnp.arange(num_experts + 1)))

    def feed_forward(rows: jax.Array, sizes: jax.Array, fill: bool = True) -> jax.Array:
        """Rows [M, D] sorted by expert, so many of each that is here.

        Without `fill` the rows after them have any value.
        """

        def product(rows: jax.Array, index: int) -> jax.Array:
            def product(rows: jax.Array, kernel: jax.Array) -> jax.Array:
                kernel = gather_part(kernel, axes[index], rows.dtype)
                if low is not None:
                    return quantized_grouped_matmul(rows, kernel, sizes, low)
                return grouped_matmul(rows, kernel, sizes, fill=fill)

            if is_split("fsdp"):  # the backward pass gathers the kernels again, as in `Dense`
                product = jax.checkpoint(product, prevent_cse=False)
            return product(rows, kernels[index])

        def inner(first: jax.Array, *second: jax.Array) -> jax.Array:
            return function(first) * second[0] if second else function(first)

        rows, filled, last = kept(rows), sizes.sum(), len(kernels) - 1
        both = (rows, rows) if fill else twice_filled(filled, rows)
        parts = [kept(product(x, index)) for index, x in enumerate(both[:last])]
        between = inner(*parts) if fill else on_filled(inner, filled, *parts)
        return product(between, last)

    rows = _move(k, x.reshape(-1, dim), order, back)  # [M, D]
    # rounded rows have scales of their own, which have to be numbers in all of the room
    run = feed_forward if split == 1 else partial(_elsewhere, feed_forward, low is not None)
    y = kept(_move(1, run(rows, sizes), back, order)).reshape(*chosen.shape, dim)
    y = jnp.einsum("BTKD,BTK->BTD", y, weights, preferred_element_type=jnp.float32)
    return sum_parts(y.astype(x.dtype), "mlp")


def _elsewhere(feed_forward: Any, fill: bool, rows: jax.Array, sizes: jax.Array) -> jax.Array:
    """Sorted rows [M, D], on the devices that have their experts; `sizes` [E] are of this one's.

    Only an eighth of the room is filled where eight devices are equally busy: nothing here passes
    over the rest, but to `fill` it with zeros.
    """
    route = Route.of(sizes.reshape(jax.lax.axis_size("expert"), -1), "expert")
    came = send(apart(rows), route, "expert")  # [P * M, ...], by sender and expert
    to, back = sorted_by_group(route.sizes, len(came))
    filled = route.sizes.sum()
    rows = move_filled(came, to, back, filled, rows.shape[1:])  # [P * M, D]

    def known(x: jax.Array) -> jax.Array:
        return jnp.where(jnp.arange(len(x))[:, None] < filled, x, 0) if fill else x

    y = known(feed_forward(known(rows), route.sizes.sum(0), fill))
    y = move_filled(y, back, to, filled, came.shape[1:])
    return send_back(y, route, "expert").reshape(-1, *rows.shape[1:])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _move(copies: int, x: jax.Array, order: jax.Array, back: jax.Array) -> jax.Array:
    """Rows [M, D] in an order, of x [M / copies, D] each of whose rows counts so many times.

    `back` is the inverse order: with it the gradient needs no scatter.
    """
    return x[order // copies]


def _move_backward(copies, residuals, gradient):  # type: ignore[no-untyped-def]
    (back,) = residuals
    rows = gradient[back]
    return rows.reshape(-1, copies, rows.shape[-1]).sum(1), None, None


_move.defvjp(
    lambda copies, x, order, back: (_move(copies, x, order, back), (back,)), _move_backward
)
