"""The base of every optimizer: the fields that all have, and the direction that each one defines.

    @dataclass(frozen=True, kw_only=True)
    class SignSGD(OptimizerConfig):
        def direction(self, axes):
            return optax.stateless(lambda updates, _: jax.tree.map(jnp.sign, updates))

`jaxlm.optim.optimizer` builds it into an optax transformation, with penalties, clipping, weight
decay, the schedule and the multipliers of the learning rate, which no optimizer has to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import optax

from jaxlm.core.config import REQUIRED, Config, Kind, field
from jaxlm.core.tree import map_with_path
from jaxlm.core.types import ScheduleConfig
from jaxlm.optim.averaging import Averaging
from jaxlm.optim.by_layer import Unfreeze
from jaxlm.optim.param_groups import Group
from jaxlm.optim.schedules.constant import Constant

MomentDtype = Literal["float32", "bfloat16"]


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
    layer_decay: float = field(
        1.0,
        "the learning rate of a layer relative to that of the layer above it; 1: equal",
        gt=0,
        le=1,
        affects="schedule",
    )
    unfreeze: Unfreeze | None = field(
        None,
        "from which step parameters are trained, the upper layers first; null: all from the first",
        affects="schedule",
    )
    offload: bool = field(False, "keep the moments in host memory between updates")
    ema_decay: float | None = field(
        None, "decay of the moving average of the weights (EMA); null: no average", ge=0, lt=1
    )
    averaging: Averaging | None = field(
        None,
        "average the weights from the step on at which validation no longer improves (NT-ASGD); "
        "null: no average",
    )

    def direction(self, axes: Any) -> optax.GradientTransformation:
        """Maps gradients to a direction of ascent, before weight decay and learning rate."""
        raise NotImplementedError

    def relative_rates(self, axes: Any) -> Any:
        """The learning rate of each parameter, relative to `learning_rate`."""
        return map_with_path(lambda path, _: 1.0, axes)
