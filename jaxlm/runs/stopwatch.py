"""A run's wall time by category: every nanosecond is in exactly one.

    watch = Stopwatch()
    with watch("eval"):
        evaluate()
        with watch("save"):  # taken out of "eval"
            save()
    watch.shares()  # {"setup": 0.0, ..., "eval": 61.2, "save": 35.1, "other": 3.7}, sums to 100

What no block claims is "other". Time is counted in whole nanoseconds, so the categories add up to
the wall time exactly. `save` and `load` carry the account over the processes of a run: it is the
time all of them spent, of a killed one up to its last `save`. For one thread only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.runs.files import read_own, write_own
from jaxlm.runs.folder import RunDir

CATEGORIES = ("setup", "compile", "data", "step", "eval", "save", "sample", "other")


class Stopwatch:
    """Attributes wall time, from its making on, to the innermost open block."""

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        """`clock` returns nanoseconds and never goes back."""
        self._clock = clock
        self._spent = dict.fromkeys(CATEGORIES, 0)
        self._open = ["other"]
        self._since = clock()
        self._lap = dict(self._spent)
        self.processes = 1

    @contextmanager
    def __call__(self, category: str) -> Iterator[None]:
        """A block whose time, less that of the blocks inside it, belongs to `category`."""
        assert category in self._spent, f"no category {category!r}; one of {', '.join(CATEGORIES)}"
        self._settle()
        self._open.append(category)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def seconds(self) -> dict[str, float]:
        """Seconds by category, open blocks included."""
        self._settle()
        return {name: spent / 1e9 for name, spent in self._spent.items()}

    @property
    def total(self) -> float:
        """All seconds counted."""
        self._settle()
        return sum(self._spent.values()) / 1e9

    def shares(self) -> dict[str, float]:
        """Per cent by category, to one decimal, summing to 100."""
        self._settle()
        return percentages(self._spent)

    def lap(self) -> dict[str, float]:
        """Seconds by category since the last call (or since the start of this process)."""
        self._settle()
        before, self._lap = self._lap, dict(self._spent)
        return {name: (spent - before[name]) / 1e9 for name, spent in self._spent.items()}

    def to_dict(self) -> dict[str, Any]:
        """The account as plain values: nanoseconds by category, and how many processes ran."""
        self._settle()
        return {"nanoseconds": dict(self._spent), "processes": self.processes}

    @classmethod
    def from_dict(
        cls, state: Mapping[str, Any], clock: Callable[[], int] = time.perf_counter_ns
    ) -> Stopwatch:
        """A stopwatch that continues the account of an earlier process."""
        watch = cls(clock)
        for name, spent in state["nanoseconds"].items():
            watch._spent[name if name in watch._spent else "other"] += int(spent)
        watch._lap = dict(watch._spent)
        watch.processes = int(state["processes"]) + 1
        return watch

    def save(self, run_dir: Path, run_id: str = "") -> None:
        """Writes timing.json; a crash leaves the old file or the new."""
        write_own(RunDir(run_dir).timing, self.to_dict(), run_id)

    @classmethod
    def load(cls, run_dir: Path, clock: Callable[[], int] = time.perf_counter_ns) -> Stopwatch:
        """Continues a run's timing.json; starts from zero where that cannot be read.

        The account is a comfort, not a result: an unreadable one must not keep a run from going on.
        """
        try:
            run = RunDir(run_dir)
            return cls.from_dict(read_own(run, run.timing), clock)
        except (OSError, UserError, ValueError, KeyError, TypeError, AttributeError):
            return cls(clock)

    def _settle(self) -> None:
        """Books the time since the last booking on the innermost open block."""
        now = self._clock()
        self._spent[self._open[-1]] += now - self._since
        self._since = now


def percentages(parts: Mapping[str, float], decimals: int = 1) -> dict[str, float]:
    """`parts` as percentages of their sum that, rounded, still sum to 100 (largest remainder).

    All zero if the parts are. Parts must not be negative.
    """
    total = sum(parts.values())
    if total <= 0:
        return dict.fromkeys(parts, 0.0)
    unit = 10**decimals
    exact = {name: part * 100 * unit / total for name, part in parts.items()}
    whole = {name: int(value) for name, value in exact.items()}
    left = 100 * unit - sum(whole.values())
    for name in sorted(exact, key=lambda n: whole[n] - exact[n])[:left]:
        whole[name] += 1
    return {name: round(value / unit, decimals) for name, value in whole.items()}
