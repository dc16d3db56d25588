"""Evaluators: what is measured of a model while it trains and after it.

    evaluators:
      web: {type: loss, split: validation/web, every_steps: 50, max_batches: 20}
      rude: {type: "my_measures:Rude", every_steps: 100}

Each reports under its name: `eval/web/loss` in metrics.jsonl, `final/web/loss` for the whole split
after the last step. `eval:` in a config is the evaluator of the validation split, whose measures
have no name in their keys. An evaluator is one class with `measure`:

    @dataclass(frozen=True, kw_only=True)
    class Rude(Evaluator):
        \"\"\"How much probability a model gives to rude words.\"\"\"

        def measure(self, session, params, max_batches):
            return [Measure("rude", ..., better="lower")]

One that compiles programs returns an object from `prepare`, which is made once for a run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from jaxlm.core.config import Config, Kind, UserError, field, suggest
from jaxlm.core.errors import shown
from jaxlm.core.measures import Measure

Compiling = Callable[[], AbstractContextManager[None]]  # makes the block of one compilation


def _nothing() -> None:
    pass


class Measuring(Protocol):
    """The result of `Evaluator.prepare`."""

    def after(
        self,
        params: Any,
        counts: Sequence[int | None],
        *,
        on_batch: Callable[[], object] = _nothing,
        compiling: Compiling = nullcontext,
    ) -> list[list[Measure]]:
        """The measures of the first n batches for each n of `counts`; None: of the whole split.

        on_batch: called after each batch; the watchdog needs it. compiling: makes the block of each
        compilation.
        """
        ...

    def extent(self, count: int | None) -> dict[str, int] | None:
        """{"batches": those that at most `count` batches are, "of": those of the whole split}."""
        ...


@dataclass(frozen=True, kw_only=True)
class Evaluator(Config):
    """A measurement of a model, its split and its frequency."""

    kind: ClassVar = Kind("evaluators", "evaluator", folder="jaxlm.evals", default="loss")
    # Whether it computes the loss of batches, which some objectives need several rows for.
    computes_loss: ClassVar[bool] = False

    split: str = field("validation", "split of the data that is measured, such as validation/web")
    every_steps: int | None = field(None, "measure every N steps; null: at the end alone", ge=1)
    batch_size: int | None = field(None, "rows of one batch; null: that of training", ge=1)
    max_batches: int | None = field(None, "batches measured during training; null: all", ge=1)
    at_end: bool = field(True, "measure the whole split after the last step")
    at_start: bool = field(False, "measure the whole split before the first step as well")

    def measure(self, session: Any, params: Any, max_batches: int | None) -> list[Measure]:
        """The measures of parameters, the main one first.

        session: a `jaxlm.training.session.Session`: the config, the data, the program. params: all
        parameters of the model. max_batches: None: the whole split.
        """
        raise NotImplementedError

    def has_split(self, splits: Collection[str]) -> bool:
        """Whether the data has `split`. A split other than the default that it lacks is an error.

        splits: the names of those that the data has.
        """
        if self.split in splits:
            return True
        if self.split == "validation":
            return False
        raise UserError(
            f"split: the data has no {shown(self.split)}; {suggest(self.split, splits)}"
        )

    def prepare(self, session: Any) -> Measuring | None:
        """Returns the object that measures in a run; None: the data has nothing to measure."""
        return _Plain(self, session)


@dataclass(frozen=True)
class _Plain:
    """An evaluator that defines `measure` alone."""

    evaluator: Evaluator
    session: Any

    def after(
        self,
        params: Any,
        counts: Sequence[int | None],
        *,
        on_batch: Callable[[], object] = _nothing,
        compiling: Compiling = nullcontext,
    ) -> list[list[Measure]]:
        found = []
        for count in counts:
            found.append(self.evaluator.measure(self.session, params, count))
            on_batch()
        return found

    def extent(self, count: int | None) -> None:
        return None
