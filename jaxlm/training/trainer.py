"""One process's part in a run: from the state that is found to the last step, or to a signal.

    outcome = Trainer(session, run_dir, watch, signals, marks, ...).run()     # see `jaxlm.api.fit`

A run has one leg from a state to its end; a rollback ends a leg, and the next one starts from an
earlier checkpoint. SIGTERM and SIGINT let the step end, save, and return `INTERRUPTED`; a second
one ends the process immediately.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import jax

from jaxlm.checkpoint.writer import Checkpointer
from jaxlm.core import config as configs
from jaxlm.core.callback import Hook, Taken
from jaxlm.core.exit_codes import INTERRUPTED, SAVE_FAILED
from jaxlm.core.tree import flatten
from jaxlm.distributed.consensus import decide
from jaxlm.distributed.preemption import Preemption
from jaxlm.distributed.signals import Signals
from jaxlm.distributed.watchdog import PATIENCE, Watchdog
from jaxlm.report import write_report
from jaxlm.runs.folder import RunDir
from jaxlm.runs.log import messages_above
from jaxlm.runs.progress import Progress
from jaxlm.runs.records import Records
from jaxlm.runs.stopwatch import Stopwatch
from jaxlm.runs.trackers import MetricsWriter
from jaxlm.training import changes, records, restoring, saved_step
from jaxlm.training.callbacks.bad_steps import go_back, suspects, unsaved_streak
from jaxlm.training.callbacks.standard import Standard
from jaxlm.training.compiler import options_for
from jaxlm.training.context import Context
from jaxlm.training.feed import Feed, batch_spec
from jaxlm.training.finish import finish
from jaxlm.training.history import History
from jaxlm.training.learner import Step
from jaxlm.training.loop import Loop
from jaxlm.training.meter import Figures
from jaxlm.training.outcome import Outcome
from jaxlm.training.rollback import skipped
from jaxlm.training.session import Session
from jaxlm.training.throughput import peak_of

log = logging.getLogger("jaxlm")

LINGER_SECONDS = 15  # that process 0 stays after a hang, so that the others report theirs


class Trainer:
    """Trains a run. All processes of the run make the same calls."""

    def __init__(
        self,
        session: Session,
        run_dir: RunDir,
        watch: Stopwatch,
        signals: Signals,
        marks: Mapping[str, configs.Mark],
        *,
        evaluators: Sequence[Any] = (),
        sampler: Any,
        hooks: Sequence[Hook] = (),
        accept_data: bool = False,
    ) -> None:
        """evaluators: of `jaxlm.evals.evaluators`. hooks: callbacks besides those of the config."""
        assert session.learner is not None, "a session for training"
        config, index = session.config, jax.process_index()
        self.session, self.marks, self.accept_data = session, marks, accept_data
        self.signals, self.preemption = signals, Preemption(signals)
        self.asked = False  # to stop, by the program that takes the steps
        log_file = run_dir.log.with_suffix(f".{index}.txt") if index else run_dir.log
        linger = LINGER_SECONDS if index == 0 and jax.process_count() > 1 else 0
        self.run_context = run = Context(
            session=session,
            learner=session.learner,
            loader=session.train_loader(),
            run_dir=run_dir,
            total=config.train.steps or 0,
            watch=watch,
            watchdog=Watchdog(config.train.hang_timeout, log_file, linger=linger),
            records=Records(run_dir, index, keep_ledger=config.train.ledger),
            saver=Checkpointer(run_dir.checkpoints, config.checkpoint, report=log.warning),
        )
        peak = peak_of(list(session.program.mesh.devices.flat))
        length = session.prepared.seq_len
        self.figures = Figures(session.program, peak, watch, seq_len=length)
        self.standard = Standard(run, self.figures, evaluators, sampler, hooks)
        run.callbacks = self.standard.callbacks
        self.changed: list[str] = []  # what a resume changes of the config
        self.legs = 0
        self.outcome: Outcome | None = None
        self.step: Step | None = None

    def run(self) -> Outcome:
        """Trains to the end."""
        for _ in self.steps():
            pass
        assert self.outcome is not None
        return self.outcome

    def steps(self) -> Iterator[Taken]:
        """Trains to the end, a step at a time; `outcome` is there when it is through."""
        with ExitStack() as stack:
            stack.enter_context(self.run_context.watchdog)
            stack.callback(self._close_saver)
            while self.outcome is None:
                yield from self._leg()

    def _leg(self) -> Iterator[Taken]:
        """From a state to the end, which sets `outcome`, or to a rollback."""
        run, config = self.run_context, self.session.config
        self.legs += 1
        run.bad_steps, run.ended, run.goes_back = 0, None, False
        with ExitStack() as stack:
            with run.watch("setup"), run.watchdog.doing("start", PATIENCE):
                self._start()
            run.watchdog.beat(run.step)
            stack.enter_context(run.records.ledger())
            if run.first:
                run.writer = stack.enter_context(self._metrics_writer())
            options = self._compile()
            run.progress = stack.enter_context(
                Progress(
                    run.total,
                    run.step,
                    header=self.figures.header(options),
                    plain_every=config.logging.print_every_steps,
                    enabled=run.first,
                )
            )
            stack.enter_context(messages_above(run.progress))
            feed = stack.enter_context(
                Feed(
                    run.loader,
                    self.session.program.mesh,
                    run.step,
                    ahead=min(2, config.train.prefetch),
                    skipped=skipped(run.skips),
                )
            )
            stack.enter_context(jax.set_mesh(self.session.program.mesh))
            with self.signals.waiting():
                assert self.step is not None
                yield from Loop(run, self.step, feed, self._must_stop).steps()
                if run.goes_back and not self._must_stop():
                    go_back(run)
                    return
                # after a signal a resume comes to the same point
                run.ended = run.ended or unsaved_streak(run)
                saved = run.ended is None and self._save_last()
            self.outcome = run.close(self._end(saved), write_report)

    def _must_stop(self) -> bool:
        return self.preemption.reached() or self.asked

    def _start(self) -> None:
        """The state that is found, and what the files of the run say about it."""
        run, session = self.run_context, self.session
        run.saver.clean()
        with jax.set_mesh(session.program.mesh):
            latest = run.saver.latest()
            data = json.loads(run.saver.read_file(latest, "data.json")) if latest else {}
            if self.legs == 1:
                run.record = records.record_of(
                    run.run_dir, session, latest, accept_data=self.accept_data
                )
                run.skips = list(data.get("skipped", ()))
                if latest is not None and run.run_dir.config.is_file():
                    self.changed = changes.changes(run.run_dir, session.config)
            run.state, run.step = restoring.find_state(session, run.saver, latest)
            run.record = run.record.with_frozen(run.learner.origins)
        # Its step was applied, or it would not have been saved: the weights before it are good.
        run.saver.trusted = run.step - suspects(run)
        run.records.run_id = run.record.identity.run_id
        adapter, axes = session.config.adapter, session.program.param_axes
        for remark in [] if adapter is None or self.legs > 1 else adapter.remarks(flatten(axes)):
            log.warning("%s", remark)
        if run.first:  # not before: a config that cannot continue must not take the run over
            records.write_run_files(run.run_dir, session, self.marks, run.record)
        run.history = History(data.get("history"))
        stop = data.get("stop") or {}
        run.request = run.stopping = stop["reason"] if stop.get("of") == run.total else ""
        self.standard.resume(run, self.legs)
        if run.first:
            run.records.take_back(run.step, last=run.step == run.total or bool(run.stopping))
            run.saver.finish_pruning(run.step)
            run.records.write_times(run.watch)
        # a ledger that another process opened before it was cut would be one without a name
        decide(f"taken back {self.legs}", "", lambda _: "")

    def _metrics_writer(self) -> MetricsWriter:
        run = self.run_context
        return MetricsWriter(
            run.run_dir.path,
            run.config.logging,
            resume_step=run.step if self.legs > 1 else run.step or None,
            event=self._event(),
            run_config=configs.to_dict(run.config),
        )

    def _event(self) -> dict[str, Any]:
        """The event that starts this leg, as metrics.jsonl has it."""
        if self.legs > 1:
            back = self.run_context.skips[-1]
            return {"event": "rollback", "seen": back["step"], "batches": back["batches"]}
        changed = {"changed": self.changed} if self.changed else {}
        return {"event": "resume", **changed} if self.run_context.step else {"event": "start"}

    def _close_saver(self) -> None:
        with self.run_context.watchdog.doing("save", PATIENCE):
            self.run_context.saver.close()

    def _compile(self) -> dict[str, str]:
        """Compiles the step in the first leg, in all processes; the options of the compiler."""
        run, config = self.run_context, self.session.config
        options = options_for(jax.local_devices()[0].device_kind, config.train.xla)
        with run.watch("compile"):
            if self.step is None:
                with run.watchdog.paused():
                    spec = batch_spec(
                        self.session.batch_rows, config.train.batch_size, run.learner.mesh
                    )
                    self.step = self._compiled(spec, options)
            # the compilation of another process is not a hang either
            with run.watchdog.doing("compilation of another process", PATIENCE):
                decide(f"step compiled {self.legs}", "", lambda _: "")
        return options

    def _compiled(self, spec: dict[str, Any], options: dict[str, str]) -> Step:
        """The step that a plan has kept, if it is this run's; else it is compiled now."""
        path, learner = self.session.config.train.compiled, self.run_context.learner
        if path is not None:
            saved, why = saved_step.load(self.session.config, learner, spec, options, path)
            # one for all: executables that were made in two ways may not meet in their collectives
            why = decide("compiled", why, lambda found: next(filter(None, found), ""))
            if saved is not None and not why:
                log.info("the train step is that of %s", path)
                return saved
            log.warning("train.compiled: %s; the step is compiled now", why)
        log.info("compiling the train step")
        started = time.monotonic()
        step = learner.compile(spec, options)
        log.info("compiled the train step in %.1f s", time.monotonic() - started)
        return step

    def _save_last(self) -> bool:
        run = self.run_context
        if run.step == run.total or run.stopped_early:
            # counts become a model: it is what the steps were for
            with run.watch("step"), run.watchdog.doing("part of the end of training", PATIENCE):
                run.state = run.learner.finish(
                    run.state, on_part=lambda: run.watchdog.beat(run.step)
                )
        saved = run.save(force=True)
        if run.first:
            run.progress.checkpoint(run.saver.status())
        return saved

    def _end(self, saved: bool) -> Outcome:
        """After the last save: the last evaluation, the result."""
        run = self.run_context
        if run.ended is not None:
            with run.watch("save"), run.watchdog.doing("save", PATIENCE):
                run.saver.wait()
            return run.ended
        if not saved:
            why = run.saver.status()
            return Outcome(SAVE_FAILED, f"the last checkpoint was not written: {why}")
        if run.step < run.total and not run.stopping:
            by = "" if self.asked else " by a signal"
            return Outcome(
                INTERRUPTED,
                f"stopped{by} after step {run.step} of {run.total}, saved; "
                f"`jaxlm resume {run.run_dir}` continues",
            )
        return finish(run, self.standard.evaluate, self.standard.sample)
