"""The training loop: it never waits for the device but to read what is a step old.

    outcome = train(resolved)     # or train(resolved, must_exist=True), which `jaxlm resume` calls

One turn takes a batch that is on the device already, dispatches the compiled step, and reads the
metrics of the step before. Saves are asynchronous. SIGTERM and SIGINT let the step end, save, and
return `INTERRUPTED`; a second one ends the process at once. Several processes agree on a stop
through the batch itself: each puts its signal beside its rows, the step takes the largest, and all
read it one step late.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from jaxlm import config as configs
from jaxlm.config import Resolved, UserError
from jaxlm.evaluate import evaluator_of
from jaxlm.generate import Generator, Sampling, Writer, ids_of
from jaxlm.run import RunConfig, config_sha256
from jaxlm.train import saved_step
from jaxlm.train import session as sessions
from jaxlm.train.agree import decide
from jaxlm.train.checkpoint import Checkpointer
from jaxlm.train.checkpoint_reader import CheckpointReader
from jaxlm.train.feed import Feed, batch_spec
from jaxlm.train.hashing import param_sha256
from jaxlm.train.metrics import MetricsWriter
from jaxlm.train.progress import Progress
from jaxlm.train.run_dir import RunDir, truncate_jsonl, write_atomic
from jaxlm.train.session import Session
from jaxlm.train.signals import Signals, Stopped
from jaxlm.train.state import State, compile_train_step
from jaxlm.train.stopwatch import Stopwatch
from jaxlm.train.throughput import peak_of
from jaxlm.train.xla import options_for
from jaxlm.tree import flatten

log = logging.getLogger("jaxlm")

DONE = 0
NOT_FINITE = 65  # EX_DATAERR: the loss was not finite for too many steps in a row
SAVE_FAILED = 74  # EX_IOERR: the last checkpoint could not be written
INTERRUPTED = 75  # EX_TEMPFAIL: stopped by a signal and saved; `jaxlm resume` goes on

RESULT = "result.json"  # written last: the run has ended
STOP = 1  # the signal that a process puts beside its rows


@dataclass(frozen=True)
class Outcome:
    """How a run ended: an exit code, and a line for the user."""

    code: int
    message: str
    result: dict[str, Any] = field(default_factory=dict)


def train(resolved: Resolved[RunConfig], *, must_exist: bool = False) -> Outcome:
    """Trains the run of a config to its end, from wherever its directory says it stands.

    Raises `UserError` for what the user has to mend.
    """
    first = jax.process_index() == 0
    run = RunDir(resolved.config.run_dir or "")
    if must_exist and not run.config.is_file():
        raise UserError(f"{run}: not a run directory; `jaxlm train CONFIG` starts one")
    sessions.check_trainable(run)
    with ExitStack() as stack:
        stack.enter_context(run.lock(jax.process_index()))
        watch = Stopwatch.load(run.path)
        stack.enter_context(_logging_to(run, first))
        signals = stack.enter_context(Signals())
        try:
            with watch("setup"):
                if must_exist:
                    sessions.check_changes(run, resolved.config)
                finished = _finished(run, resolved.config) if must_exist else None
                if finished is not None:
                    return finished
                session = Session.open(resolved.config, report=log.info)
                if not must_exist:
                    sessions.check_same_run(run, session.config)
                    finished = _finished(run, session.config)
            return finished or Loop(session, run, watch, signals, resolved.marks).run()
        except Stopped as name:
            return Outcome(INTERRUPTED, f"stopped by {name}; the same command goes on with {run}")


def _finished(run: RunDir, config: RunConfig) -> Outcome | None:
    """What to tell of a run that has ended, if its last checkpoint stands; None of any other."""
    try:
        text = (run.path / RESULT).read_text()
    except OSError:
        text = "{}"
    result = json.loads(decide("result", text, lambda texts: texts[0]))
    step = result.get("step")
    if step is None or step != config.train.steps:
        return None
    if CheckpointReader(run.checkpoints, report=log.warning).latest() != step:
        return None
    return Outcome(
        DONE,
        f"done already: step {step} of {step}, nothing was changed; `jaxlm eval {run}` measures it "
        "again, another run_dir starts anew",
        result,
    )


class Loop:
    """One process's part in a run. `state` is the only thing that training changes."""

    def __init__(
        self,
        session: Session,
        run: RunDir,
        watch: Stopwatch,
        signals: Signals,
        marks: Mapping[str, configs.Mark],
    ):
        self.session, self.run_dir, self.watch, self.marks = session, run, watch, marks
        self.signals = signals
        self.config, self.program = session.config, session.program
        self.total = self.config.train.steps or 0
        self.first = jax.process_index() == 0
        self.several = jax.process_count() > 1
        self.stopping = False
        self.loader = session.train_loader()
        self.evaluator = evaluator_of(session)
        self.saver = Checkpointer(run.checkpoints, self.config.checkpoint, report=log.warning)
        self.unread: tuple[int, np.ndarray, Any] | None = (
            None  # (step, ids, metrics) of the last step
        )
        self.tokens = 0.0  # real tokens since the last line of metrics
        self.unwritten: set[Path] = set()  # files that could not be written, each told once

    # ----------------------------------------------------------------------------------- the run

    def run(self) -> Outcome:
        """From the state that is found to the last step, or to a signal."""
        config = self.config
        with ExitStack() as stack:
            stack.callback(self.saver.close)
            with self.watch("setup"):
                self.saver.clean()
                with jax.set_mesh(self.program.mesh):
                    state, step = sessions.find_state(self.session, self.saver)
                if self.first:  # not before: a config that cannot go on must not take the run over
                    sessions.write_run_files(self.run_dir, self.session, self.marks)
                self.peak = peak_of(list(self.program.mesh.devices.flat))
                self._truncate(step)
            self.ledger = stack.enter_context(self._open_ledger())
            resumed = step if step else None
            if self.first:
                self.writer = stack.enter_context(
                    MetricsWriter(
                        self.run_dir.path,
                        config.logging,
                        resume_step=resumed,
                        run_config=configs.to_dict(config),
                    )
                )
            with self.watch("compile"):
                spec = batch_spec(
                    self.loader, config.train.batch_size, self.program.mesh, extra=self._signals
                )
                kind = jax.local_devices()[0].device_kind
                self.options = options_for(kind, config.train.xla)
                self.step = self._compiled(spec)
            self.progress = stack.enter_context(
                Progress(
                    self.total,
                    step,
                    header=self._header(),
                    plain_every=config.logging.print_every_steps,
                    enabled=self.first,
                )
            )
            stack.enter_context(_messages_above(self.progress))
            feed = stack.enter_context(
                Feed(
                    self.loader,
                    self.program.mesh,
                    step,
                    ahead=min(2, config.train.prefetch),
                    extra=self._signals,
                )
            )
            stack.enter_context(jax.set_mesh(self.program.mesh))
            with self.signals.waiting():
                state, step, bad = self._train(state, step, feed)
                saved = bad is None and self._save(state, step, force=True)
                if self.first:
                    self.progress.checkpoint(self.saver.status())
            return self._end(state, step, bad, saved)

    def _compiled(self, spec: dict[str, Any]) -> Any:
        """The step: the one that was kept by a plan, if it is this run's, else compiled now."""
        path = self.config.train.compiled
        if path is not None:
            step, why = saved_step.load(self.config, self.program, spec, self.options, path)
            if step is not None:
                log.info("the train step is that of %s", path)
                return step
            log.warning("train.compiled: %s; the step is compiled now", why)
        return compile_train_step(self.program, spec, self.options)

    def _train(self, state: State, step: int, feed: Feed) -> tuple[State, int, Outcome | None]:
        """The loop itself: (state, steps taken, why it stopped early)."""
        self.watch.lap()
        self.lap_step = step
        while step < self.total and not self._must_stop():
            with self.watch("data"):
                ids, batch = next(feed)
            # Nothing moves between host and device here but by name; a hidden transfer is an error.
            with self.watch("step"), jax.transfer_guard("disallow"):
                state, metrics = self.step(state, batch)
                step += 1
                bad = self._read((step, ids, metrics))
            self._write_ledger(step, ids)
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
        self.tokens += float(values["tokens"][0])
        bad = int(values["bad_steps"][0])
        if bad:
            log.warning(
                "step %d: the loss is not finite; the step is not applied (%d in a row); "
                "samples %s",
                *(step, bad, _some(ids)),
            )
        if bad >= self.config.train.max_bad_steps:
            return Outcome(
                NOT_FINITE,
                f"stopped: the loss was not finite for {bad} steps in a row, last at step {step} "
                f"(samples {_some(ids)}); look at these samples, or go on with a lower rate: "
                f"`jaxlm resume {self.run_dir} optimizer.learning_rate=...`",
            )
        if step % self.config.logging.every_steps == 0 or step == self.total:
            self._log_step(step, values)
        return None

    def _after(self, state: State, step: int) -> Outcome | None:
        """What is due after a step: evaluation, samples, a save. Why to stop, if there is cause."""
        if step == self.total:
            return None
        evaluate = _due(self.config.eval.every_steps, step)
        sample = _due(self.config.sample.every_steps, step)
        save = self.saver.due(step, time.monotonic())
        if evaluate or sample or save:
            # All of these wait for the step. Its line must be on disk before its checkpoint is: a
            # run that is killed in between goes on behind the step and never tells of it again.
            bad = self._read(None)
            if bad is not None:
                return bad
        if evaluate:
            self._evaluate(state, step, self.config.eval.max_batches)
        if sample:
            self._sample(state, step)
        if save:
            self._save(state, step)
        if self.first:
            self.progress.checkpoint(self.saver.status())
        return None

    def _end(self, state: State, step: int, bad: Outcome | None, saved: bool) -> Outcome:
        """After the last save: the last evaluation, the result."""
        if bad is not None:
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
        if self.config.eval.at_end:
            values, tables = self._evaluate(state, step, None)
        self._sample(state, step)
        with self.watch("other"):
            digest = param_sha256(state["params"])
        final = {
            **values,
            "num_params": sum(int(np.prod(x.shape)) for x in flatten(state["params"]).values()),
            "param_sha256": digest,
            "config_sha256": config_sha256(self.config),
        }
        result = {"step": step, "final": final, **tables}
        if self.first:
            with self._file(self.run_dir.path / RESULT) as path:
                write_atomic(path, json.dumps(result, indent=1))
        outcome = Outcome(DONE, f"done: step {step} of {self.total}", result)
        return self._close(outcome)

    def _close(self, outcome: Outcome) -> Outcome:
        """The report is written whatever became of the run."""
        if self.first:
            from jaxlm.report import write_report

            self.progress.close()
            self.writer.close()
            self._save_times()
            with self._file(self.run_dir.report):
                write_report(self.run_dir.path)
        return outcome

    # ------------------------------------------------------------------------------ what is due

    def _save(self, state: State, step: int, force: bool = False) -> bool:
        if self.first:
            self._save_times()
        files: dict[str, bytes | Path] = {
            "config.yaml": configs.to_yaml(self.config).encode(),
            "data.json": json.dumps(self._position(step)).encode(),
            "tokenizer": self.run_dir.tokenizer,
        }
        with self.watch("save"):
            return self.saver.save(step, state, files, force=force)

    def _position(self, step: int) -> dict[str, Any]:
        """Where the data stands after `step` steps; a function of the step, kept for people."""
        rows = step * self.config.train.batch_size
        per_epoch = self.loader.rows_per_epoch
        return {"step": step, "rows": rows, "rows_per_epoch": per_epoch, "epoch": rows / per_epoch}

    def _evaluate(self, state: State, step: int, max_batches: int | None) -> tuple[dict, dict]:
        if self.evaluator is None:
            return {}, {}
        with self.watch("eval"):
            params = state.get("ema", state["params"])
            values, tables = self.evaluator(params, max_batches)
        values = {f"eval/{name}": value for name, value in values.items()}
        if self.first:
            self.writer.write(step, values)
            self.progress.update(step, values)
        return values, tables

    def _sample(self, state: State, step: int) -> None:
        sample = self.config.sample
        if not sample.prompts:
            return
        with self.watch("sample"):
            params = state.get("ema", state["params"])
            texts = self._writer(params, sample.prompts, seed=self.config.seed)
        if self.first:
            pairs = [{"prompt": p, "text": t} for p, t in zip(sample.prompts, texts, strict=True)]
            record = {"step": step, "time": time.time(), "samples": pairs}
            with self._file(self.run_dir.samples) as path, path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            for prompt, text in zip(sample.prompts, texts, strict=True):
                self.progress.message(_quoted(step, prompt + text))

    @cached_property
    def _writer(self) -> Writer:
        """Writes the samples; made once, so that its program is compiled once."""
        sample = self.config.sample
        sampling = Sampling(
            max_tokens=sample.max_tokens,
            temperature=sample.temperature,
            top_k=sample.top_k,
            top_p=sample.top_p,
        )
        tokenizer = self.session.prepared.tokenizer
        return Writer(tokenizer, Generator(self.program, sampling, **ids_of(tokenizer)))

    # -------------------------------------------------------------------------------- what is told

    def _log_step(self, step: int, values: dict[str, Any]) -> None:
        """One line of metrics of the steps since the last one; all numbers are on the host."""
        if not self.first:
            return
        lap = self.watch.lap()
        busy = lap["data"] + lap["step"]
        rate = self.tokens / busy if busy else 0.0
        line = {
            "train/loss": _mean(values["loss"]),  # as eval/loss: no smoothing, no penalty
            "train/objective": _mean(values["objective"]),
            "train/learning_rate": float(values["learning_rate"][0]),
            "train/grad_norm": float(values["grad_norm"][0]),
            "train/tokens_per_second": rate,
            "train/mfu": self.peak.mfu(self._flops_per_token(), rate),
            "train/data_wait": lap["data"] / busy if busy else 0.0,
            "train/seconds_per_step": busy / max(step - self.lap_step, 1),
        }
        self.tokens, self.lap_step = 0.0, step
        self.writer.write(step, line)
        self.progress.update(step, line)

    def _flops_per_token(self) -> float:
        return self.program.flops_per_token(self.session.prepared.seq_len)

    def _header(self) -> str:
        count = sum(int(np.prod(x.shape)) for x in flatten(self.program.abstract_params).values())
        mesh = {axis: size for axis, size in self.program.mesh.shape.items() if size > 1}
        forward = f"{self._flops_per_token() / 1e6:.1f} MFLOP/token (forward)"
        options = " ".join(f"{name}={value}" for name, value in self.options.items())
        return (
            f"{count:,} parameters on mesh {mesh or '1 device'}; "
            f"MFU = 3 x {forward} x tokens/s / peak; peak = {self.peak.source}"
            + (f"\nxla: {options}" if options else "")
        )

    def _open_ledger(self) -> IO[str]:
        """Each process writes the ids of its own rows."""
        path = self._ledger if self.config.train.ledger else Path(os.devnull)
        return path.open("a", buffering=2**20)  # keeps what a full disk does not take, till it does

    def _write_ledger(self, step: int, ids: np.ndarray) -> None:
        if not self.config.train.ledger:
            return
        with self._file(self._ledger):
            self.ledger.write(json.dumps({"step": step, "ids": ids.tolist()}) + "\n")
            self.ledger.flush()

    @property
    def _ledger(self) -> Path:
        index = jax.process_index()
        return self.run_dir.ledger.with_suffix(f".{index}.jsonl") if index else self.run_dir.ledger

    def _truncate(self, step: int) -> None:
        """Takes back what a killed process told of steps that are about to be run again."""
        if not self.first:
            return
        for ledger in self.run_dir.path.glob("ledger*.jsonl"):  # there may be fewer processes now
            truncate_jsonl(ledger, step)
        (self.run_dir.path / RESULT).unlink(missing_ok=True)
        last = step == self.total  # then it was killed in what follows the last step
        truncate_jsonl(self.run_dir.samples, step - last)
        if last and self.run_dir.metrics.exists():
            lines = self.run_dir.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [x for x in lines if not (f'"step": {step},' in x and '"eval/' in x)]
            write_atomic(self.run_dir.metrics, "".join(kept))

    def _save_times(self) -> None:
        with self._file(self.run_dir.path / "timing.json"):
            self.watch.save(self.run_dir.path)

    @contextmanager
    def _file(self, path: Path) -> Iterator[Path]:
        """A block that writes a file which the weights do not need: a full disk is told, once."""
        try:
            yield path
        except OSError as error:
            if path not in self.unwritten:
                self.unwritten.add(path)
                reason = (error.strerror or str(error)).lower()
                log.warning("%s: not written, %s; the run goes on", path, reason)

    # ------------------------------------------------------------------------------------- signals

    def _must_stop(self) -> bool:
        """Alone, a process stops at once; among several, when all have read the signal."""
        return self.stopping or (self.signals.asked and not self.several)

    def _signals(self, rows: int) -> dict[str, np.ndarray]:
        asked = self.signals.asked * STOP
        return {"signal": np.full(rows, asked, np.int32)} if self.several else {}


