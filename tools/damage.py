"""Random damage of one file or folder of a run folder, as a bad disk, a wrong copy or a hand does.

    fault = choose(state, other, random.Random("0 17"))
    fault.apply(case)                # "checkpoints/00000008/state.json: bit 5 of byte 71 flipped"

`state` and `other` are the folders of two sound runs. Every kind of file has its turn, whatever the
number of files of that kind.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Bytes = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, rng: random.Random) -> bytes:
    spoilt = bytearray(data)
    spoilt[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def digit(data: bytes, rng: random.Random) -> bytes:
    """Another digit in place of one: a text stays readable."""
    places = [i for i, byte in enumerate(data) if 48 <= byte < 58]
    if not places:
        return flip(data, rng)
    at = rng.choice(places)
    new = rng.choice([d for d in b"0123456789" if d != data[at]])
    return data[:at] + bytes([new]) + data[at + 1 :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def lose_lines(data: bytes, rng: random.Random) -> bytes:
    """Without one line, or without the last ones."""
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    return b"".join(lines[:at] + lines[at + 1 :] * rng.randrange(2))


def zero(data: bytes, rng: random.Random) -> bytes:
    """A range of zeros, as a lost block of a disk."""
    first = rng.randrange(len(data))
    length = min(rng.choice((1, 16, 512, 4096)), len(data) - first)
    return data[:first] + bytes(length) + data[first + length :]


def append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice((b"\0" * 64, b"{}\n", b"\n", data[-80:], rng.randbytes(64)))


def empty(data: bytes, rng: random.Random) -> bytes:
    return b""


CONTENTS: tuple[Bytes, ...] = (flip, flip, digit, truncate, lose_lines, zero, append, empty)
PLACES = ("delete", "folder", "other run", "older copy", "swap")


@dataclass(frozen=True)
class Fault:
    """One fault: the file's name below the state's folder, its kind, and what happens to it."""

    name: str
    kind: str
    what: str
    apply: Callable[[Path], None]
    names: tuple[str, ...]  # a message that says one of these names the fault


def kind_of(name: str) -> str:
    """The name without what differs from run to run: numbers of steps, hashes, clocks."""
    name = re.sub(r"\b\d{8}\b", "STEP", name)
    name = re.sub(r"[0-9a-f]{32}", "HASH", name)
    return re.sub(r"(tfevents).*", r"\1", name)


def choose(
    states: dict[str, Path], state: str, turn: int, rng: random.Random, below: str = ""
) -> Fault:
    """A fault of `states[state]`: `turn` says the kind of file, `rng` the rest.

    below: the beginning of the names of files that are damaged, such as "cache/stores/".
    """
    root = states[state]
    found = [p.relative_to(root).as_posix() for p in sorted(root.rglob("*")) if own(p, root)]
    found = [name for name in found if name.startswith(below)]
    kinds = sorted({kind_of(name) for name in found})
    kind = kinds[turn % len(kinds)]
    equal = [name for name in found if kind_of(name) == kind]
    name = rng.choice([*equal, equal[-1], equal[-1]])  # the newest is read
    whole = (root / name).is_dir()
    data = b"" if whole else (root / name).read_bytes()
    left_out = {"swap"} if len(equal) == 1 else set()
    left_out |= {"older copy"} if state != "finished" else set()
    places = [way for way in PLACES if way not in left_out]
    ways: list[str | Bytes] = [*places, *(CONTENTS if data else (append,) * (not whole))]
    way = rng.choice(ways)
    names = set(names_of(name))
    if not isinstance(way, str):
        spoilt = way(data, rng)

        def write(case: Path) -> None:
            (case / name).write_bytes(spoilt)

        return Fault(name, kind, way.__name__, write, tuple(names))
    source = None
    if way == "other run":
        source = match(states["other"], name, kind)
    elif way == "older copy":
        source = match(states["stopped"], name, kind)
    swapped = name
    if way == "swap":
        swapped = rng.choice([n for n in equal if n != name])
        names |= set(names_of(swapped))

    def move(case: Path) -> None:
        target = case / name
        if way == "swap":
            target.rename(case / "aside")
            (case / swapped).rename(target)
            (case / "aside").rename(case / swapped)
            return
        shutil.rmtree(target) if whole else target.unlink()
        if way == "folder":
            target.write_text("") if whole else target.mkdir()
        elif source is not None:
            copy = shutil.copytree if whole else shutil.copy2
            copy(source, target)

    return Fault(name, kind + "/" * whole, way, move, tuple(names))


def own(path: Path, root: Path) -> bool:
    """Whether a path is damaged: every file is, and the folders that have a name of their own."""
    parts = path.relative_to(root).parts
    return path.is_file() or (parts[0] == "run" and 1 < len(parts) <= 3 and "hf" not in parts)


def match(root: Path, name: str, kind: str) -> Path | None:
    """The same file of another run: of the same name, else of the same kind."""
    if (root / name).exists():
        return root / name
    found = [p for p in sorted(root.rglob("*")) if kind_of(p.relative_to(root).as_posix()) == kind]
    return found[-1] if found else None


def names_of(name: str) -> list[str]:
    """The names of a file in a message: its own name, its checkpoint, or its token store."""
    names = [name.rpartition("/")[2], *re.findall(r"stores/([0-9a-f]{32})/", name)]
    names += ["checkpoint "] if name == "run/checkpoints" else []
    for number in re.findall(r"\b\d{8}\b", name):
        names += [number, f"checkpoint {int(number)}"]
    return names
