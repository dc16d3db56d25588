"""Files that a kill or a full disk cannot tear, and JSON whose damage is found when it is read.

    write_atomic("run/config.yaml", text)      # the whole file or the old one
    write_sealed("run/result.json", {...})     # the same, with a SHA-256 of its content inside
    read_sealed("run/result.json")             # the object; a damaged one is a `UserError`
    with disk_errors("runs/tiny"):             # a full disk or a bad name is a `UserError` too
        ...

Nothing here imports jax or numpy.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxlm.core.config import UserError

SEAL = "self_sha256"
STRAY_SECONDS = 3600.0  # a temporary file this old is a stray even if its process id is in use


# ---------------------------------------------------------------------------------- whole or not


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Writes a whole file or nothing: to a temporary file, which is flushed and then renamed."""
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_folder(path.parent)


def read_regular(path: str | Path) -> bytes:
    """A file's bytes. Raises `OSError` for a pipe or a device, which may have no
    end, and whoever opens it waits.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return Path(path).read_bytes()


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(path: str | Path) -> None:
    """Flushes the names in a folder to the disk, so that a rename outlives a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_strays(folder: str | Path) -> list[str]:
    """Removes the temporary files that killed calls of `write_atomic` left; returns their names.

    Call it while no other thread of this process writes. A file of another live process is kept,
    unless it is old: process ids are reused.
    """
    removed = []
    for path in Path(folder).glob(".*.tmp"):
        match = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if match is None or not path.is_file():
            continue
        with contextlib.suppress(OSError):
            old = time.time() - path.stat().st_mtime > STRAY_SECONDS
            if old or int(match[1]) == os.getpid() or not _is_alive(int(match[1])):
                path.unlink()
                removed.append(path.name)
    return removed


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


# ------------------------------------------------------------------------------------ sealed JSON


def digest_of(value: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, without its own seal, in canonical form."""
    body = {key: item for key, item in value.items() if key != SEAL}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def sealed_text(value: Mapping[str, Any]) -> str:
    """The JSON text of an object with its digest as the last key."""
    plain = json.loads(json.dumps(value))  # keys as JSON has them, which is what is read back
    return json.dumps({**plain, SEAL: digest_of(plain)}, indent=1, ensure_ascii=False) + "\n"


def write_sealed(path: str | Path, value: Mapping[str, Any]) -> None:
    write_atomic(path, sealed_text(value).encode("utf-8", "surrogatepass"))


def read_json(path: str | Path, fix: str) -> dict[str, Any]:
    """The JSON object of a file; `fix` says what to do about a bad one.

    Raises `UserError` where it cannot be read as one, FileNotFoundError where it does not exist.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise UserError(f"{path}: {reason}; {fix}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: damaged, it is not JSON; {fix}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: damaged, it is not a JSON object; {fix}")
    return value


def read_sealed(
    path: str | Path, fix: str = "put back a copy or remove the file"
) -> dict[str, Any]:
    """The values that `write_sealed` wrote, without the seal.

    Raises as `read_json`, and `UserError` where a value has changed.
    """
    value = read_json(path, fix)
    found = value.pop(SEAL, None)
    if found is None:
        raise UserError(f"{path}: has no checksum ({SEAL}), so its values are not trusted; {fix}")
    if found != digest_of(value):
        raise UserError(f"{path}: damaged, it does not match its own SHA-256; {fix}")
    return value


# -------------------------------------------------------------------------------- errors of a disk

_FIXES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "use a folder that can be written",
    errno.EACCES: "change its permissions or use another folder",
    errno.EPERM: "change its permissions or use another folder",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EISDIR: "move the folder out of the way",
    errno.ENOTDIR: "move the file out of the way",
    errno.EEXIST: "move it out of the way",
    errno.ENOTEMPTY: "move it out of the way",
    errno.ENOENT: "check whether something removed it",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the file system's mount",
}
_WITHOUT_A_NAME = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # of a write, not an open


def reason_of(error: OSError) -> str:
    """The error in a few lower-case words: "no space left on device"."""
    return (
        "no space left on device"
        if _is_short_write(error)
        else (error.strerror or str(error)).lower()
    )


def described(error: OSError, where: str = "") -> str | None:
    """One line for a user about an error of the file system; None for any other OSError."""
    name = error.filename if isinstance(error.filename, (str, bytes, os.PathLike)) else None
    number = errno.ENOSPC if _is_short_write(error) else error.errno
    if number not in _FIXES or (name is None and number not in _WITHOUT_A_NAME):
        return None
    if number == errno.ENOENT and name is not None:
        parent = Path(os.fsdecode(name)).parent
        if not parent.exists():
            return (
                f"{_short(str(parent))}: there is no such folder; make it, or check whether "
                "something removed it, then run the same command again"
            )
    place = _short(os.fsdecode(name)) if name is not None else where or "the disk"
    return f"{place}: {reason_of(error)}; {_FIXES[number]}, then run the same command again"


@contextlib.contextmanager
def disk_errors(where: str | Path = "") -> Iterator[None]:
    """A block in which an error of the file system becomes a `UserError`.

    `where` is named if the error names no file.
    """
    try:
        yield
    except OSError as error:
        line = described(error, str(where))
        if line is None:
            raise
        raise UserError(line) from error


def _is_short_write(error: OSError) -> bool:
    """numpy's `tofile` reports a full disk without a number: "16 requested and 0 written"."""
    return error.errno is None and "requested and" in str(error)


def _short(path: str, limit: int = 160) -> str:
    return path if len(path) <= limit else f"{path[: limit - 40]}...{path[-30:]}"
