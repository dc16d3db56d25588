"""The measures of a model beside those of the baselines that suit the run.

    measuring = BesideBaselines(measuring, session, "validation")
    measuring.after(params, [None])     # [[loss, accuracy, ..., naive_bayes/accuracy, ...]]

Only measures that the model has as well are kept, and the seconds that a baseline took.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from jaxlm.core import registry
from jaxlm.core.evaluator import Compiling, Measuring
from jaxlm.core.measures import Measure
from jaxlm.evals.baselines.base import Baseline

if TYPE_CHECKING:
    from jaxlm.training.session import Session

log = logging.getLogger("jaxlm")
SECONDS = Measure("seconds", better="lower", format=".2f", unit="s")


class BesideBaselines:
    """Measures a model, and where the whole split is measured the baselines as well."""

    def __init__(self, measuring: Measuring, session: Session, split: str) -> None:
        self.measuring, self._session, self._split = measuring, session, split
        self._known: list[tuple[str, str, list[Measure]]] | None = None

    def after(
        self,
        params: object,
        counts: Sequence[int | None],
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[list[Measure]]:
        """As `jaxlm.core.evaluator.Measuring`."""
        found = self.measuring.after(params, counts, on_batch=on_batch, compiling=compiling)
        for measures, count in zip(found, counts, strict=True):
            if count is None:
                measures += self._compared(measures, on_batch)
        return found

    def extent(self, count: int | None) -> dict[str, int] | None:
        return self.measuring.extent(count)

    def _compared(
        self, measures: Sequence[Measure], on_batch: Callable[[], object]
    ) -> list[Measure]:
        own = {m.name: m for m in measures if m.show != "table"}
        found = []
        for key, title, theirs in self._measured(own, on_batch):
            known = [own[m.name].of(m.value) for m in theirs if m.name in own]
            for measure in [*known, *(m for m in theirs if m.name == SECONDS.name)] * bool(known):
                shown = dataclasses.replace(
                    measure, show="figure", brief=None, label=f"{title}: {measure.title}"
                )
                found.append(dataclasses.replace(shown, name=f"{key}/{shown.name}", baseline=title))
        return found

    def _measured(
        self, names: Container[str], on_batch: Callable[[], object]
    ) -> list[tuple[str, str, list[Measure]]]:
        """The results of `measured_baselines`, which parameters do not change: measured once."""
        if self._known is None:
            session, split = self._session, self._split
            self._known = list(measured_baselines(session, split, on_batch, names))
        return self._known


def measured_baselines(
    session: Session,
    split: str,
    on_batch: Callable[[], object] = lambda: None,
    names: Container[str] | None = None,
) -> Iterator[tuple[str, str, list[Measure]]]:
    """(key, title, its measures and seconds) of each baseline that suits a run.

    on_batch: called before each and while it measures. names: the model's measures; a baseline that
    has none of them is left out before it is fitted. One that fails is left out and named: the
    result of a run must not depend on it.
    """
    for name in registry.names(Baseline):
        on_batch()
        start = time.perf_counter()
        try:
            baseline: Baseline = registry.find(Baseline, name)()
            if names is not None and not baseline.suits(session, names):
                continue
            measures = baseline.measures(session, split, on_batch=on_batch)
            if not measures:
                continue  # without a title: it may be made of data that the run does not have
            title = baseline.title(session, split)
        except Exception as error:
            log.warning("baseline %s is left out: %s: %s", name, type(error).__name__, error)
            continue
        yield baseline.key, title, [*measures, SECONDS.of(time.perf_counter() - start)]
