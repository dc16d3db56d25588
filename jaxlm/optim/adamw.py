"""AdamW: Adam with a weight decay that the moments do not see."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlm.core.config import field
from jaxlm.optim.adam import Adam
from jaxlm.optim.param_groups import Group


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (arXiv:1711.05101), with the defaults of language models."""

    beta2: float = field(0.95, "decay of the second moment", ge=0, lt=1)
    weight_decay: float | tuple[Group, ...] = field(
        0.1, "decoupled decay, times the learning rate: a number for matrices, or groups", ge=0
    )
