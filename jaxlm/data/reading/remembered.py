"""The SHA-256 of a file, remembered while the file is the same: a start reads no corpus twice.

    file_checksum(Path("corpus.txt"))     # reads the file once, later starts read its `stat` alone

A file is the same if its place, inode, size, mtime and ctime are. The ctime changes with every
write, also where a tool sets the mtime back. A file that changed a moment ago is not remembered: a
second write within the clock's resolution would leave all of these equal.

The checksums are lines of `checksums.jsonl` in the cache. A line that is cut short is a file that
is read again; a cache that cannot be written costs time, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from functools import cache
from pathlib import Path

from jaxlm.core.files import file_sha256
from jaxlm.data.reading.fetch import default_cache_dir

log = logging.getLogger("jaxlm")

SETTLED_SECONDS = 2.0
LARGE_BYTES = 2**30  # reading so many takes long enough for a line


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    memory = default_cache_dir() / "checksums.jsonl"
    known = _known(memory)
    about = _about(path)
    if about in known:
        return known[about]
    size = path.stat().st_size
    if size > LARGE_BYTES:
        log.info("reading all of %s (%.1f GB) once for its checksum", path, size / 1e9)
    found = file_sha256(path)
    if about == _about(path) and _seconds_since_change(path) > SETTLED_SECONDS:
        known[about] = found
        line = json.dumps([about, found]) + "\n"
        with contextlib.suppress(OSError), open(memory, "a", encoding="utf-8") as file:
            file.write(line)
    return found


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
    found = {}
    with contextlib.suppress(OSError):
        for line in memory.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError):
                about, checksum = json.loads(line)
                found[str(about)] = str(checksum)
    return found