def _mean(pair: tuple[Any, Any]) -> float:
    return float(pair[0]) / max(float(pair[1]), 1e-9)


def _quoted(step: int, text: str) -> str:
    """A sample as an indented block under its step."""
    lines = "".join(f"\n  | {line}" for line in text.splitlines())
    return f"sample at step {step}:{lines}"


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0


def _some(ids: np.ndarray, count: int = 8) -> str:
    more = f" and {len(ids) - count} more" if len(ids) > count else ""
    return ", ".join(map(str, ids[:count])) + more


@contextmanager
def _logging_to(run: RunDir, first: bool) -> Iterator[None]:
    """The log goes to log.txt, and to the screen until the progress line takes it over."""
    handlers: list[logging.Handler] = []
    if first:
        handlers.append(_LogFile(run.log))
        handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for handler in handlers:
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with _messages_above(None) if first else ExitStack():
            yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


class _LogFile(logging.FileHandler):
    """log.txt; on a full disk it has holes, and the screen no traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class _Screen(logging.Handler):
    """Log lines for people: above the progress line where there is one."""

    progress: Progress | None = None

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"warning: {text}"
        if self.progress is not None:
            self.progress.message(text)
        else:
            print(text, flush=True)


_SCREEN = _Screen()


@contextmanager
def _messages_above(progress: Progress | None) -> Iterator[None]:
    before, _SCREEN.progress = _SCREEN.progress, progress
    log.addHandler(_SCREEN)
    log.propagate = False
    try:
        yield
    finally:
        _SCREEN.progress = before
        if progress is None:
            log.removeHandler(_SCREEN)
            log.propagate = True
