"""Optimizers: a typed config each, built into one optax transformation for a tree of parameters.

Whatever the optimizer, an update is made in the same order:

    gradient + l1 sign(w) + l2 w  ->  clip by global norm  ->  the optimizer's direction
    -> + weight_decay w  ->  * learning rate * schedule(step) * multipliers  ->  negated

The multipliers are those of lr_groups and of layer_decay; a parameter has no update before it is
unfrozen (`jaxlm.optim.by_layer`).

So l1 and l2 act like terms of the loss (l1 |w| + l2 w^2 / 2), and weight_decay is decoupled
(arXiv:1711.05101). Statistics of stacked parameters (layers, experts) are kept matrix by matrix.

    optimizer = build(AdamW(learning_rate=1e-3), abstract_params, axes, total_steps=1000)
    abstract_state = jax.eval_shape(optimizer.tx.init, abstract_params)
    shardings = state_shardings(abstract_state, abstract_params, axes, mesh)
    opt_state = jax.jit(optimizer.tx.init, out_shardings=shardings)(params)
    updates, opt_state = optimizer.tx.update(grads, opt_state, params, step=step)
    params = optax.apply_updates(params, updates)

`update` also takes `norm`, the norm of the gradients where it is known, and `good`: where it is
False, the state does not change (`jaxlm.optim.guard`).

The schedule follows the run's step, which the caller gives, so a skipped step does not delay it.
Bias corrections follow the optimizer's own count of updates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten, map_with_path
from jaxlm.mesh import spec_of
from jaxlm.optim.base import OptimizerConfig
from jaxlm.optim.by_layer import decays, depths, starts
from jaxlm.optim.guard import guarded
from jaxlm.optim.param_groups import HELD, group_values
from jaxlm.optim.schedules.base import Schedule

Axes = tuple[str | None, ...]


@dataclass(frozen=True)
class Optimizer:
    """The optimizer of the train step. `tx` turns mean gradients into updates to add to the
    parameters."""

    config: OptimizerConfig
    tx: optax.GradientTransformationExtraArgs
    schedule: Schedule  # step -> learning rate, float32; jittable
    begin: Any = None  # the first step that changes each parameter; None: all begin with the first

    def held(self, params: Any, before: Any, step: Any) -> Any:
        """The parameters, with their values of `before` where they do not change yet at a step."""
        if self.begin is None:
            return params
        return jax.tree.map(
            lambda x, old, start: jnp.where(step >= start, x, old), params, before, self.begin
        )


def build(
    config: OptimizerConfig,
    abstract_params: Any,
    axes: Any,
    total_steps: int,
    *,
    model: tuple[Any, Any] | None = None,
) -> Optimizer:
    """The optimizer for parameters of these shapes and logical axes, over `total_steps` updates.

    `abstract_params` and `axes` are nested dicts, as `jaxlm.nn.params.split` gives them. model: the
    same two of the whole model, where some of its parameters are not trained. Raises `UserError`
    for groups that do not fit the parameters and a schedule that does not fit the run.
    """
    config.validate()
    if config.averaging is not None and config.ema_decay is not None:
        raise UserError(
            "optimizer.averaging, optimizer.ema_decay: a run keeps one average of its weights; set "
            "one of the two to null"
        )
    assert flatten(abstract_params).keys() == flatten(axes).keys()
    factor = config.schedule.build(total_steps)

    def schedule(step: Any) -> jax.Array:
        return config.learning_rate * factor(step)

    values = {
        name: group_values(f"optimizer.{name}", getattr(config, name), axes)
        for name in ("l1", "l2", "weight_decay")
    }
    rates = config.relative_rates(axes)
    for index, group in enumerate(config.lr_groups):
        if group.value == 0:
            raise UserError(
                f"optimizer.lr_groups.{index}: a rate of 0 computes a gradient and keeps moments "
                "for nothing; freeze these parameters by adapter={type: freeze, train: [...]}"
            )
    if config.lr_groups:
        groups = group_values("optimizer.lr_groups", config.lr_groups, axes)
        rates = jax.tree.map(lambda a, b: a * b, rates, groups)
    places = depths(*(model or (abstract_params, axes)))
    if config.layer_decay != 1:
        by_depth = decays(config.layer_decay, places, axes)
        rates = jax.tree.map(lambda a, b: a * b, rates, by_depth)
    begin = None if config.unfreeze is None else starts(config.unfreeze, places, axes)
    rates = map_with_path(lambda path, r: 0.0 if path.rpartition("/")[2] in HELD else r, rates)
    clip = config.clip_norm
    penalised = any(jax.tree.leaves((values["l1"], values["l2"])))
    tx = optax.chain(
        _add(values["l1"], jnp.sign),
        _add(values["l2"], lambda p: p),
        _clip(clip, begin, penalised) if clip is not None else optax.identity(),
        guarded(config.direction(axes)),
        _add(values["weight_decay"], lambda p: p),
        optax.stateless(lambda u, _: jax.tree.map(_times, u, rates)),
        _descend(schedule, begin),
    )
    return Optimizer(config, tx, schedule, begin)


def update_ema(ema: Any, params: Any, decay: float) -> Any:
    """decay * ema + (1 - decay) * params, leaf by leaf; `ema` starts as the initial parameters."""
    return jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), ema, params)


def state_axes(abstract_state: Any, abstract_params: Any, axes: Any) -> list[Axes]:
    """The logical axes of each leaf of an optimizer's state, in the order of `jax.tree.leaves`.

    `abstract_state` is `jax.eval_shape(tx.init, abstract_params)`. A leaf at a parameter's path has
    the parameter's axes, and None for a dim that an average has brought to size 1. Other leaves are
    scalars, without axes.
    """
    shapes, names = flatten(abstract_params), flatten(axes)

    def axes_of(keys: tuple[Any, ...], leaf: Any) -> Axes:
        path = _param_path(keys)
        if path not in shapes:
            assert leaf.ndim == 0, (
                f"{jax.tree_util.keystr(keys)} of the state belongs to no parameter"
            )
            return ()
        dims = list(zip(names[path], leaf.shape, shapes[path].shape, strict=True))
        assert all(size in (full, 1) for _, size, full in dims), f"{path}: state {leaf.shape}"
        return tuple(axis if size == full else None for axis, size, full in dims)

    return [axes_of(*item) for item in jax.tree_util.tree_leaves_with_path(abstract_state)]


def state_shardings(
    abstract_state: Any, abstract_params: Any, axes: Any, mesh: Mesh, *, offload: bool = False
) -> Any:
    """A NamedSharding for each leaf of an optimizer's state, in a tree like `abstract_state`.

    Moments are split like their parameters, and with `offload` are in host memory; scalars are
    replicated on the devices.
    """
    leaves = [
        NamedSharding(
            mesh, spec_of(names), memory_kind="pinned_host" if offload and names else "device"
        )
        for names in state_axes(abstract_state, abstract_params, axes)
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)


def _add(weights: Any, function: Callable[[jax.Array], jax.Array]) -> optax.GradientTransformation:
    """Adds weight * function(parameter) to each update."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, p, w: u + w * function(p) if w else u, updates, params, weights
        )
    )


