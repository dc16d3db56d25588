"""The SHA-256 of a file, remembered while the file is the same: a start reads no corpus twice.

    file_checksum(Path("corpus.txt"))     # reads the file once, later starts read its `stat` alone
    file_checksums(paths)                 # on all cores

Where several processes of one machine ask for a file, one reads it and the others take what it
found.

A file is the same if its place, inode, size, mtime and ctime are. The ctime changes with every
write, also where a tool sets the mtime back. A file that changed a moment ago is not remembered: a
second write within the clock's resolution would leave all of these equal.

The checksums are lines of `checksums.jsonl` in the cache. A line that is cut short is a file that
is read again; a cache that cannot be written costs time, nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import IO

from jaxlm.core.cores import available_cores
from jaxlm.core.files import file_sha256
from jaxlm.data.reading.fetch import default_cache_dir

log = logging.getLogger("jaxlm")

SETTLED_SECONDS = 2.0
SHARED_BYTES = 16 * 2**20  # a file of so many is read by one process at a time
LARGE_BYTES = 2**30  # reading so many takes long enough for a line


def file_checksums(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of each file, as hex; files that have to be read are read on all cores."""
    if len(paths) < 2:
        return [file_checksum(path) for path in paths]
    with ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(file_checksum, paths))


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    memory = default_cache_dir() / "checksums.jsonl"
    about = _about(path)
    found = _known(memory).get(about)
    if found is not None:
        return found
    with _reading(memory, path) as alone:
        # another process may have read it, while this one waited
        found = _read(memory).get(about) if alone else None
        if found is None:
            return _sum(path, about, memory)
    _known(memory)[about] = found
    return found


def _sum(path: Path, about: str, memory: Path) -> str:
    """Reads the file, and remembers its checksum where it has settled."""
    size = path.stat().st_size
    if size > LARGE_BYTES:
        log.info("reading all of %s (%.1f GB) once for its checksum", path, size / 1e9)
    found = file_sha256(path)
    if about == _about(path) and _seconds_since_change(path) > SETTLED_SECONDS:
        _known(memory)[about] = found
        line = json.dumps([about, found]) + "\n"
        with contextlib.suppress(OSError), open(memory, "a", encoding="utf-8") as file:
            file.write(line)
    return found


@contextlib.contextmanager
def _reading(memory: Path, path: Path) -> Iterator[bool]:
    """A block in which no other process of this machine reads the same file, if it is a large one;
    whether it is.

    The lock is one byte of a file, at a place that the path decides. Such locks are a process's
    own: its threads read different files at the same time.
    """
    if path.stat().st_size < SHARED_BYTES or (file := _locks(memory)) is None:
        yield False
        return
    place = int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=7).digest(), "little")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, place)
    except OSError:  # a file system without locks: each process reads the file
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, place)


@cache
def _locks(memory: Path) -> IO[bytes] | None:
    """The file of the locks, which stays open: to close it once would drop all of them."""
    with contextlib.suppress(OSError):
        return open(memory.with_suffix(".lock"), "ab")
    return None


def _about(path: Path) -> str:
    state = path.stat()
    numbers = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return ":".join([os.path.realpath(path), *map(str, numbers)])


def _seconds_since_change(path: Path) -> float:
    state = path.stat()
    return time.time() - max(state.st_mtime, state.st_ctime)


@cache
def _known(memory: Path) -> dict[str, str]:
    """The checksums that earlier processes remembered; this process adds to them."""
    return _read(memory)


def _read(memory: Path) -> dict[str, str]:
    found = {}
    with contextlib.suppress(OSError):
        for line in memory.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError):
                about, checksum = json.loads(line)
                found[str(about)] = str(checksum)
    return found
