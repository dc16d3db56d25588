"""Optimizers: a typed config each, built into one optax transformation for a tree of parameters.

Whatever the optimizer, an update is made in the same order:

    gradient + l1 sign(w) + l2 w  ->  clip by global norm  ->  the optimizer's direction
    -> + weight_decay w  ->  * learning rate * schedule(step) * multiplier of lr_groups  ->  negated

So l1 and l2 act like terms of the loss (l1 |w| + l2 w^2 / 2), and weight_decay is decoupled
(arXiv:1711.05101). Statistics of stacked parameters (layers, experts) are kept matrix by matrix.

    optimizer = build(AdamW(learning_rate=1e-3), abstract_params, axes, total_steps=1000)
    abstract_state = jax.eval_shape(optimizer.tx.init, abstract_params)
    shardings = state_shardings(abstract_state, abstract_params, axes, mesh)
    opt_state = jax.jit(optimizer.tx.init, out_shardings=shardings)(params)
    updates, opt_state = optimizer.tx.update(grads, opt_state, params, step=step)
    params = optax.apply_updates(params, updates)

The schedule follows the run's step, which the caller gives, so a skipped step does not delay it.
Bias corrections follow the optimizer's own count of updates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from jaxlm.core.config import REQUIRED, Config, Kind, UserError, field
from jaxlm.core.tree import flatten, map_with_path
from jaxlm.core.types import ScheduleConfig
from jaxlm.mesh import spec_of
from jaxlm.optim import matrix
from jaxlm.optim.param_groups import HELD, LOOKUPS, Group, group_values, tree_of_dims
from jaxlm.optim.schedules import Constant, Schedule

MomentDtype = Literal["float32", "bfloat16"]
Axes = tuple[str | None, ...]


@dataclass(frozen=True)
class Optimizer:
    """What the train step needs. `tx` turns mean gradients into updates to add to the
    parameters."""

    config: OptimizerConfig
    tx: optax.GradientTransformationExtraArgs
    schedule: Schedule  # step -> learning rate, float32; jittable


def build(config: OptimizerConfig, abstract_params: Any, axes: Any, total_steps: int) -> Optimizer:
    """The optimizer for parameters of these shapes and logical axes, over `total_steps` updates.

    `abstract_params` and `axes` are nested dicts, as `jaxlm.nn.params.split` gives them. Raises
    `UserError` for groups that do not fit the parameters and a schedule that does not fit the run.
    """
    config.validate()
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
    rates = map_with_path(lambda path, r: 0.0 if path.rpartition("/")[2] in HELD else r, rates)
    clip = config.clip_norm
    tx = optax.chain(
        _add(values["l1"], jnp.sign),
        _add(values["l2"], lambda p: p),
        optax.clip_by_global_norm(clip) if clip is not None else optax.identity(),
        config.direction(axes),
        _add(values["weight_decay"], lambda p: p),
        optax.stateless(lambda u, _: jax.tree.map(lambda x, r: x if r == 1 else x * r, u, rates)),
        _descend(schedule),
    )
    return Optimizer(config, tx, schedule)


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


# ------------------------------------------------------------------------------------------ configs


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Config):
    """The fields of every optimizer: how gradients become updates."""

    kind: ClassVar = Kind("optimizers", "optimizer", folder="jaxlm.optim")

    learning_rate: float = field(REQUIRED, "the peak learning rate", gt=0, affects="schedule")
    schedule: ScheduleConfig = field(
        Constant, "the factor of the learning rate, by step", affects="schedule"
    )
    clip_norm: float | None = field(
        1.0, "largest global norm of the gradients; null: not clipped", gt=0, affects="schedule"
    )
    weight_decay: float | tuple[Group, ...] = field(
        0.0,
        "decoupled decay, times the learning rate: a number for matrices, or groups",
        ge=0,
        affects="schedule",
    )
    l1: float | tuple[Group, ...] = field(
        0.0, "penalty l1 |w| in the loss: a number for matrices, or groups", ge=0
    )
    l2: float | tuple[Group, ...] = field(
        0.0, "penalty l2 w^2 / 2 in the loss: a number for matrices, or groups", ge=0
    )
    lr_groups: tuple[Group, ...] = field(
        (),
        "multipliers of the learning rate, by parameter, above 0; empty: 1 for all",
        affects="schedule",
    )
    offload: bool = field(False, "keep the moments in host memory between updates")
    ema_decay: float | None = field(
        None, "decay of the moving average of the weights (EMA); null: no average", ge=0, lt=1
    )

    def direction(self, axes: Any) -> optax.GradientTransformation:
        """Maps gradients to a direction of ascent, before weight decay and learning rate."""
        raise NotImplementedError

    def relative_rates(self, axes: Any) -> Any:
        """The learning rate of each parameter, relative to `learning_rate`."""
        return map_with_path(lambda path, _: 1.0, axes)


@dataclass(frozen=True, kw_only=True)
class SGD(OptimizerConfig, type="sgd"):
    """Stochastic gradient descent, with (Nesterov) momentum if asked for."""

    learning_rate: float = field(0.1, "the peak learning rate", gt=0)
    momentum: float = field(0.0, "decay of the sum of past gradients; 0: not kept", ge=0, lt=1)
    nesterov: bool = field(False, "look one step ahead along the momentum")
    mu_dtype: MomentDtype = field("float32", "dtype in which the momentum is kept")

    def validate(self) -> None:
        if self.nesterov and not self.momentum:
            raise UserError("nesterov: needs momentum; set momentum, such as 0.9")

    def direction(self, axes: Any) -> optax.GradientTransformation:
        if not self.momentum:
            return optax.identity()
        return optax.trace(self.momentum, self.nesterov, jnp.dtype(self.mu_dtype))


@dataclass(frozen=True, kw_only=True)
class Adam(OptimizerConfig, type="adam"):
    """Adam (arXiv:1412.6980)."""

    learning_rate: float = field(1e-3, "the peak learning rate", gt=0)
    beta1: float = field(0.9, "decay of the first moment", ge=0, lt=1)
    beta2: float = field(0.999, "decay of the second moment", ge=0, lt=1)
    eps: float = field(1e-8, "added to the root of the second moment", gt=0)
    mu_dtype: MomentDtype = field("float32", "dtype in which the first moment is kept")

    def validate(self) -> None:
        if type(self) is Adam and self.weight_decay != 0:
            raise UserError(
                "weight_decay: adam has none that is decoupled; use type: adamw, or l2 in the loss"
            )

    def direction(self, axes: Any) -> optax.GradientTransformation:
        return optax.scale_by_adam(
            self.beta1, self.beta2, self.eps, mu_dtype=jnp.dtype(self.mu_dtype)
        )


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam, type="adamw"):
    """Adam with decoupled weight decay (arXiv:1711.05101), with the defaults of language models."""

    beta2: float = field(0.95, "decay of the second moment", ge=0, lt=1)
    weight_decay: float | tuple[Group, ...] = field(
        0.1, "decoupled decay, times the learning rate: a number for matrices, or groups", ge=0
    )


@dataclass(frozen=True, kw_only=True)
class Adafactor(OptimizerConfig, type="adafactor"):
    """Adafactor (arXiv:1804.04235): the second moment of a matrix as one row and one column."""

    learning_rate: float = field(1e-2, "the peak learning rate, relative to the weights' RMS", gt=0)
    decay_exponent: float = field(0.8, "at update t the moment decays by 1 - t^-this", gt=0, le=1)
    min_size: int = field(128, "matrices with a smaller dim keep the whole moment", ge=1)
    update_clip: float | None = field(
        1.0, "largest RMS of a matrix's update; null: not clipped", gt=0
    )
    scale_by_weights: bool = field(True, "scale the update of a matrix by the RMS of its weights")
    weights_floor: float = field(1e-3, "lower bound of the RMS of weights in the scale", gt=0)
    momentum: float = field(0.0, "decay of the first moment; 0: not kept", ge=0, lt=1)
    eps: float = field(1e-30, "added to squared gradients", gt=0)
    mu_dtype: MomentDtype = field("float32", "dtype in which the first moment is kept")

    def direction(self, axes: Any) -> optax.GradientTransformation:
        dims = tree_of_dims(axes)
        parts = [
            matrix.scale_by_factored_rms(
                dims, decay_exponent=self.decay_exponent, min_size=self.min_size, eps=self.eps
            )
        ]
        if self.update_clip is not None:
            parts.append(matrix.clip_by_rms(dims, self.update_clip))
        if self.scale_by_weights:
            parts.append(matrix.scale_by_param_rms(dims, self.weights_floor))
        if self.momentum:
            dtype = jnp.dtype(self.mu_dtype)
            parts.append(optax.ema(self.momentum, debias=False, accumulator_dtype=dtype))
        return optax.chain(*parts)


@dataclass(frozen=True, kw_only=True)
class Lion(OptimizerConfig, type="lion"):
    """Lion (arXiv:2302.06675): the sign of a momentum."""

    learning_rate: float = field(1e-4, "the peak learning rate", gt=0)
    beta1: float = field(0.9, "weight of the momentum in the update, before its sign", ge=0, lt=1)
    beta2: float = field(0.99, "decay of the momentum", ge=0, lt=1)
    mu_dtype: MomentDtype = field("float32", "dtype in which the momentum is kept")

    def direction(self, axes: Any) -> optax.GradientTransformation:
        return optax.scale_by_lion(self.beta1, self.beta2, jnp.dtype(self.mu_dtype))


@dataclass(frozen=True, kw_only=True)
class Muon(OptimizerConfig, type="muon"):
    """Muon (Jordan 2024): orthogonalised momentum for matrices, AdamW for all else.

    All else is embeddings, the heads' kernels, and vectors. With `update_rms` set, one learning
    rate and one weight decay serve both parts, at any width (arXiv:2502.16982).
    """

    learning_rate: float = field(3e-3, "the peak learning rate of matrices", gt=0)
    momentum: float = field(0.95, "decay of the momentum", ge=0, lt=1)
    nesterov: bool = field(True, "look one step ahead along the momentum")
    newton_schulz_steps: int = field(5, "iterations of the orthogonalisation", ge=1)
    update_rms: float | None = field(
        0.2, "root mean square of an update; null: singular values of sqrt(max(1, out/in))", gt=0
    )
    adam_learning_rate: float | None = field(
        None, "peak learning rate of parameters that are not matrices; null: the same", gt=0
    )
    adam_beta1: float = field(0.9, "decay of the first moment there", ge=0, lt=1)
    adam_beta2: float = field(0.95, "decay of the second moment there", ge=0, lt=1)
    adam_eps: float = field(1e-8, "added to the root of the second moment there", gt=0)
    mu_dtype: MomentDtype = field("float32", "dtype in which momentum and first moment are kept")

    def direction(self, axes: Any) -> optax.GradientTransformation:
        dtype, labels = jnp.dtype(self.mu_dtype), self._labels(axes)
        muon_dims = jax.tree.map(
            lambda d, label: d if label == "muon" else optax.MaskedNode(),
            tree_of_dims(axes),
            labels,
        )
        muon = matrix.scale_by_muon(
            muon_dims,
            beta=self.momentum,
            nesterov=self.nesterov,
            steps=self.newton_schulz_steps,
            rms=self.update_rms,
            dtype=dtype,
        )
        adam = optax.scale_by_adam(self.adam_beta1, self.adam_beta2, self.adam_eps, mu_dtype=dtype)
        return optax.partition({"muon": muon, "adam": adam}, labels)

    def relative_rates(self, axes: Any) -> Any:
        adam = (self.adam_learning_rate or self.learning_rate) / self.learning_rate
        return jax.tree.map(lambda label: 1.0 if label == "muon" else adam, self._labels(axes))

    def _labels(self, axes: Any) -> Any:
        def label(path: str, names: tuple[str, ...], dims: Any) -> str:
            return "muon" if dims.inputs and not set(names) & set(LOOKUPS) else "adam"

        return map_with_path(label, axes, tree_of_dims(axes))


# ------------------------------------------------------------------------------------------ helpers


def _add(weights: Any, function: Callable[[jax.Array], jax.Array]) -> optax.GradientTransformation:
    """Adds weight * function(parameter) to each update."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, p, w: u + w * function(p) if w else u, updates, params, weights
        )
    )


def _descend(schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """Multiplies by minus the learning rate of the step that `update` is given."""

    def update(updates: Any, state: Any, params: Any = None, *, step: Any, **_: Any) -> Any:
        rate = -schedule(step)
        return jax.tree.map(lambda u: rate.astype(u.dtype) * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def _param_path(keys: tuple[Any, ...]) -> str:
    """The trailing dict keys of a path into the state: the path of a parameter, if it is one's."""
    names: list[str] = []
    for key in reversed(keys):
        if not isinstance(key, jax.tree_util.DictKey):
            break
        names.append(str(key.key))
    return "/".join(reversed(names))