def _times(x: jax.Array, rate: Any) -> jax.Array:
    """An update with its multiplier: a number, or an array of the layers of a stack."""
    return x if isinstance(rate, float) and rate == 1 else x * jnp.asarray(rate, x.dtype)


def _active(tree: Any, begin: Any, step: Any, otherwise: float) -> Any:
    """A tree in which the parameters that begin to change after `step` have another value."""
    if begin is None:
        return tree
    return jax.tree.map(
        lambda x, start: jnp.where(step >= start, x, jnp.asarray(otherwise, x.dtype)), tree, begin
    )


def _clip(largest: float, begin: Any, penalised: bool) -> optax.GradientTransformationExtraArgs:
    """Scales gradients whose norm, that of the parameters that change, exceeds `largest`.

    penalised: the gradients of penalties were added to those whose norm the caller knows.
    """

    def update(
        updates: Any, state: Any, params: Any = None, *, step: Any, norm: Any = None, **_: Any
    ) -> Any:
        if norm is None or penalised or begin is not None:
            norm = optax.tree.norm(_active(updates, begin, step, 0.0))
        scale = jnp.where(norm < largest, 1.0, largest / norm)
        return jax.tree.map(lambda u: u * scale.astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def _descend(schedule: Schedule, begin: Any) -> optax.GradientTransformationExtraArgs:
    """Multiplies by minus the learning rate of the step that `update` is given."""

    def update(updates: Any, state: Any, params: Any = None, *, step: Any, **_: Any) -> Any:
        rate = -schedule(step)
        updates = jax.tree.map(lambda u: rate.astype(u.dtype) * u, updates)
        return _active(updates, begin, step, -0.0), state  # x + -0.0 is x, whatever its sign

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def _param_path(keys: tuple[Any, ...]) -> str:
    """The trailing dict keys of a path into the state: the path of a parameter, if it is one's."""
    names: list[str] = []
    for key in reversed(keys):
        if not isinstance(key, jax.tree_util.DictKey):
            break
        names.append(str(key.key))
    return "/".join(reversed(names))
