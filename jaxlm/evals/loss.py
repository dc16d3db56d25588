"""The measures of a run's objective over a split: loss, accuracy, perplexity and so on.

    evaluators:
      web: {type: loss, split: validation/web, every_steps: 50}

On a mixture's whole validation split it measures each part as well, as "<part>/loss". The parts are
the same rows: where the whole split is measured, its sums are those of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.core.evaluator import Compiling, Evaluator
from jaxlm.core.measures import Measure
from jaxlm.evals.sums import SplitSums, Sums, add
from jaxlm.training.session import Session

EVAL_SEED = 0  # for an objective's random masks: equal for runs of all seeds


@dataclass(frozen=True, kw_only=True)
class Loss(Evaluator):
    """The measures of the run's objective: loss, accuracy, perplexity and so on."""

    computes_loss: ClassVar[bool] = True

    def prepare(self, session: Session) -> SplitMeasures | None:
        splits = session.prepared.splits
        if not self.has_split(splits):
            return None
        parts = [name for name in splits if name.startswith(f"{self.split}/")]
        return SplitMeasures(
            self._sums(session, self.split),
            {p.removeprefix(f"{self.split}/"): self._sums(session, p) for p in parts},
        )

    def _sums(self, session: Session, split: str) -> SplitSums:
        config, prepared = session.config, session.prepared
        size = self.batch_size or config.train.batch_size
        rows = prepared.rows(split, batch_size=size, seed=config.seed)
        transform, spread = session.transform(EVAL_SEED), not prepared.consecutive
        return SplitSums(
            session.program,
            rows,
            prepared.row_spec,
            transform,
            size,
            spread=spread,
            references=lambda: session.references,
        )


class SplitMeasures:
    """The measures of a split, then those of its parts."""

    def __init__(self, whole: SplitSums, parts: dict[str, SplitSums]) -> None:
        self.whole, self.parts = whole, parts
        self.objective = whole.program.objective

    def after(
        self,
        params: Any,
        counts: Sequence[int | None],
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[list[Measure]]:
        """As `jaxlm.core.evaluator.Measuring`. A part has its share of `counts`."""
        measures = self.objective.measures
        if not self.parts:
            each = self.whole(params, counts, on_batch=on_batch, compiling=compiling)
            return [measures(sums) for sums in each]
        shares = [count and -(-count // len(self.parts)) for count in counts]
        by_part = {
            name: part(params, shares, on_batch=on_batch, compiling=compiling)
            for name, part in self.parts.items()
        }
        limited = [count for count in counts if count is not None]
        first = iter(
            self.whole(params, limited, on_batch=on_batch, compiling=compiling) if limited else []
        )
        found = []
        for n, count in enumerate(counts):
            parts = {name: sums[n] for name, sums in by_part.items()}
            whole = next(first) if count is not None else total(list(parts.values()))
            named = [
                m.named(name)
                for name, sums in parts.items()
                for m in measures(sums)
                if m.show != "table"
            ]
            found.append([*measures(whole), *named])
        return found

    def extent(self, count: int | None) -> dict[str, int]:
        return {"batches": self.whole.batches(count), "of": self.whole.num_batches}


def total(parts: Sequence[Sums]) -> Sums:
    """The sums of parts that are one split together."""
    sums: Sums = {}
    for part in parts:
        add(sums, part)
    return sums
