"""The measures of an objective over a split, and those of its task beside them.

    measuring = with_task(measuring, session, config)
    measuring.after(params, [None])     # [[loss, ..., entity_f1]], of a mixture web/entity_f1

A mixture's split has parts, each of which may have a task of its own: those are measured, except
where an evaluator of the part's name measures the task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from jaxlm.core.evaluator import Compiling, Evaluator, Measuring
from jaxlm.core.measures import Measure
from jaxlm.evals.task import TaskMeasures
from jaxlm.training.session import Session


def with_task(measuring: Measuring, session: Session, config: Evaluator) -> Measuring:
    """Returns `measuring` with the measures of the data's task, where it has some that an
    objective's sums do not give: of the split, or of each of its parts. To write takes long:
    answers that are written are scored where the whole split is measured.
    """
    prepared, found = session.prepared, dict[str, Measuring]()
    evaluators = session.config.evaluators.items()
    named = {f"{config.split}/{n}" for n, each in evaluators if isinstance(each, TaskMeasures)}
    rows = None
    for split in prepared.splits:
        task = prepared.task_of(split)
        own = split == config.split or split.startswith(f"{config.split}/")
        has_records = hasattr(prepared.splits[split], "rows")
        if not own or split in named or not has_records or task is None or not task.scored:
            continue
        plain = TaskMeasures(split=split, batch_size=config.batch_size, baseline=False)
        rows = rows or plain.rows(session)
        scores = plain.scores(session, rows)
        found[split] = WholeSplit(scores) if task.writes else scores
    if config.split in found:
        return Joined(measuring, found[config.split])
    if not found:
        return measuring
    parts = {split.removeprefix(f"{config.split}/"): each for split, each in found.items()}
    return Joined(measuring, OfParts(parts))


@dataclass(frozen=True)
class OfParts:
    """The measures of a split's parts, by the part's name; each has its share of batches."""

    parts: Mapping[str, Measuring]

    def after(
        self,
        params: Any,
        counts: Sequence[int | None],
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[list[Measure]]:
        """As `jaxlm.core.evaluator.Measuring`."""
        shares = [count and -(-count // len(self.parts)) for count in counts]
        found: list[list[Measure]] = [[] for _ in counts]
        for name, part in self.parts.items():
            each = part.after(params, shares, on_batch=on_batch, compiling=compiling)
            for measures, own in zip(found, each, strict=True):
                measures += [m.named(name) for m in own if m.show != "table"]
        return found

    def extent(self, count: int | None) -> None:
        return None


@dataclass(frozen=True)
class WholeSplit:
    """Measures a whole split, and no part of it."""

    measuring: Measuring

    def after(
        self,
        params: Any,
        counts: Sequence[int | None],
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[list[Measure]]:
        """As `jaxlm.core.evaluator.Measuring`; of n batches it measures nothing."""
        whole = [count for count in counts if count is None]
        after = self.measuring.after
        found = iter(after(params, whole, on_batch=on_batch, compiling=compiling) if whole else ())
        return [[] if count is not None else next(found) for count in counts]

    def extent(self, count: int | None) -> dict[str, int] | None:
        return self.measuring.extent(count)


@dataclass(frozen=True)
class Joined:
    """The measures of two, as of one evaluator; of equal names the first one counts."""

    first: Measuring
    second: Measuring

    def after(
        self,
        params: Any,
        counts: Sequence[int | None],
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[list[Measure]]:
        """As `jaxlm.core.evaluator.Measuring`."""
        found = self.first.after(params, counts, on_batch=on_batch, compiling=compiling)
        more = self.second.after(params, counts, on_batch=on_batch, compiling=compiling)
        for measures, others in zip(found, more, strict=True):
            known = {m.name for m in measures}
            measures += [m for m in others if m.name not in known]
        return found

    def extent(self, count: int | None) -> dict[str, int] | None:
        return self.first.extent(count)
