"""The JSONL files of a run: every line has a checksum, so that a changed or lost line is found.

    {"step": 10, "train/loss": 4.2, "seal": "0f3a9b2c41de"}

The seal is the last key: the first 12 hex digits of SHA-256 over the seal of the line before and
the line without its own seal. So a changed digit shows in its line; a line that is missing, or is
of another run, shows in the line after it. `records.json` keeps the last seal of each file, so lost
last lines show too. Lines without a seal, as older versions wrote them, may come before the first
that has one.

    seal = Seals(path)
    file.write(seal('{"step": 10, "train/loss": 4.2}'))     # one line, with its end
    read_lines(path)[-1].record                             # None where it is damaged
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.files import write_atomic

KEY = "seal"
_SEAL = re.compile(rb',? ?"seal": "([0-9a-f]{12})"\}\n?$')
_SEAL_SIZE = 32  # at most, in bytes


@dataclass(frozen=True)
class Line:
    """One line of a file: its bytes with the line end, its values, and its seal ("": none).

    record: None where the line is not JSON or not as it was written; the seal is left out.
    """

    data: bytes
    record: Any
    seal: str
    is_json: bool

    @property
    def body(self) -> bytes:
        return _body(self.data)[0]


class Seals:
    """Seals the lines that are added to a file, one after the other."""

    def __init__(self, path: str | Path) -> None:
        self.last = last_seal(path)

    def __call__(self, text: str) -> str:
        """A JSON object's text as a line with its seal."""
        self.last, line = _sealed(self.last, text.encode("utf-8", "surrogatepass"))
        return line.decode("utf-8", "surrogatepass")


def read_lines(path: str | Path) -> list[Line]:
    """All lines of a file; a torn last line too. [] where there is no file."""
    path = Path(path)
    if not path.exists():
        return []
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise UserError(f"{path}: {reason}; move it out of the way, or put back a copy") from None
    found: list[Line] = []
    before, unsealed, old = "", True, hashlib.sha256()
    for raw in re.split(rb"(?<=\n)", data):  # splitlines() breaks at more than line feeds
        if not raw:
            continue
        body, seal = _body(raw)
        if seal:
            whole, unsealed, following = digest(before, body) == seal, False, seal
        else:
            old.update(raw)
            whole, following = unsealed, old.hexdigest()[:12] if unsealed else before
        value, is_json = _decode(body)
        found.append(Line(raw, value if whole else None, seal, is_json))
        before = following
    return found


def last_seal(path: str | Path) -> str:
    """The seal that the next line of a file follows."""
    path = Path(path)
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**16))
        match = _SEAL.search(file.read())
    if match:
        return match[1].decode()
    lines = read_lines(path)
    seals = [line.seal for line in lines if line.seal]
    if seals or not lines:
        return seals[-1] if seals else ""
    return hashlib.sha256(b"".join(line.data for line in lines)).hexdigest()[:12]


def cut_lines(path: str | Path, goes: Callable[[dict[str, Any]], bool]) -> int:
    """Drops the lines whose record `goes`, and a torn last line; returns how many.

    A file that does not exist is left so. Raises `UserError` for a line in the middle that is not
    JSON: that is not a torn write, and nothing is dropped on a guess.
    """
    lines = read_lines(path)
    kept: list[bytes] = []
    before, dropped = "", 0
    for number, line in enumerate(lines, 1):
        value, is_json = _decode(line.body)
        if not is_json:
            if number == len(lines):
                dropped += 1
                continue
            raise UserError(f"{path}:{number}: is not JSON; fix or remove the line, then resume")
        if isinstance(value, dict) and goes(value):
            dropped += 1
            continue
        data, seal = line.data, line.seal
        if dropped and seal and line.record is not None:  # it follows another line now
            seal, data = _sealed(before, line.body)
        before = seal
        kept.append(data if data.endswith(b"\n") else data + b"\n")
    if b"".join(kept) != b"".join(line.data for line in lines):
        write_atomic(path, b"".join(kept))
    return dropped


def truncate_jsonl(path: str | Path, max_step: int) -> int:
    """Drops the lines whose "step" is above `max_step`, see `cut_lines`; others stay."""

    def goes(record: dict[str, Any]) -> bool:
        step = record.get("step")
        return isinstance(step, int | float) and step > max_step

    return cut_lines(path, goes)


def bad_lines(lines: Sequence[Line]) -> list[int]:
    """The numbers of the damaged lines, from 1; a kill leaves a last one that is cut short."""
    bad = [n for n, line in enumerate(lines, 1) if not isinstance(line.record, dict)]
    torn = bool(bad) and bad[-1] == len(lines) and not lines[-1].data.endswith(b"\n")
    return bad[:-1] if torn else bad


def damage(path: str | Path, last: str | None = None) -> str | None:
    """The error in a file's lines, in one line; None where nothing is wrong.

    last: the seal of a line that the file must have.
    """
    try:
        lines = read_lines(path)
    except UserError as error:
        return str(error)
    return damage_of(path, lines, last)


def damage_of(path: str | Path, lines: Sequence[Line], last: str | None = None) -> str | None:
    """`damage` of lines that are read already."""
    bad = bad_lines(lines)
    if bad:
        return (
            f"{path}: skipped {len(bad)} damaged lines, the first is line {bad[0]} (it is not as "
            "it was written, or a line before it is missing); put back a copy"
        )
    if last and all(line.seal != last for line in lines):
        return (
            f"{path}: lines are missing at its end, or it is of another run; put back a copy (the "
            "weights do not need it)"
        )
    return None


def _body(data: bytes) -> tuple[bytes, str]:
    """A line without its seal and end, and the seal."""
    match = _SEAL.search(data, max(0, len(data) - _SEAL_SIZE))
    if match is None:
        return data.removesuffix(b"\n"), ""
    return data[: match.start()] + b"}", match[1].decode()


def _sealed(before: str, body: bytes) -> tuple[str, bytes]:
    """(the seal of a JSON object's text, its line)."""
    seal = digest(before, body)
    comma = b"" if body == b"{}" else b", "
    return seal, body[:-1] + comma + b'"seal": "' + seal.encode() + b'"}\n'


def digest(before: str, body: bytes) -> str:
    return hashlib.sha256(before.encode() + b"\n" + body).hexdigest()[:12]


def _decode(body: bytes) -> tuple[Any, bool]:
    """(value, whether it is JSON)."""
    try:
        return json.loads(body), True
    except (ValueError, RecursionError):
        return None, False
