"""What an objective gives the learner that steps by rows: gradients of the rows of its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import jax

    from jaxlm.core.types import Batch
    from jaxlm.objectives.base import Loss


class RowGradient(NamedTuple):
    """The gradients of rows of one table; a row may come several times, once for each cell."""

    path: str  # the parameter's
    rows: jax.Array  # [N] int32
    gradient: jax.Array  # [N, ...]: of the sum of the losses
    rate: float | None = None  # a learning rate of its own, in place of the optimizer's


class HasRowGradients(Protocol):
    """An objective whose batch has to do with few rows of the model's tables."""

    def row_gradients(self, model: Any, batch: Batch) -> tuple[Loss, list[RowGradient]]:
        """The loss sums of a batch, and the gradients of each table's rows (traceable)."""
        ...
