"""The view of a run that callbacks have, and what they can do to it.

run.config, run.step, run.total         the resolved config, steps taken, steps of the run
run.params                              all parameters, averaged where an average is kept
run.log(step, measures)                 to metrics.jsonl, the trackers and the progress line
run.stop("the loss is low enough")      training ends after this step, saved and measured
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from jaxlm.checkpoint.writer import Checkpointer
from jaxlm.core import config as configs
from jaxlm.core.callback import Hook
from jaxlm.core.measures import Measure, values_of
from jaxlm.data.loader import Loader
from jaxlm.distributed.consensus import decide
from jaxlm.distributed.watchdog import PATIENCE, Watchdog
from jaxlm.run import RunConfig, trajectory
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import IDENTITY, Record
from jaxlm.runs.progress import Progress
from jaxlm.runs.records import Records
from jaxlm.runs.stopwatch import Stopwatch
from jaxlm.runs.trackers import MetricsWriter
from jaxlm.training.history import History
from jaxlm.training.learner import Frozen, Learner
from jaxlm.training.outcome import Outcome
from jaxlm.training.rollback import place, skipped
from jaxlm.training.session import Session
from jaxlm.training.state import State


@dataclass(eq=False, kw_only=True)
class Context:
    """One process's view of a run. Attributes after `state` change while the run trains."""

    session: Session
    learner: Learner
    loader: Loader
    run_dir: RunDir
    total: int  # steps of the whole run
    watch: Stopwatch
    watchdog: Watchdog
    records: Records
    saver: Checkpointer
    callbacks: Sequence[Hook] = ()
    record: Record = None  # type: ignore[assignment]  # what identity.json has
    writer: MetricsWriter = None  # type: ignore[assignment]  # in process 0 alone
    progress: Progress = None  # type: ignore[assignment]

    state: State = field(default_factory=dict)
    step: int = 0  # steps taken
    bad_steps: int = 0  # steps in a row that were not applied, as of the last metrics read
    ended: Outcome | None = None  # why training ends now, without a save
    stopping: str = ""  # why training ends before its last step, saved and measured
    request: str = ""  # the part of it that a callback asked for
    skips: list[dict[str, Any]] = field(default_factory=list)  # see `jaxlm.training.rollback`
    goes_back: bool = False  # to an earlier checkpoint
    back_to: int = 0  # the step that it goes back to, or before
    history: History = field(default_factory=History)
    compilations: int = 0

    @property
    def config(self) -> RunConfig:
        return self.session.config

    @property
    def first(self) -> bool:
        """Whether this is process 0, which writes the files of the run."""
        return jax.process_index() == 0

    @property
    def frozen(self) -> Frozen:
        """The trees that steps read and do not change."""
        return self.learner.frozen

    @property
    def params(self) -> dict[str, Any]:
        """All parameters of the model; do not keep them over a step: their memory is used again."""
        return self.learner.weights(self.state, self.frozen)

    @property
    def interrupted(self) -> bool:
        """Whether the state is not to be used further: no callback is called."""
        return self.ended is not None or self.goes_back

    @property
    def stopped_early(self) -> bool:
        """Whether training has ended before its last step, by `stop`."""
        return bool(self.stopping) and self.step < self.total

    def stop(self, reason: str) -> None:
        """Ends training after this step: the state is saved, measured, and the run is done.

        Call it in all processes.
        """
        self.request = self.stopping = self.stopping or reason

    def log(
        self,
        step: int,
        measures: Iterable[Measure],
        *,
        more: bool = False,
        evaluated: bool = False,
    ) -> None:
        """Writes figures to metrics.jsonl, the trackers and the progress line, in process 0.

        more: an evaluation of this step follows. evaluated: this is one.
        """
        if not self.first:
            return
        measures = list(measures)
        self.records.write_displays(measures)
        self.writer.write(step, values_of(measures))
        self.progress.update(step, measures, more=more, evaluated=evaluated)

    def save(self, *, force: bool = False) -> bool:
        """Saves the state; whether it was written, as far as is known on return."""
        if self.first:
            self.records.write_times(self.watch)
        identity = self.record.identity
        files: dict[str, bytes | Path] = {
            "config.yaml": self._config_text,
            IDENTITY: identity.text(self.step, self._trajectory_sha256),
            "data.json": json.dumps(self._position()).encode(),
            "tokenizer": self.run_dir.tokenizer,
        }
        # a slow disk is waited for, with a limit: a wait that does not end is a hang as well
        with self.watch("save"), self.watchdog.doing("save", PATIENCE):
            return self.saver.save(self.step, self.state, files, force=force)

    @cached_property
    def _config_text(self) -> bytes:
        return configs.to_yaml(self.config).encode()

    @cached_property
    def _trajectory_sha256(self) -> str:
        return configs.sha256(trajectory(self.config))

    def _position(self) -> dict[str, Any]:
        """The place in the data after this step, and what the decisions of the run depend on."""
        found = self.loader.position(place(self.step, skipped(self.skips)))
        found |= {"step": self.step, "skipped": self.skips}
        if history := self.history.plain:
            found |= {"history": history, "best": list(self.saver.best)}
        if self.request:
            found["stop"] = {"reason": self.request, "of": self.total}
        return found

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """A block that compiles: it may take any time, and ends in all processes together."""
        with self.watch("compile"), self.watchdog.paused():
            yield
            self.compilations += 1
            decide(f"compilation-{self.compilations}", "", lambda _: "")

    def close(self, outcome: Outcome, report: Any) -> Outcome:
        """Closes the files of the run; the report is written however the run ended."""
        for callback in self.callbacks:
            callback.on_end(self, outcome)
        if self.first:
            self.progress.close()
            self.writer.close()
            self.records.write_times(self.watch)
            written = self.records.write(self.run_dir.report, report)
            outcome = dataclasses.replace(outcome, report=written)
        return outcome
