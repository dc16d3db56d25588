"""A measure: a value with a name, and how it is shown. Whoever shows it knows no name.

    LOSS = Measure("loss", better="lower", show="headline", format=".3f")
    measure = LOSS.of(1.8341)
    measure.text                        # "1.834"
    measure.under("eval").name          # "eval/loss", its key in metrics.jsonl

Objectives, evaluators and the training loop make measures. `show` says where one is seen:

    headline   at the top of a report and on the progress line
    figure     in the list of figures
    table      a table of its own: {"classes": [names], "table": [[counts]]}, rows the true class;
               or {"columns": [names], "rows": [[values]]}; or other values, which a section of the
               report shows and a terminal does not

The first measure of an evaluator is its main one. `measures.json` in a run's folder keeps how each
measure of metrics.jsonl is shown (`Measure.display`), so a report needs no code of the run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from jaxlm.core.numbers import duration, human, percent, scientific

Better = Literal["lower", "higher"]
Show = Literal["headline", "figure", "table"]
Summary = Literal["last", "median"]

_FORMATS: dict[str, Callable[[float], str]] = {
    "count": human,
    "duration": duration,
    "percent": percent,
    "scientific": scientific,
}


@dataclass(frozen=True)
class Measure:
    """A value, its name and how it is shown.

    value: a number, a text, or the table of `show="table"`. better: the direction of an
    improvement; None: neither. label: its name for people; "": the name with spaces. brief: its
    label on the progress line ("": the value alone); None: not on that line. format: "count"
    (12.3k), "duration", "percent", "scientific", or a Python format such as ".3f". unit: follows
    the value. summary: the value of a whole run, the last one or the median. baseline: what reaches
    it without a neural network, for people ("naive Bayes"); "": it is the model's own. note: how it
    was computed, which a figure is quoted with, such as sacreBLEU's signature.
    """

    name: str
    value: Any = math.nan
    better: Better | None = None
    show: Show = "figure"
    label: str = ""
    brief: str | None = None
    format: str = ".4f"
    unit: str = ""
    summary: Summary = "last"
    baseline: str = ""
    note: str = ""

    def of(self, value: Any) -> Measure:
        """The same measure with a value."""
        return dataclasses.replace(self, value=value)

    def under(self, prefix: str) -> Measure:
        """The same measure of an evaluator: "eval" makes "loss" to "eval/loss"."""
        return dataclasses.replace(self, name=f"{prefix}/{self.name}", label=self.title)

    def named(self, name: str) -> Measure:
        """The same measure of one of several: "web" makes "loss" to "web/loss", "web loss"."""
        return dataclasses.replace(self, name=f"{name}/{self.name}", label=f"{name} {self.title}")

    @property
    def title(self) -> str:
        """The name for people: "bits per character"."""
        return self.label or self.name.rpartition("/")[2].replace("_", " ")

    @property
    def text(self) -> str:
        """The value for people, with its unit."""
        return self.shown(self.value)

    def shown(self, value: Any) -> str:
        """Another value of this measure for people."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return str(value)
        number = _FORMATS[self.format](value) if self.format in _FORMATS else self._plain(value)
        return f"{number} {self.unit}" if self.unit else number

    def _plain(self, value: float) -> str:
        return str(value) if isinstance(value, int) else f"{value:{self.format}}"

    def improves(self, value: float, best: float, min_delta: float = 0.0) -> bool:
        """Whether `value` is better than `best` by more than `min_delta`."""
        return is_better(self.better or "lower", value, best, min_delta)

    @property
    def display(self) -> dict[str, Any]:
        """Its display settings, as plain values: those that differ from the defaults."""
        default = Measure(self.name)
        names = (f.name for f in dataclasses.fields(self) if f.name not in ("name", "value"))
        return {n: v for n in names if (v := getattr(self, n)) != getattr(default, n)}


class Compared(NamedTuple):
    """A measure of a model beside the same of a baseline."""

    model: Measure
    baseline: Measure

    @property
    def beaten(self) -> bool:
        """Whether the model is better."""
        return self.model.improves(self.model.value, self.baseline.value)

    @property
    def line(self) -> str:
        """The line that people are shown for a model that does not beat the baseline."""
        own, theirs = self.model, self.baseline
        if own.value == theirs.value:
            return (
                f"the model is as good as its baseline: it has {own.title} {own.text}, as "
                f"{theirs.baseline} has"
            )
        return (
            f"the model does not beat its baseline: {theirs.baseline} has {own.title} "
            f"{own.shown(theirs.value)}, the model {own.text}"
        )


def compared(measures: Iterable[Measure]) -> list[Compared]:
    """Each measure of a baseline, "eval/naive_bayes/accuracy", with the model's "eval/accuracy"."""
    measures = list(measures)
    own = {m.name: m for m in measures if not m.baseline}
    pairs = [(own.get(model_key(m.name)), m) for m in measures if m.baseline]
    return [Compared(model, m) for model, m in pairs if model is not None]


def not_beaten(measures: Iterable[Measure]) -> list[str]:
    """A line for each baseline whose main measure the model does not beat. One that gets
    nothing right is left out.
    """
    first: dict[str, Compared] = {}
    for each in compared(measures):
        useless = each.model.better == "higher" and each.baseline.value == 0
        if each.model.better is not None and not useless:
            first.setdefault(each.baseline.name.rpartition("/")[0], each)
    return [each.line for each in first.values() if not each.beaten]


def model_key(name: str) -> str:
    """The key of the model's measure, of that of a baseline."""
    *before, _, last = name.split("/")
    return "/".join([*before, last])


def is_better(better: Better, value: float, best: float, min_delta: float = 0.0) -> bool:
    """Whether `value` is better than `best` by more than `min_delta`; NaN never is."""
    gain = best - value if better == "lower" else value - best
    return gain > min_delta or (math.isnan(best) and not math.isnan(value))


def from_display(name: str, value: Any, display: Mapping[str, Any] | None = None) -> Measure:
    """A measure from what `Measure.display` gave; keys of another version are left out."""
    known = {f.name for f in dataclasses.fields(Measure)} - {"name", "value"}
    return Measure(name, value, **{k: v for k, v in (display or {}).items() if k in known})


def values_of(measures: Iterable[Measure]) -> dict[str, Any]:
    """{name: value} of all but tables, in order."""
    return {m.name: m.value for m in measures if m.show != "table"}


def notes_of(measures: Iterable[Measure]) -> dict[str, str]:
    """{name: note} of those of the model that have a note, in order."""
    return {m.name: m.note for m in measures if m.note and not m.baseline}


def tables_of(measures: Iterable[Measure]) -> dict[str, Any]:
    """{name: table} of the tables, in order."""
    return {m.name: m.value for m in measures if m.show == "table"}


def ratios(sums: Mapping[str, tuple[Any, Any]], displays: Iterable[Measure] = ()) -> list[Measure]:
    """sum / weight of each pair, those that `displays` names first."""
    known = {measure.name: measure for measure in displays}
    names = [name for name in known if name in sums] + [n for n in sums if n not in known]
    return [
        known.get(name, Measure(name)).of(float(sums[name][0]) / max(float(sums[name][1]), 1e-9))
        for name in names
    ]
