"""Writes a store: in parallel, resumable, and committed whole or not at all.

Every unit of a source (a file, a row group) becomes a part of its own, with checksums, written by
one process. When all parts exist they are checked and joined in the units' order, so the bytes do
not depend on the number of processes.

    <fingerprint>.lock                one process writes; others wait and use what it wrote
    <fingerprint>.partial/parts/      the finished parts, which a killed preparation finds again
    <fingerprint>.partial/store/      what they are joined into
    <fingerprint>/                    the complete store: it is renamed only with its manifest

A kill at any moment costs at most the units that were being written. What a part holds, and how
parts are joined, is a `Writer`'s: `jaxlm.data.store.tokenise` and `jaxlm.data.store.records`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxlm.core.checksums import CHECKSUMS, checksums_text, digest_files, file_names, find_damage
from jaxlm.core.files import disk_errors, fsync_folder, write_atomic
from jaxlm.core.types import Tokenizer
from jaxlm.data.sources.base import Source, Unit, empty_corpus
from jaxlm.data.store.manifest import seal
from jaxlm.data.store.prepared import Report
from jaxlm.data.store.processes import Progress, run_in_processes
from jaxlm.data.tokenizers.base import load_tokenizer

# A process takes about a second to start, in which others tokenise 4 MB; and the libraries that
# tokenise use all cores from one process. A tokenizer of which that is not so has a `small_corpus`.
SMALL_BYTES = 32 * 2**20


class Writer(Protocol):
    """The writer of a kind of store. A worker process gets a pickled copy."""

    @property
    def kind(self) -> str:
        """The name of the store in reports: "token store"."""
        ...

    @property
    def origins(self) -> dict[str, Any]:
        """The inputs besides sources and tokenizer that decide the store, as JSON values."""
        ...

    def write_part(self, tokenizer: Tokenizer, prefix: str, unit: Unit, folder: Path) -> Counted:
        """Writes one unit's files into an empty folder; gives what was left out, and notes."""
        ...

    def join(self, parts: list[Path], notes: list[Any], tokenizer: Tokenizer, folder: Path) -> Any:
        """Writes the parts' files, in order, as those of the store; gives facts of its manifest."""
        ...


# (records or documents that were written, {reason: how many were left out}, notes for `join`)
Counted = tuple[int, Mapping[str, int], Any]


def prepare(
    writer: Writer,
    sources: dict[str, Source],
    tokenizer: Tokenizer,
    cache_dir: Path,
    *,
    workers: int = 0,
    report: Report = print,
) -> Path:
    """The folder of the store of these sources: found where it exists, else written.

    sources: by name; names of documents get "name/" in front where there are several.
    workers: processes that write parts; 0 writes them in this one.
    """
    origins = {
        **writer.origins,
        "sources": {name: source.fingerprint() for name, source in sources.items()},
        "tokenizer": tokenizer.fingerprint(),
    }
    key = hashlib.sha256(json.dumps(origins, sort_keys=True).encode()).hexdigest()[:32]
    root = Path(cache_dir) / "stores"
    final, partial = root / key, root / f"{key}.partial"
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        if not final.exists() or partial.exists():
            with _lock(root / f"{key}.lock", report):
                if not final.exists():
                    _write(writer, sources, tokenizer, origins, partial, workers, report)
                    os.rename(partial / "store", final)
                    fsync_folder(root)
                    report(f"{writer.kind} written: {final}")
                shutil.rmtree(partial, ignore_errors=True)
    return final


def report_left_out(manifest: Mapping[str, Any], report: Report) -> None:
    """Says how many documents or rows of each source were left out, and why."""
    for name, counts in manifest["left_out"].items():
        total = sum(counts.values())
        if total:
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(counts.items()) if n)
            where = "" if name == "source" else f"{name}: "
            report(f"{where}{total:,} documents or rows left out: {reasons}")


