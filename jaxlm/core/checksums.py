"""Checksums of a folder's files. They are written last, so a folder without them is incomplete.

Checkpoints and the parts of a token store have them.

Orbax does not checksum the bytes of arrays, so a flipped bit would load silently.
`checksums.json` holds the size and SHA-256 of every file of the folder, and a SHA-256 of itself;
its bytes are canonical, so a change of any bit of any file, this one included, is found.

    parts = digest_files(folder, file_names(folder))
    commit_text = checksums_text(parts)
    find_damage(folder)  # None, or "state/d/0a1b: bytes have changed (SHA-256 differs)"
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHECKSUMS = "checksums.json"
_THREADS = 4  # hashing leaves the interpreter's lock; a disk queue deeper than this gains little


def file_names(folder: Path) -> list[str]:
    """The "/"-joined names of all files below a folder, sorted, without `checksums.json`."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in names if name != CHECKSUMS)


def digest_files(
    folder: Path, names: Iterable[str], *, flush: bool = False, threads: int = 1
) -> dict[str, list]:
    """{name: [size in bytes, SHA-256]}; `flush` also forces each file to the disk first."""

    def one(name: str) -> list:
        with open(folder / name, "rb") as file:
            if flush:
                os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return [file.tell(), digest]

    names = list(names)
    if threads == 1:
        return {name: one(name) for name in names}
    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def checksums_text(files: Mapping[str, list]) -> str:
    """The canonical text of `checksums.json`."""
    body = {"files": dict(sorted(files.items()))}
    own = hashlib.sha256(_canonical(body).encode()).hexdigest()
    return _canonical({**body, "sha256": own})


def find_damage(folder: Path, part: int = 0, parts: int = 1) -> str | None:
    """The damage to a checkpoint, "file: reason"; None if every file is as it was written.

    All sizes are checked, and the contents of every `parts`-th file from number `part` on, so that
    several processes share the reading. Raises PermissionError: the bytes may still be good.
    """
    try:
        files = read_checksums(folder)
    except FileNotFoundError:
        return f"{CHECKSUMS}: missing, the save was never committed"
    except ValueError as error:
        return f"{CHECKSUMS}: {error}"
    except PermissionError:
        raise
    except OSError as error:  # a file where a folder belongs, or a folder where a file does
        return f"{CHECKSUMS}: cannot be read ({(error.strerror or str(error)).lower()})"
    for name, (size, _) in files.items():
        try:
            found = (folder / name).stat().st_size
        except FileNotFoundError:
            return f"{name}: missing"
        except OSError as error:
            return f"{name}: cannot be read ({(error.strerror or str(error)).lower()})"
        if found != size:
            return f"{name}: {found} bytes where {size} were written"
    chosen = list(files)[part::parts]
    try:
        actual = digest_files(folder, chosen, threads=_THREADS)
    except PermissionError:
        raise
    except OSError as error:
        return f"{error.filename or folder}: cannot be read ({error.strerror})"
    for name in chosen:
        if actual[name] != files[name]:
            return f"{name}: bytes have changed (SHA-256 differs)"
    return None


def read_checksums(folder: Path) -> dict[str, list]:
    """{name: [size, SHA-256]}; raises ValueError where the file is not what was written."""
    raw = (folder / CHECKSUMS).read_bytes()
    try:
        body = json.loads(raw)
        text = checksums_text(body["files"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("is not readable") from None
    if text.encode() != raw:
        raise ValueError("bytes have changed (its own SHA-256 differs)")
    return body["files"]


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, indent=0, separators=(",", ":")) + "\n"
