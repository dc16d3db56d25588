"""Checkpoints: saved in the background, checksummed, committed whole or not at all.

    saver = Checkpointer(run.checkpoints, config.checkpoint)
    saver.clean()                                  # once the run's lock is held
    step = saver.latest()                          # None: nothing was ever saved
    state = saver.restore(step, abstract_state)    # ShapeDtypeStructs with shardings
    while training:
        if saver.due(step, time.time()):
            saver.save(step, state, {"data.json": b"...", "tokenizer": run.tokenizer})
    saver.save(step, state, files, force=True)     # False: it failed, and status() says why
    saver.close()

A checkpoint is a folder `00000100/`: `orbax/` with the arrays, `state.json` with their names,
dtypes and shapes, the caller's files, and `checksums.json`, which is written last. The state is
stored as nested dicts under the "/"-joined paths of its leaves, whatever containers it is made of,
so that a part of it ("params") can be read without the rest.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxlm.checkpoint import state_io
from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.checkpoint.state_io import StateMetadata
from jaxlm.core.checksums import CHECKSUMS, checksums_text, digest_files, file_names
from jaxlm.core.config import Config, field
from jaxlm.core.files import fsync_folder, write_atomic
from jaxlm.distributed.consensus import decide, processes
from jaxlm.runs import checkpoints as dirs
from jaxlm.runs.checkpoints import SAVING, CheckpointInfo, step_folder
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import mark_saved

_LONG_WAIT = 1.0  # seconds; a shorter wait for the save before is not worth a line
_CLOCK_STEPS = 10  # several processes ask process 0's clock only at every tenth step


Writing = tuple[StateMetadata, Callable[[], None]]  # of `state_io.start_writing`


@dataclass(frozen=True, kw_only=True)
class KeepBestConfig(Config):
    """The checkpoints that are kept for their measures."""

    measure: str = field("eval/loss", "a key of metrics.jsonl that is measured during training")
    count: int = field(1, "how many of the best checkpoints stay", ge=1)
    better: Literal["lower", "higher"] | None = field(
        None, "which values are better; null: as the measure says"
    )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Config):
    """The times of saves, and the checkpoints that are kept."""

    every_steps: int | None = field(
        500, "save at every multiple of this step; null: not by steps", ge=1
    )
    every_minutes: float | None = field(
        None, "save when this long has passed since the last", gt=0, le=1e6
    )
    keep_last: int = field(
        3,
        "how many of the newest checkpoints stay; so does the newest that a later step has proven",
        ge=1,
    )
    keep_every: int | None = field(None, "checkpoints at multiples of this step stay forever", ge=1)
    keep_best: KeepBestConfig | None = field(
        None, "save and keep the steps with the best value of a measure; null: none"
    )
    async_save: bool = field(True, "write in the background while training continues")


class Checkpointer(CheckpointReader):
    """Writes and reads the checkpoints of one folder. All processes of a run make the same calls.

    There is one for a run, in the processes that hold its lock. `report` gets one line for each
    message for the user, always in the caller's thread.
    """

    def __init__(
        self,
        folder: str | Path,
        config: CheckpointConfig | None = None,
        *,
        report: Callable[[str], None] = print,
    ) -> None:
        super().__init__(folder, report=report)
        self.config = config or CheckpointConfig()
        self.seconds_blocked = 0.0  # how long save() and wait() have held up their caller
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._status = ""
        self._failed = False
        self._attempts = 0
        self._held: set[int] = set()  # steps known to be on disk as this run has them
        self._last_time: float | None = None
        # The newest step whose weights a later step has proven; None: all are taken as good.
        self.trusted: int | None = None
        self.best: tuple[int, ...] = ()  # steps that stay because of what was measured

    def due(self, step: int, now: float) -> bool:
        """Whether to save the state after `step` steps; `now` in seconds of any steady clock."""
        self._drain()
        if self._last_time is None:
            self._last_time = now
        due = bool(self.config.every_steps and step and step % self.config.every_steps == 0)
        due = due or self._due_by_clock(step, now)
        if due:
            self._last_time = now
        return due

    def _due_by_clock(self, step: int, now: float) -> bool:
        if self.config.every_minutes is None:
            return False
        assert self._last_time is not None
        passed = now - self._last_time >= 60 * self.config.every_minutes
        if processes()[1] == 1:
            return passed
        if step % _CLOCK_STEPS:
            return False
        return decide(self._key(f"due-{step}"), str(int(passed)), lambda texts: texts[0]) == "1"

    def save(
        self, step: int, state: Any, files: Mapping[str, bytes | Path], *, force: bool = False
    ) -> bool:
        """Saves a pytree of jax arrays and some files. On return the state may be donated.

        A save still under way is waited for: none is ever skipped. With `force` (the last save,
        and that of a preemption), or where the config says so, it returns when the checkpoint is
        committed. False means that it failed, as far as is known on return; the checkpoints
        before it are kept.
        """
        with self._blocking():
            self._join(f"the save of step {step}")
            if step in self._held:
                return True
            key = self._key(f"save-{step}")
            self._attempts += 1  # a folder that a failed save still writes into is not used again
            folder = step_folder(self.folder, step, f"{SAVING}{self._attempts}")
            self._status, self._failed = f"saving {step}", False
            try:
                decide(f"{key}/begin", "", lambda _: self._begin(folder))
                started = self._start(step, folder, state)
            except Exception as error:
                self._note_failure(step, folder, error)
                return False
            arguments = (key, step, folder, started, dict(files))
            self._thread = threading.Thread(target=self._finish, args=arguments, daemon=True)
            self._thread.start()
            if force or not self.config.async_save:
                self._join()
            return not self._failed

    def _start(self, step: int, folder: Path, state: Any) -> Callable[[], Writing]:
        """The write of the arrays, which a call begins in another thread where that is possible.
        On return the state may be donated.
        """
        kept = state_io.snapshot(state)
        if kept is not None:
            return lambda: state_io.start_writing(folder, step, kept())
        writing = state_io.start_writing(folder, step, state)
        return lambda: writing

    def wait(self) -> bool:
        """Waits for the save under way; whether the last one was committed."""
        with self._blocking():
            self._join()
        return not self._failed

    def status(self) -> str:
        """For the progress line: "saved 400", "saving 500" or "failed 500: no space left"."""
        self._drain()
        return self._status

    def abandon(self, first: int) -> None:
        """Sets aside the checkpoints from step `first` on: their weights are broken."""
        self.wait()

        def act(_: list[str]) -> str:
            gone = dirs.abandon(self.folder, first)
            with contextlib.suppress(OSError):
                if gone:
                    left = dirs.committed_steps(self.folder)
                    mark_saved(RunDir(self.folder.parent), left[-1] if left else None)
            return json.dumps(gone)

        text = decide(self._key(f"abandon-{first}"), "", act)
        for step in json.loads(text):
            self._held.discard(step)
            self._report(
                f"checkpoint {step}: set aside as broken, the loss was not finite after it"
            )

    def close(self) -> None:
        self.wait()

    def clean(self) -> Sequence[str]:
        """Removes and reports what killed saves left; call it once, when the lock is held."""
        text = decide(self._key("clean"), "", lambda _: json.dumps(dirs.clean(self.folder)))
        names = json.loads(text)
        for name in names:
            self._report(f"checkpoints/{name}: removed, left by a save or removal that was killed")
        return names

    def finish_pruning(self, newest: int) -> None:
        """Removes what a save that was killed after its commit, that of `newest`, left to remove.

        Call it in process 0, after the restore.
        """
        self._prune(newest)
        dirs.remove_broken(self.folder, last=newest)

    def list(self) -> list[CheckpointInfo]:
        return dirs.list_checkpoints(self.folder, self.config.keep_last, self.config.keep_every)

    def restore(self, step: int, abstract_state: Any) -> Any:
        state = super().restore(step, abstract_state)
        self._held.add(step)
        return state

    def _begin(self, folder: Path) -> str:
        """Process 0: an empty folder to write into."""
        dirs.clean(self.folder)
        folder.mkdir(parents=True)
        return ""

    def _finish(
        self,
        key: str,
        step: int,
        folder: Path,
        started: Callable[[], Writing],
        files: Mapping[str, bytes | Path],
    ) -> None:
        """In the background: waits for the arrays, adds files and checksums, commits, prunes.

        started: the write of the arrays, which it begins where the caller has not.
        """
        index, count = processes()
        try:
            metadata, finish = started()
            finish()

            def write(_: list[str]) -> str:
                _write_files(folder, {**files, state_io.METADATA: metadata.to_json()})
                return json.dumps(file_names(folder))

            names = json.loads(decide(f"{key}/files", "", write))
            mine = _attempt(lambda: digest_files(folder, names[index::count], flush=True))
            decide(f"{key}/commit", mine, lambda texts: self._commit(step, folder, texts))
            self._held.add(step)
            self._status = f"saved {step}"
        except BaseException as error:
            self._note_failure(step, folder, error)

    def _commit(self, step: int, folder: Path, texts: Sequence[str]) -> str:
        """Process 0: the checksums, the final name, and what may go now that this one is safe."""
        sums: dict[str, list] = {}
        for text in texts:
            part = json.loads(text)
            if "error" in part:
                raise OSError(part["error"])
            sums.update(part["value"])
        for path in folder.rglob("*"):
            if path.is_dir():
                fsync_folder(path)
        write_atomic(folder / CHECKSUMS, checksums_text(sums))
        dirs.publish(folder)
        with contextlib.suppress(OSError):  # the checkpoint is there, and a resume marks it too
            mark_saved(RunDir(self.folder.parent), step)
        self._prune(step)
        dirs.remove_broken(self.folder)
        return ""

    def _prune(self, newest: int) -> None:
        keep = self.config.keep_last, self.config.keep_every
        dirs.prune(self.folder, newest, *keep, self.trusted, best=self.best)

    def _note_failure(self, step: int, folder: Path, error: BaseException) -> None:
        if processes()[0] == 0:
            dirs.discard(folder)
        self._failed = True
        self._status = f"failed {step}: {_reason(error)}"
        self._messages.put(
            f"checkpoint {step}: not saved, {_reason(error)}; the checkpoints before it are kept, "
            f"and the next save tries again ({self.folder})"
        )

    def _join(self, waiting: str = "") -> None:
        if self._thread is not None:
            started, before = time.perf_counter(), self._status
            self._thread.join()
            self._thread = None
            seconds = time.perf_counter() - started
            if waiting and seconds > _LONG_WAIT:
                self._messages.put(
                    f"{waiting} waited {seconds:.1f} s for the one before ({before}); "
                    "raise checkpoint.every_steps or every_minutes"
                )
        self._drain()

    def _drain(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._report(self._messages.get_nowait())

    @contextlib.contextmanager
    def _blocking(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds_blocked += time.perf_counter() - started

    def _pass_over(self, step: int, damage: str) -> None:
        """Renames a damaged checkpoint to `00000100.corrupt`; nothing is deleted."""
        path = self.path(step)
        name = decide(self._key(f"aside-{step}"), "", lambda _: dirs.set_aside(path).name)
        self._report(
            f"checkpoint {step}: damaged, {damage}; set aside as {name}, the one before it is used"
        )


def _write_files(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Writes bytes, copies files and folders, under their names."""
    for name, content in files.items():
        target = folder / name
        assert name not in (CHECKSUMS, state_io.ARRAYS), f"{name} is the checkpoint's own"
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        elif content.is_dir():
            shutil.copytree(content, target)
        else:
            shutil.copyfile(content, target)


def _attempt(work: Callable[[], Any]) -> str:
    """The JSON of a result, or of the error: process 0 needs either."""
    try:
        return json.dumps({"value": work()})
    except OSError as error:
        return json.dumps({"error": _reason(error)})


def _reason(error: BaseException) -> str:
    """The error in a few words."""
    text = str(error)
    for phrase in (
        "no space left on device",
        "permission denied",
        "read-only file system",
        "file too large",
    ):
        if phrase in text.lower():
            return phrase
    return (text.strip().splitlines() or [""])[0][:200] or type(error).__name__
