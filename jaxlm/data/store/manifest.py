"""The manifest of a store: what it came from, its counts, and the SHA-256 of each of its files.

seal(folder, facts)                        # after all files are written: manifest.json
manifest = read_manifest(folder, FORMAT_VERSION, ["tokens.bin"])
check_files(folder, manifest)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.core.checksums import digest_files
from jaxlm.core.config import UserError
from jaxlm.core.files import file_sha256, write_atomic

HASHED_AT_OPEN = 256 * 2**20  # bytes; a larger file is hashed once, and again when it has changed


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Flushes the folder's files and writes its manifest: facts, and their sizes and hashes."""
    files = digest_files(folder, sorted(p.name for p in folder.iterdir()), flush=True)
    manifest = {
        **facts,
        "files": {n: {"bytes": size, "sha256": digest} for n, (size, digest) in files.items()},
    }
    manifest["self_sha256"] = manifest_digest(manifest)
    write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1))


def read_manifest(folder: Path, version: int, files: Iterable[str]) -> dict[str, Any]:
    """A store's manifest. Raises `UserError` where it is missing, damaged, of another version, or
    does not name all of `files`.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise UserError(f"{folder}: no store here (manifest.json is missing); check the path")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found, complete = manifest["format_version"], {*files} <= manifest["files"].keys()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged(path, "is not a readable manifest") from None
    if found != version:
        raise UserError(
            f"{path}: store format {found}, this program reads {version}; "
            f"delete {folder} and prepare the data again"
        )
    digest = manifest.pop("self_sha256", None)
    if digest != manifest_digest(manifest) or not complete:
        raise damaged(path, "does not match its own SHA-256")
    return manifest


def check_files(folder: Path, manifest: dict[str, Any], full: bool = False) -> None:
    """Raises `UserError` where a file has not the size and the SHA-256 of the manifest.

    A file over 256 MB whose size and time are those of the last check is not read again, unless
    `full` asks for it.
    """
    for name, facts in manifest["files"].items():
        _check_file(folder / name, facts, full)


def manifest_digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest (without "self_sha256") in canonical JSON."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _check_file(path: Path, facts: dict[str, Any], full: bool) -> None:
    if not path.is_file():
        raise damaged(path, "is missing")
    found = path.stat()
    if found.st_size != facts["bytes"]:
        raise damaged(path, f"has {found.st_size} bytes instead of {facts['bytes']}")
    large = found.st_size > HASHED_AT_OPEN
    stamp, state = path.with_name(f".{path.name}.checked"), f"{found.st_size} {found.st_mtime_ns}"
    if large and not full and stamp.is_file() and stamp.read_text() == state:
        return
    if file_sha256(path) != facts["sha256"]:
        raise damaged(path, "does not match its SHA-256")
    if large:
        with contextlib.suppress(OSError):  # a store that cannot be written is hashed every time
            stamp.write_text(state)


def load_array(path: Path, dtype: type) -> np.ndarray:
    """An array of a store, [n], memory-mapped. Raises `UserError` where it is another."""
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, SyntaxError, OverflowError):  # what numpy's headers may raise
        raise damaged(path, "is not a readable array") from None
    if array.dtype != dtype or array.ndim != 1:
        raise damaged(path, f"holds {array.ndim} axes of {array.dtype}, not 1 of {dtype.__name__}")
    return array


def damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}; delete {path.parent} and prepare the data again")
