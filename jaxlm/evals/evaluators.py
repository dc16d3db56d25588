"""The evaluators of a run: that of `eval:`, and those of `evaluators:` by name.

That of `eval:` has the measures of the objective, and those of a task that scores answers, of the
split and of its parts; of prompts without answers it has the rewards. What an evaluator with the
name of a part measures, `eval:` does not: both would write the same keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxlm.core.config import UserError
from jaxlm.core.evaluator import Compiling, Evaluator, Measuring
from jaxlm.core.measures import Measure
from jaxlm.evals.beside_baselines import BesideBaselines
from jaxlm.evals.loss import Loss
from jaxlm.evals.rewards import RewardMeasures
from jaxlm.evals.with_task import with_task

if TYPE_CHECKING:
    from jaxlm.training.session import Session


@dataclass(frozen=True)
class Named:
    """An evaluator of a run, by its name in the config; "": that of `eval:`."""

    name: str
    config: Evaluator
    measuring: Measuring

    def due(self, step: int) -> bool:
        """Whether it measures after a step that is not the last."""
        return self.config.every_steps is not None and step % self.config.every_steps == 0

    def due_last(self, step: int) -> bool:
        """Whether it measures after the last step."""
        return self.config.at_end or self.due(step)

    def keyed(self, prefix: str, measures: Iterable[Measure]) -> list[Measure]:
        """Its figures under the keys of metrics.jsonl; the progress line shows the main one."""
        brief = self.name or prefix
        own = [m for m in measures if m.show != "table"]
        found = [(m.named(self.name) if self.name else m).under(prefix) for m in own]
        return [dataclasses.replace(m, brief=None if n else brief) for n, m in enumerate(found)]


@dataclass(frozen=True)
class WithoutParts:
    """The measures of a split, without those of some of its parts."""

    measuring: Measuring
    parts: Sequence[str]

    def after(
        self,
        params: Any,
        counts: Sequence[int | None],
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[list[Measure]]:
        """As `jaxlm.core.evaluator.Measuring`."""
        found = self.measuring.after(params, counts, on_batch=on_batch, compiling=compiling)
        left = tuple(f"{part}/" for part in self.parts)
        return [[m for m in measures if not m.name.startswith(left)] for measures in found]

    def extent(self, count: int | None) -> dict[str, int] | None:
        return self.measuring.extent(count)


def evaluators_of(session: Session, split: str = "validation") -> list[Named]:
    """The evaluators of a session that have something to measure, `eval:` first, on `split`.

    Raises `UserError` where a split is not in the data.
    """
    first = session.config.eval
    task = session.prepared.task_of(split)
    kind = Loss if task is None or task.has_answers else RewardMeasures
    main = kind(
        split=split,
        every_steps=first.every_steps,
        batch_size=first.batch_size,
        max_batches=first.max_batches,
        at_end=first.at_end,
        at_start=first.at_start,
    )
    found = []
    for name, config in {"": main, **session.config.evaluators}.items():
        try:
            measuring = config.prepare(session)
            if not name and measuring is not None:
                measuring = with_task(_without_named(measuring, session, split), session, main)
                if first.baseline:
                    measuring = BesideBaselines(measuring, session, split)
        except UserError as error:
            raise UserError(f"evaluators.{name}.{error}" if name else str(error)) from None
        if measuring is not None:
            found.append(Named(name, config, measuring))
        elif name:
            raise UserError(
                f"evaluators.{name}.split: the data has no {config.split!r} split; set "
                "data.validation_fraction or data.validation"
            )
    return found


def _without_named(measuring: Measuring, session: Session, split: str) -> Measuring:
    """The measuring of a split, without the parts whose loss an evaluator of their name has."""
    evaluators, splits = session.config.evaluators.items(), session.prepared.splits
    named = [n for n, e in evaluators if e.computes_loss and f"{split}/{n}" in splits]
    return WithoutParts(measuring, named) if named else measuring