@contextlib.contextmanager
def _lock(path: Path, report: Report) -> Iterator[None]:
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"another process is preparing the same data; waiting for it ({path})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(
    writer: Writer,
    sources: dict[str, Source],
    tokenizer: Tokenizer,
    origins: dict[str, Any],
    folder: Path,
    workers: int,
    report: Report,
) -> None:
    units = [(name, unit) for name, source in sources.items() for unit in source.units()]
    prefix = {name: name if len(sources) > 1 else "" for name in sources}
    parts = folder / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    todo = [i for i in range(len(units)) if not _part(parts, i).exists()]
    resumed = f", {len(units) - len(todo)} of them done before" if len(todo) < len(units) else ""
    what = "file or unit" if len(units) == 1 else "files or units"
    report(f"tokenising {len(units):,} {what}{resumed}")
    jobs = [(writer, prefix[name], unit, _part(parts, i)) for i, (name, unit) in enumerate(units)]
    progress = Progress("tokenising", len(todo), report)
    small = SMALL_BYTES if (own := getattr(tokenizer, "small_corpus", None)) is None else own
    if workers and len(todo) > 1 and not _small([units[i][1] for i in todo], small):
        copy = folder / "tokenizer"
        shutil.rmtree(copy, ignore_errors=True)
        tokenizer.save(copy)
        chosen = [jobs[i] for i in todo]
        run_in_processes(_work, chosen, workers, progress, start=_read_tokenizer, arguments=(copy,))
    else:
        for i in todo:
            write_unit(tokenizer, *jobs[i])
            progress.add()
    for job in jobs:
        if damage := find_damage(job[-1]) or _other_layout(job[-1]):
            report(f"{job[-1]}: damaged, {damage}; tokenised again")
            shutil.rmtree(job[-1])
            write_unit(tokenizer, *job)
    shutil.rmtree(folder / "store", ignore_errors=True)
    (folder / "store").mkdir()
    _join(
        writer,
        sources,
        tokenizer,
        origins,
        [(n, _part(parts, i)) for i, (n, _) in enumerate(units)],
        folder / "store",
    )


def _small(units: Sequence[Unit], small: int) -> bool:
    """Whether files are tokenised here sooner than processes are started for them."""
    sizes = [u.origin.stat().st_size if isinstance(u.origin, Path) else small for u in units]
    return sum(sizes) < small


def _part(parts: Path, i: int) -> Path:
    return parts / f"{i:06d}"


def _other_layout(part: Path) -> str:
    """The problem with a part that an earlier version wrote."""
    facts = json.loads((part / "notes.json").read_text(encoding="utf-8"))
    return "" if "written" in facts else "it is of an earlier version"


def write_unit(tokenizer: Tokenizer, writer: Writer, prefix: str, unit: Unit, part: Path) -> None:
    """Writes one unit's files, with checksums, as the folder `part`.

    The folder exists only when it is complete.
    """
    # a name of its own: a worker of a killed preparation may still write the same part
    work = part.with_name(f"{part.name}.{os.getpid()}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    written, left_out, notes = writer.write_part(tokenizer, prefix, unit, work)
    facts = {"written": written, "left_out": dict(left_out), "notes": notes}
    (work / "notes.json").write_text(json.dumps(facts), encoding="utf-8")
    write_atomic(work / CHECKSUMS, checksums_text(digest_files(work, file_names(work), flush=True)))
    try:
        os.rename(work, part)
    except OSError:
        if not part.exists():
            raise
        shutil.rmtree(work, ignore_errors=True)  # such a worker was first, with the same bytes
    fsync_folder(part.parent)


def _join(
    writer: Writer,
    sources: dict[str, Source],
    tokenizer: Tokenizer,
    origins: dict[str, Any],
    parts: list[tuple[str, Path]],
    folder: Path,
) -> None:
    """The parts (with the names of their sources) as one store in `folder`, with its manifest."""
    left_out: dict[str, Counter[str]] = {name: Counter() for name in sources}
    written = dict.fromkeys(sources, 0)
    notes = []
    for name, part in parts:
        facts = json.loads((part / "notes.json").read_text(encoding="utf-8"))
        left_out[name].update(facts["left_out"])
        written[name] += facts["written"]
        notes.append(facts["notes"])
    for name, source in sources.items():
        if written[name] == 0:
            raise empty_corpus(source, left_out[name])
    facts = writer.join([part for _, part in parts], notes, tokenizer, folder)
    seal(folder, {**origins, **facts, "left_out": {n: dict(c) for n, c in left_out.items()}})


def append(path: Path, target: Any) -> None:
    """Copies a part's file to the end of an open one."""
    with open(path, "rb") as file:
        shutil.copyfileobj(file, target, 2**20)


# --------------------------------------------------------------------------------------- processes

_tokenizer: Tokenizer | None = None  # of a worker process


def _read_tokenizer(folder: Path) -> None:
    global _tokenizer
    _tokenizer = load_tokenizer(folder)


def _work(job: tuple) -> None:
    assert _tokenizer is not None
    write_unit(_tokenizer, *job)
