"""A new folder that appears whole or not at all.

    with new_folder(Path("runs/gpt2")) as partial:
        (partial / "config.yaml").write_text(...)       # runs/.gpt2.partial, renamed at the end

What a killed process left is cleared by the next one that makes the same folder; two at the same
time are an error. All processes of a program make the same calls; number 0 does the work.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from jaxlm.core.config import UserError
from jaxlm.core.files import fsync_folder
from jaxlm.distributed.consensus import decide, processes
from jaxlm.runs.folder import RunDir


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """The folder to fill; it has the name `out` after the block, or is gone after an error."""
    out = out.absolute()
    check_new(out)
    partial = RunDir(out.with_name(f".{out.name}.partial"))
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(partial.lock(processes()[0]))
        except UserError as error:
            raise UserError(f"--out: {str(error).removeprefix('run_dir: ')}") from None
        try:
            decide(f"hf/{out}/begin", "", lambda _: _clear(partial))
            yield partial.path
            decide(f"hf/{out}/end", "", lambda _: _publish(partial, out))
        except OSError as error:
            _remove(partial)
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"--out: {out}: {reason}; nothing was kept") from None
        except BaseException:
            _remove(partial)
            raise


def check_new(out: Path) -> None:
    """Raises `UserError` where the folder exists."""
    if out.exists():
        raise UserError(f"--out: {out} exists already; name a new folder")


@contextlib.contextmanager
def removed_after_error(folder: Path) -> Iterator[None]:
    """Removes a folder, which the caller has made, where the block raises."""
    try:
        yield
    except BaseException:
        _remove(RunDir(folder))
        raise


def _clear(partial: RunDir) -> str:
    for path in partial.path.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path != partial.lock_file:
            path.unlink()
    return ""


def _publish(partial: RunDir, out: Path) -> str:
    """Everything is on the disk before the name is."""
    for path in sorted(partial.path.rglob("*")):
        if path.is_dir():
            fsync_folder(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    partial.lock_file.unlink()
    fsync_folder(partial.path)
    check_new(out)  # it may have been made meanwhile
    os.rename(partial.path, out)
    fsync_folder(out.parent)
    return ""


def _remove(partial: RunDir) -> None:
    if processes()[0] == 0:
        shutil.rmtree(partial.path, ignore_errors=True)
