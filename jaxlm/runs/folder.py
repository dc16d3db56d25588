"""A run's folder: its named files, the lock against a second writer, and writes that cannot tear.

    run = RunDir("runs/tiny")
    with run.lock():
        run.config.write_text(...)

The folder holds

    config.yaml  environment.json  data_manifest.json  tokenizer/  checkpoints/  metrics.jsonl
    measures.json  ledger.jsonl  samples.jsonl  records.json  timing.json  result.json  tensorboard/
    profile/  report.html  log.txt  marks.json  identity.json  run.lock

and of a run that was imported, or began from one, import.json and hf/: see `jaxlm.hf`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from jaxlm.core.config import UserError
from jaxlm.core.files import remove_strays

RESULT = "result.json"  # written last: the run has ended


class RunDir:
    """The paths of a run; none of them need exist yet."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.marks = self.path / "marks.json"
        self.timing = self.path / "timing.json"
        self.result = self.path / RESULT
        self.ends = self.path / "records.json"
        self.environment = self.path / "environment.json"
        self.data_manifest = self.path / "data_manifest.json"
        self.tokenizer = self.path / "tokenizer"
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.measures = self.path / "measures.json"
        self.ledger = self.path / "ledger.jsonl"
        self.samples = self.path / "samples.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.profile = self.path / "profile"
        self.report = self.path / "report.html"
        self.log = self.path / "log.txt"
        self.imported = self.path / "import.json"
        self.originals = self.path / "hf"
        self.lock_file = self.path / "run.lock"

    def __str__(self) -> str:
        return str(self.path)

    @contextlib.contextmanager
    def lock(self, process_index: int = 0) -> Iterator[None]:
        """Holds the run against a second writer, and makes its folder; ends with the process.

        The system frees the lock even of a killed process. Of several processes of one run only
        number 0 takes it. Raises `UserError` that names the holder's pid and host.
        """
        if process_index != 0:
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            lock = f"{self.lock_file.name}: " if error.filename == str(self.lock_file) else ""
            raise UserError(
                f"run_dir: {self.path}: {lock}{(error.strerror or 'cannot be made').lower()}; "
                "set run_dir to a folder that can be written"
            ) from None
        try:
            _take(handle, self)
            remove_strays(self.path)
            yield
        finally:
            # The file stays: removing it would let two writers hold locks on two files of one name.
            os.close(handle)


def is_hugging_face(folder: str | Path) -> bool:
    """Whether a folder is not a run, but a model in Hugging Face's format, by its files' names."""
    path = Path(folder)
    return (path / "config.json").is_file() and not RunDir(path).config.exists()


def _take(handle: int, run: RunDir) -> None:
    """Locks the open lock file and writes who holds it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise UserError(
                f"{run.lock_file}: cannot be locked ({error.strerror}); "
                "use a run folder on a file system with locks"
            ) from None
        holder = os.pread(handle, 4096, 0).decode("utf-8", "replace").strip() or "another process"
        raise UserError(
            f"{run}: the run is being written by {holder}; "
            "wait for it, stop it, or use another run folder"
        ) from None
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"pid {os.getpid()} on {socket.gethostname()} since {now}\n".encode(), 0)
