"""Measured values that decisions depend on, kept in every checkpoint (data.json).

    history.record("eval/loss", 50, measures)
    history.points("eval/loss")         # [Point(50, 1.9, "lower"), ...] by step

Early stopping and the choice of the best checkpoints are functions of it, so a killed run that is
resumed from any checkpoint decides as the undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxlm.core.config import UserError, suggest
from jaxlm.core.errors import few
from jaxlm.core.measures import Better, Measure


class Point(NamedTuple):
    """A measured value; better: the direction that its measure says."""

    step: int
    value: float
    better: Better | None


class History:
    """The values of some measures by step."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        """values: what `plain` gave."""
        self._points: dict[str, dict[int, Point]] = {}
        for name, points in (values or {}).items():
            for step, value, better in points:
                self.add(name, Point(step, float(value), better))

    def add(self, name: str, point: Point) -> None:
        self._points.setdefault(name, {})[point.step] = point

    def record(self, name: str, step: int, measures: Iterable[Measure]) -> bool:
        """Adds the value of the measure where it is among `measures`; whether it is."""
        for measure in measures:
            if measure.name == name:
                self.add(name, Point(step, float(measure.value), measure.better))
                return True
        return False

    def points(self, name: str) -> list[Point]:
        """The values of a measure, in the order of steps."""
        return [point for _, point in sorted(self._points.get(name, {}).items())]

    @property
    def plain(self) -> dict[str, list[list[Any]]]:
        """As JSON has it: a value that is not finite is a text."""
        return {
            name: [
                [p.step, p.value if math.isfinite(p.value) else str(p.value), p.better]
                for p in self.points(name)
            ]
            for name in self._points
        }


def direction(chosen: Better | None, point: Point) -> Better:
    """The direction that is better: that of the config, else of the measure, else lower."""
    return chosen or point.better or "lower"


def best_steps(points: Sequence[Point], count: int, better: Better | None) -> list[int]:
    """The steps of the `count` best values, the best first; of equal ones the earlier. NaN never
    is among them.
    """
    usable = [point for point in points if not math.isnan(point.value)]

    def worth(point: Point) -> tuple[float, int]:
        lower = direction(better, point) == "lower"
        return (point.value if lower else -point.value), point.step

    return [point.step for point in sorted(usable, key=worth)[:count]]


def check_measure(key: str, name: str, evaluators: Sequence[Any]) -> None:
    """Raises `UserError` where no evaluator that measures during training reports under `name`."""
    prefixes = {f"eval/{e.name}" if e.name else "eval": e for e in evaluators}
    owners = [e for prefix, e in prefixes.items() if name.startswith(f"{prefix}/")]
    if not owners:
        raise UserError(
            f"{key}.measure: no evaluator reports {name}; {suggest(name, sorted(prefixes))}"
        )
    if not any(e.config.every_steps for e in owners):
        raise UserError(
            f"{key}.measure: {name} is measured at the end alone; set eval.every_steps, or the "
            "every_steps of its evaluator"
        )


def check_reported(key: str, name: str, measures: Iterable[Measure]) -> None:
    """Raises `UserError` where the evaluator of a measure has reported, and others than this one:
    a task that has no such metric.
    """
    owner = name.rpartition("/")[0]
    reported = [m.name for m in measures if m.name.rpartition("/")[0] == owner]
    if reported and name not in reported:
        raise UserError(
            f"{key}.measure: the evaluation during training has no {name}; it has {few(reported)}"
        )
