"""The training loop: it never waits for the device but to read what is a step old.

    outcome = Loop(session, run, ...).run()     # see `jaxlm.api.fit`

One turn takes a batch that is on the device already, dispatches the compiled step, and reads the
metrics of the step before. Saves are asynchronous. SIGTERM and SIGINT let the step end, save, and
return `INTERRUPTED`; a second one ends the process at once. Several processes agree on a stop
through the batch itself: each puts its signal beside its rows, the step takes the largest, and all
read it one step late.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.checkpoint.writer import Checkpointer
from jaxlm.core import config as configs
from jaxlm.core.errors import few
from jaxlm.core.exit_codes import DONE, INTERRUPTED, NOT_FINITE, SAVE_FAILED
from jaxlm.distributed.consensus import decide
from jaxlm.distributed.signals import Signals
from jaxlm.distributed.watchdog import PATIENCE, Watchdog
from jaxlm.report import write_report
from jaxlm.run import config_sha256, trajectory
from jaxlm.runs import checkpoints as dirs
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import IDENTITY
from jaxlm.runs.log import messages_above
from jaxlm.runs.progress import Progress, quoted
from jaxlm.runs.records import Records
from jaxlm.runs.stopwatch import Stopwatch
from jaxlm.runs.trackers import MetricsWriter, extent
from jaxlm.training import saved_step
from jaxlm.training import session as sessions
from jaxlm.training.compiler import options_for
from jaxlm.training.feed import Feed, batch_spec
from jaxlm.training.meter import Figures
from jaxlm.training.outcome import Outcome
from jaxlm.training.rollback import entry, place, skipped
from jaxlm.training.session import Session
from jaxlm.training.state import State
from jaxlm.training.throughput import peak_of

log = logging.getLogger("jaxlm")

STOP = 1  # the signal that a process puts beside its rows
ROLL_BACK = Outcome(-1, "the run goes back to an earlier checkpoint")
LINGER_SECONDS = 15  # that process 0 stays after a hang, for the others to tell of theirs


class Loop:
    """One process's part in a run. `state` is the only thing that training changes."""

    def __init__(
        self,
        session: Session,
        run: RunDir,
        watch: Stopwatch,
        signals: Signals,
        marks: Mapping[str, configs.Mark],
        *,
        evaluator: Any,
        sampler: Any,
        accept_data: bool = False,
    ):
        """`evaluator`: None for data without a validation split."""
        self.accept_data = accept_data
        self.session, self.run_dir, self.watch, self.marks = session, run, watch, marks
        self.signals = signals
        self.config, self.program = session.config, session.program
        assert session.learner is not None
        self.learner = session.learner
        self.total = self.config.train.steps or 0
        self.first = jax.process_index() == 0
        self.several = jax.process_count() > 1
        self.stopping = False
        self.compilations = 0  # since the loop began
        self.loader = session.train_loader()
        self.evaluator, self.sampler = evaluator, sampler
        self.saver = Checkpointer(run.checkpoints, self.config.checkpoint, report=log.warning)
        self.unread: tuple[int, np.ndarray, Any] | None = (
            None  # (step, ids, metrics) of the last step
        )
        self.skips: list[dict[str, Any]] = []  # what was rolled back, see `jaxlm.training.rollback`
        self.changed: list[str] = []  # what a resume changes of the config
        self.legs = 0  # from a restored state each
        self.step: Any = None
        self.bad = 0  # steps in a row that were not applied, as of the last that was read
        self.owed = False  # a save that was due in such a row
        index = jax.process_index()
        self.records = Records(run, index, keep_ledger=self.config.train.ledger)
        self.watchdog = Watchdog(
            self.config.train.hang_timeout,
            run.log.with_suffix(f".{index}.txt") if index else run.log,
            linger=LINGER_SECONDS if index == 0 and self.several else 0,
        )

    # ----------------------------------------------------------------------------------- the run

    def run(self) -> Outcome:
        """From the state that is found to the last step, or to a signal."""
        with ExitStack() as stack:
            stack.enter_context(self.watchdog)
            stack.callback(self._close_saver)
            while (outcome := self._leg()) is None:
                pass
            return outcome

    def _leg(self) -> Outcome | None:
        """From a state to the end; None: the run goes back, and a next leg starts from a state."""
        config = self.config
        self.legs += 1
        self.unread, self.bad, self.owed = None, 0, False
        with ExitStack() as stack:
            with self.watch("setup"), self.watchdog.doing("start", PATIENCE):
                state, step = self._start()
            self.watchdog.beat(step)
            stack.enter_context(self.records.ledger())
            if self.first:
                self.writer = stack.enter_context(
                    MetricsWriter(
                        self.run_dir.path,
                        config.logging,
                        resume_step=step if self.legs > 1 else step or None,
                        event=self._event(step),
                        run_config=configs.to_dict(config),
                    )
                )
            with self.watch("compile"):
                spec = batch_spec(
                    self.loader, config.train.batch_size, self.program.mesh, extra=self._signals
                )
                kind = jax.local_devices()[0].device_kind
                options = options_for(kind, config.train.xla)
                if self.step is None:
                    with self.watchdog.paused():
                        self.step = self._compiled(spec, options)
                # another's compilation is no hang, either
                with self.watchdog.doing("compilation of another process", PATIENCE):
                    decide(f"step compiled {self.legs}", "", lambda _: "")
            self.progress = stack.enter_context(
                Progress(
                    self.total,
                    step,
                    header=self.figures.header(options),
                    plain_every=config.logging.print_every_steps,
                    enabled=self.first,
                )
            )
            stack.enter_context(messages_above(self.progress))
            feed = stack.enter_context(
                Feed(
                    self.loader,
                    self.program.mesh,
                    step,
                    ahead=min(2, config.train.prefetch),
                    extra=self._signals,
                    skipped=skipped(self.skips),
                )
            )
            stack.enter_context(jax.set_mesh(self.program.mesh))
            with self.signals.waiting():
                state, step, bad = self._train(state, step, feed)
                if bad is ROLL_BACK:
                    if not self._must_stop():
                        self._go_back()
                        return None
                    bad = None  # a resume comes to the same point
                bad = bad or self._streak(step)
                if bad is None and step == self.total:
                    state = self.learner.finish(state)
                saved = bad is None and self._save(state, step, force=True)
                if self.first:
                    self.progress.checkpoint(self.saver.status())
            return self._end(state, step, bad, saved)

    def _start(self) -> tuple[State, int]:
        """The state that is found, and what the run's files say of it, from which both go on."""
        self.saver.clean()
        with jax.set_mesh(self.program.mesh):
            latest = self.saver.latest()
            if self.legs == 1:
                self.record = sessions.record_of(
                    self.run_dir, self.session, latest, accept_data=self.accept_data
                )
                if latest is not None:
                    data = json.loads(self.saver.read_file(latest, "data.json"))
                    self.skips = list(data.get("skipped", ()))
                    if self.run_dir.config.is_file():
                        self.changed = sessions.changes(self.run_dir, self.config)
            state, step = sessions.find_state(self.session, self.saver, latest)
            self.record = self.record.with_frozen(self.learner.origins)
        # Its step was applied, or it would not have been saved: the weights before it are good.
        self.saver.trusted = step - self._suspects
        self.records.run_id = self.record.identity.run_id
        if self.first:  # not before: a config that cannot go on must not take the run over
            sessions.write_run_files(self.run_dir, self.session, self.marks, self.record)
        peak = peak_of(list(self.program.mesh.devices.flat))
        length = self.session.prepared.seq_len
        self.figures = Figures(self.program, peak, self.watch, seq_len=length)
        if self.first:
            self.records.take_back(step, last=step == self.total)
            self.saver.finish_pruning(step)
            self.records.write_times(self.watch)
        # a ledger that another process opened before it was cut would be one without a name
        decide(f"taken back {self.legs}", "", lambda _: "")
        return state, step

    def _event(self, step: int) -> dict[str, Any]:
        """What starts this leg, as metrics.jsonl has it."""
        if self.legs > 1:
            back = self.skips[-1]
            return {"event": "rollback", "seen": back["step"], "batches": back["batches"]}
        changed = {"changed": self.changed} if self.changed else {}
        return {"event": "resume", **changed} if step else {"event": "start"}

    def _close_saver(self) -> None:
        with self.watchdog.doing("save", PATIENCE):
            self.saver.close()

    def _compiled(self, spec: dict[str, Any], options: dict[str, str]) -> Any:
        """The step: the one that was kept by a plan, if it is this run's, else compiled now."""
        path = self.config.train.compiled
        if path is not None:
            saved, why = saved_step.load(self.config, self.learner, spec, options, path)
            # one for all: executables that were made in two ways may not meet in their collectives
            why = decide("compiled", why, lambda found: next(filter(None, found), ""))
            if saved is not None and not why:
                log.info("the train step is that of %s", path)
                return saved
            log.warning("train.compiled: %s; the step is compiled now", why)
        log.info("compiling the train step")
        started = time.monotonic()
        step = self.learner.compile(spec, options)
        log.info("compiled the train step in %.1f s", time.monotonic() - started)
        return step

    def _train(self, state: State, step: int, feed: Feed) -> tuple[State, int, Outcome | None]:
        """The loop itself: (state, steps taken, why it stopped early)."""
        self.figures.start(step)
        while step < self.total and not self._must_stop():
            with self.watch("data"):
                ids, batch = next(feed)
            # Nothing moves between host and device here but by name; a hidden transfer is an error.
            with self.watch("step"), jax.transfer_guard("disallow"):
                frozen = self.learner.frozen
                state, metrics = self.step(state, frozen, self.learner.batch(state, frozen, batch))
                step += 1
                bad = self._read((step, ids, metrics))
            self.records.write_ids(step, ids)
            self.watchdog.beat(step)
            bad = bad or self._after(state, step)
            if bad is not None:
                return state, step, bad
        return state, step, self._read(None)

    def _read(self, latest: tuple[int, np.ndarray, Any] | None) -> Outcome | None:
        """Reads the metrics of the step before `latest`, which the device has likely finished."""
        before, self.unread = self.unread, latest
        if before is None:
            return None
        step, ids, metrics = before
        values = jax.device_get(metrics)
        self.stopping |= self.several and bool(values["signal"][0])
        self.figures.count(float(values["tokens"][0]))
        self.bad = bad = int(values["bad_steps"][0])
        if bad:
            log.warning(
                "step %d: the loss is not finite; the step is not applied (%d in a row); "
                "samples %s",
                *(step, bad, few(ids)),
            )
        else:  # its loss is of the weights before it: those are good
            self.saver.trusted = step - self._suspects
        rollback = self.config.train.rollback
        if rollback and bad >= rollback.after and len(self.skips) < rollback.max:
            first = max(1, step - bad + 1 - rollback.before)
            self.skips.append(entry(step, first, skipped(self.skips)))
            self.back_to = first - 1
            return ROLL_BACK
        if bad >= self.config.train.max_bad_steps:
            return self._not_finite(step, f" (samples {few(ids)}); look at these samples, or")
        if self.first and (step % self.config.logging.every_steps == 0 or step == self.total):
            line = self.figures.line(step, values)
            self.writer.write(step, line)
            self.progress.update(step, line, more=self._measures(step))
        return None

    def _measures(self, step: int) -> bool:
        """Whether an evaluation follows a step."""
        due = _due(self.config.eval.every_steps, step)
        at_end = step == self.total and self.config.eval.at_end
        return self.evaluator is not None and (due or at_end)

    def _after(self, state: State, step: int) -> Outcome | None:
        """What is due after a step: evaluation, samples, a save. Why to stop, if there is cause."""
        if step == self.total:
            return None
        evaluate = _due(self.config.eval.every_steps, step)
        sample = _due(self.config.sample.every_steps, step)
        self.owed |= self.saver.due(step, time.monotonic())
        save = self.owed and not self.bad
        if evaluate or sample or save:
            # All of these wait for the step. Its line must be on disk before its checkpoint is: a
            # run that is killed in between goes on behind the step and never tells of it again.
            bad = self._read(None)
            if bad is not None:
                return bad
        if evaluate:
            self._evaluate(state, step)
        if sample:
            self._sample(state, step)
        if save and not self.bad:  # else the first step after these saves
            self._save(state, step)
            self.owed = False
        if self.first:
            self.progress.checkpoint(self.saver.status())
        return None

    @property
    def _suspects(self) -> int:
        """How many of the last applied steps may have broken the weights."""
        rollback = self.config.train.rollback
        return rollback.before if rollback else 1

    def _go_back(self) -> None:
        """The next leg starts from a checkpoint before the batches that are skipped now."""
        batches = self.skips[-1]["batches"]
        log.warning(
            "rollback %d: the loss was not finite for %d steps in a row, last at step %d; back to "
            "step %d or before, without batches %d to %d (the first is 0)",
            *(len(self.skips), self.bad, self.skips[-1]["step"], self.back_to),
            *(batches[0], batches[-1]),
        )
        with self.watch("save"), self.watchdog.doing("save", PATIENCE):
            self.saver.abandon(self.back_to + 1)

    def _streak(self, step: int) -> Outcome | None:
        """Why a run that ends among steps that were not applied is not saved.

        The weights may be broken since the last step that was. A save in their place would be the
        newest, and what a resume starts from; the steps themselves come again in the same way.
        """
        if not self.bad:
            return None
        if step < self.total:
            return Outcome(
                INTERRUPTED,
                f"stopped by a signal after step {step} of {self.total}; not saved, since the "
                f"last {self.bad} steps were not applied: `jaxlm resume {self.run_dir}` continues "
                "from the checkpoint before them",
            )
        return self._not_finite(step, f"; end before them with train.steps={step - self.bad}, or")

    def _not_finite(self, step: int, what: str) -> Outcome:
        """The run stops. A resume starts from a checkpoint before the damage, which the last step
        that was applied may have done.
        """
        with self.watch("save"), self.watchdog.doing("save", PATIENCE):
            self.saver.abandon(step - self.bad)
        left = dirs.committed_steps(self.run_dir.checkpoints)
        return Outcome(
            NOT_FINITE,
            f"stopped: the loss was not finite for {self.bad} steps in a row, last at step {step}"
            f"{what} continue from {f'checkpoint {left[-1]}' if left else 'the start'} with a "
            f"lower rate: `jaxlm resume {self.run_dir} optimizer.learning_rate=...`",
        )

    def _end(self, state: State, step: int, bad: Outcome | None, saved: bool) -> Outcome:
        """After the last save: the last evaluation, the result."""
        if bad is not None:
            with self.watch("save"), self.watchdog.doing("save", PATIENCE):
                self.saver.wait()
            return self._close(bad)
        if not saved:
            why = self.saver.status()
            return self._close(Outcome(SAVE_FAILED, f"the last checkpoint was not written: {why}"))
        if step < self.total:
            return self._close(
                Outcome(
                    INTERRUPTED,
                    f"stopped by a signal after step {step} of {self.total}, saved; "
                    f"`jaxlm resume {self.run_dir}` goes on",
                )
            )
        values: dict[str, float] = {}
        tables: dict[str, Any] = {}
        if self._measures(step):
            values, tables = self._evaluate(state, step, whole=self.config.eval.at_end)
            self._judge(values, step)
        self._sample(state, step)
        # parameter after parameter comes to the host, and none of them beats
        with self.watch("other"), self.watchdog.doing("checksum of the parameters", PATIENCE):
            digest = param_sha256(state["params"])
        final = {
            **values,
            "num_params": sum(
                x.size for x in jax.tree.leaves(self.learner.weights(state, self.learner.frozen))
            ),
            "param_sha256": digest,
            "config_sha256": config_sha256(self.config),
        }
        result = {"step": step, "final": final, **self._extent(values), **tables}
        if self.skips:
            result["skipped"] = self.skips
        if self.first:
            self.records.write_result(result)
        what = f"; evaluated on {extent(result['evaluated'])}" if values else ""
        outcome = Outcome(DONE, f"done: step {step} of {self.total}{what}", result)
        return self._close(outcome)

    def _extent(self, values: Mapping[str, float]) -> dict[str, Any]:
        """How much of the validation split the final figures are of, if there are any."""
        if self.evaluator is None or not values:
            return {}
        count = None if self.config.eval.at_end else self.config.eval.max_batches
        whole = self.evaluator.num_batches
        return {"evaluated": {"batches": self.evaluator.batches(count), "of": whole}}

    def _judge(self, values: Mapping[str, float], step: int) -> None:
        """Only warns: broken weights may give a finite loss (what infinite sums divide is 0)."""
        if not math.isfinite(values.get("eval/loss", 0.0)):
            log.warning("step %d: the loss of the evaluation is not finite", step)

    def _close(self, outcome: Outcome) -> Outcome:
        """The report is written whatever became of the run."""
        if self.first:
            self.progress.close()
            self.writer.close()
            self.records.write_times(self.watch)
            written = self.records.write(self.run_dir.report, write_report)
            outcome = dataclasses.replace(outcome, report=written)
        return outcome

    # ------------------------------------------------------------------------------ what is due

    def _position(self, step: int) -> dict[str, Any]:
        """Where the data stands after a step, and what of it was skipped."""
        position = self.loader.position(place(step, skipped(self.skips)))
        return {**position, "step": step, "skipped": self.skips}

    def _save(self, state: State, step: int, force: bool = False) -> bool:
        if self.first:
            self.records.write_times(self.watch)
        files: dict[str, bytes | Path] = {
            "config.yaml": configs.to_yaml(self.config).encode(),
            IDENTITY: self.record.identity.text(step, configs.sha256(trajectory(self.config))),
            "data.json": json.dumps(self._position(step)).encode(),
            "tokenizer": self.run_dir.tokenizer,
        }
        # a slow disk is waited for, but not for ever: a wait that does not end is a hang as well
        with self.watch("save"), self.watchdog.doing("save", PATIENCE):
            return self.saver.save(step, state, files, force=force)

    def _evaluate(self, state: State, step: int, whole: bool = False) -> tuple[dict, dict]:
        """Measures `eval.max_batches` batches, the curve's next point; with `whole` the split too.

        Returns the figures and tables of the larger of the two.
        """
        if self.evaluator is None:
            return {}, {}
        params = self.learner.weights(state, self.learner.frozen)
        part = self.config.eval.max_batches
        with self.watch("eval"), self.watchdog.doing("batch of evaluation"):
            found = self.evaluator.after(
                params,
                [part, None] if whole else [part],
                on_batch=lambda: self.watchdog.beat(step),
                compiling=self._compiling,
            )
        (first, _), (values, tables) = found[0], found[-1]
        if self.first:
            line = {f"eval/{name}": value for name, value in first.items()}
            line |= {f"final/{name}": value for name, value in values.items()} if whole else {}
            self.writer.write(step, line)
            self.progress.update(step, line)
        return {f"eval/{name}": value for name, value in values.items()}, tables

    def _sample(self, state: State, step: int) -> None:
        if not self.sampler.prompts:
            return
        with self.watch("sample"), self.watchdog.doing("part of a sample"):
            beat = lambda: self.watchdog.beat(step)  # noqa: E731
            params = self.learner.weights(state, self.learner.frozen)
            pairs = self.sampler(params, on_part=beat, compiling=self._compiling)
        if self.first:
            self.records.write_samples(step, pairs)
            for prompt, text in pairs:
                self.progress.message(quoted(step, prompt + text))

    @contextmanager
    def _compiling(self) -> Iterator[None]:
        """A compilation may take any time; who has ended it waits here until all have."""
        with self.watchdog.paused():
            yield
            self.compilations += 1
            decide(f"compilation-{self.compilations}", "", lambda _: "")

    # ------------------------------------------------------------------------------------- signals

    def _must_stop(self) -> bool:
        """Alone, a process stops at once; among several, when all have read the signal."""
        return self.stopping or (self.signals.asked and not self.several)

    def _signals(self, rows: int) -> dict[str, np.ndarray]:
        asked = self.signals.asked * STOP
        return {"signal": np.full(rows, asked, np.int32)} if self.several else {}


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0
