"""Writes a token store: in parallel, resumable, and committed whole or not at all.

Every unit of a source (a file, a row group) becomes a part of its own, with checksums, written by
one process. When all parts exist they are checked and joined in the units' order, so the bytes do
not depend on the number of processes.

    <fingerprint>.lock                one process writes; others wait and use what it wrote
    <fingerprint>.partial/parts/      the finished parts, which a killed preparation finds again
    <fingerprint>.partial/store/      what they are joined into
    <fingerprint>/                    the complete store: it is renamed only with its manifest

A kill at any moment costs at most the units that were under way.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.core.checksums import CHECKSUMS, checksums_text, digest_files, file_names, find_damage
from jaxlm.core.config import UserError
from jaxlm.core.files import disk_errors, fsync_folder, write_atomic
from jaxlm.core.types import Tokenizer
from jaxlm.data.sources.base import Document, Source, Unit, empty_corpus
from jaxlm.data.store.prepared import Report
from jaxlm.data.store.split import full_name, hash64
from jaxlm.data.store.tokens import (
    ARRAYS,
    FORMAT_VERSION,
    TokenStore,
    manifest_digest,
    token_dtype,
)
from jaxlm.data.tokenizers.base import load_tokenizer

BATCH_CHARS = 2**20  # characters that are tokenised and written at a time


@dataclass(frozen=True)
class Options:
    """What else than texts and tokenizer decides the tokens."""

    add_bos: bool = True
    add_eos: bool = True
    labelled: bool = False  # a document without a label is an error


def prepare_store(
    sources: dict[str, Source],
    tokenizer: Tokenizer,
    options: Options,
    cache_dir: Path,
    *,
    workers: int = 0,
    report: Report = print,
) -> TokenStore:
    """The store of these sources under this tokenizer: opened where it exists, else written.

    sources: by name; names of documents get "name/" in front where there are several.
    workers: processes that tokenise; 0 tokenises in this one.
    """
    origins = {
        "format_version": FORMAT_VERSION,
        "sources": {name: source.fingerprint() for name, source in sources.items()},
        "tokenizer": tokenizer.fingerprint(),
        "options": vars(options),
    }
    key = hashlib.sha256(json.dumps(origins, sort_keys=True).encode()).hexdigest()[:32]
    root = Path(cache_dir) / "stores"
    final, partial = root / key, root / f"{key}.partial"
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        if not final.exists() or partial.exists():
            with _lock(root / f"{key}.lock", report):
                if not final.exists():
                    _write(sources, tokenizer, options, origins, partial, workers, report)
                    os.rename(partial / "store", final)
                    fsync_folder(root)
                    report(f"token store written: {final}")
                shutil.rmtree(partial, ignore_errors=True)
    store = TokenStore.open(final)
    _report_left_out(store, report)
    return store


def _report_left_out(store: TokenStore, report: Report) -> None:
    """Says how many documents or rows of each source were left out, and why."""
    for name, counts in store.manifest["left_out"].items():
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
    sources: dict[str, Source],
    tokenizer: Tokenizer,
    options: Options,
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
    report(f"tokenising {len(units)} files or units{resumed}")
    jobs = [(prefix[name], unit, options, _part(parts, i)) for i, (name, unit) in enumerate(units)]
    if workers and len(todo) > 1:
        copy = folder / "tokenizer"
        shutil.rmtree(copy, ignore_errors=True)
        tokenizer.save(copy)
        _run_in_processes([jobs[i] for i in todo], copy, min(workers, len(todo)), report)
    else:
        for i in todo:
            tokenise_unit(tokenizer, *jobs[i])
    for job in jobs:
        if damage := find_damage(job[-1]):
            report(f"{job[-1]}: damaged, {damage}; tokenised again")
            shutil.rmtree(job[-1])
            tokenise_unit(tokenizer, *job)
    shutil.rmtree(folder / "store", ignore_errors=True)
    (folder / "store").mkdir()
    _join(parts, [name for name, _ in units], sources, tokenizer, origins, folder / "store")


# ---------------------------------------------------------------------------------------- one unit


def tokenise_unit(
    tokenizer: Tokenizer, prefix: str, unit: Unit, options: Options, part: Path
) -> None:
    """Writes one unit's tokens and index, with checksums, as the folder `part`.

    The folder exists only when it is complete.
    """
    # a name of its own: a worker of a killed preparation may write the same part for a moment yet
    work = part.with_name(f"{part.name}.{os.getpid()}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    dtype = token_dtype(tokenizer.vocab_size)
    bos = [tokenizer.bos_id] if options.add_bos and tokenizer.bos_id is not None else []
    eos = [tokenizer.eos_id] if options.add_eos and tokenizer.eos_id is not None else []
    columns: dict[str, list[Any]] = {name: [] for name in ("lengths", *ARRAYS) if name != "offsets"}
    labels: dict[str, int] = {}
    counts: Counter[str] = Counter()
    with (
        open(work / "tokens.bin", "wb") as tokens,
        open(work / "names.jsonl", "w", encoding="utf-8") as names,
    ):
        for batch in _batches(unit.documents(counts)):
            encoded = tokenizer.encode_batch([document.text for document in batch])
            for document, ids in zip(batch, encoded, strict=True):
                length = len(bos) + len(ids) + len(eos)
                if length == 0:
                    counts["empty"] += 1
                    continue
                name = full_name(prefix, document)
                array = np.fromiter(chain(bos, ids, eos), dtype=np.int64, count=length)
                assert array.min() >= 0 and array.max() < tokenizer.vocab_size, (
                    f"{name}: id out of range"
                )
                tokens.write(array.astype(dtype).tobytes())
                names.write(json.dumps(name) + "\n")
                data = document.text.encode("utf-8")
                columns["lengths"].append(length)
                columns["name_hashes"].append(hash64(name.encode("utf-8", "surrogateescape")))
                columns["text_hashes"].append(hash64(data))
                columns["num_bytes"].append(len(data))
                columns["num_chars"].append(len(document.text))
                columns["labels"].append(_label(document, labels, options))
    for name, values in columns.items():
        np.save(work / f"{name}.npy", np.array(values, ARRAYS.get(name, np.int64)))
    notes = {"labels": list(labels), "left_out": dict(counts)}
    (work / "notes.json").write_text(json.dumps(notes), encoding="utf-8")
    write_atomic(work / CHECKSUMS, checksums_text(digest_files(work, file_names(work), flush=True)))
    try:
        os.rename(work, part)
    except OSError:
        if not part.exists():
            raise
        shutil.rmtree(work, ignore_errors=True)  # such a worker was first, with the same bytes
    fsync_folder(part.parent)


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Documents in runs of about BATCH_CHARS characters."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _label(document: Document, labels: dict[str, int], options: Options) -> int:
    if document.label is None:
        if options.labelled:
            raise UserError(
                f"{document.name}: has no label; name the source's label column, or drop the row"
            )
        return -1
    return labels.setdefault(document.label, len(labels))


# --------------------------------------------------------------------------------------- processes

_tokenizer: Tokenizer | None = None  # of a worker process


def _start_worker(folder: Path) -> None:
    global _tokenizer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _tokenizer = load_tokenizer(folder)


def _end_with_parent() -> None:
    """Ends this worker when the preparation is killed: another one may be started meanwhile."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _work(job: tuple) -> None:
    assert _tokenizer is not None
    tokenise_unit(_tokenizer, *job)


def _run_in_processes(jobs: list[tuple], tokenizer: Path, workers: int, report: Report) -> None:
    # "spawn": this process may have threads (an accelerator's runtime), which a fork would break.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(tokenizer,))
    pending: set[Future] = set()
    done, told = 0, time.monotonic()
    try:
        pending = {pool.submit(_work, job) for job in jobs}
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
            done += len(finished)
            if time.monotonic() - told > 10:
                told = time.monotonic()
                report(f"tokenised {done} of {len(jobs)} units")
    except BrokenProcessPool:
        raise UserError(
            "a tokenising process died (out of memory?); run again to go on, with fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


# -------------------------------------------------------------------------------------------- join


def _part(parts: Path, i: int) -> Path:
    return parts / f"{i:06d}"


def _join(
    parts: Path,
    owners: list[str],
    sources: dict[str, Source],
    tokenizer: Tokenizer,
    origins: dict[str, Any],
    folder: Path,
) -> None:
    """The parts' tokens, names and columns as one store in `folder`, with its manifest.

    owners: the name of each part's source.
    """
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("lengths", *ARRAYS)}
    left_out: dict[str, Counter[str]] = {name: Counter() for name in sources}
    documents = dict.fromkeys(sources, 0)
    labels: dict[str, int] = {}
    with open(folder / "tokens.bin", "wb") as tokens, open(folder / "names.jsonl", "wb") as names:
        for i, owner in enumerate(owners):
            part = _part(parts, i)
            _append(part / "tokens.bin", tokens)
            _append(part / "names.jsonl", names)
            notes = json.loads((part / "notes.json").read_text(encoding="utf-8"))
            left_out[owner].update(notes["left_out"])
            for name in columns.keys() - {"offsets", "labels"}:
                columns[name].append(np.load(part / f"{name}.npy"))
            documents[owner] += len(columns["lengths"][-1])
            codes = [labels.setdefault(label, len(labels)) for label in notes["labels"]]
            columns["labels"].append(np.array([*codes, -1], np.int32)[np.load(part / "labels.npy")])
    for name, source in sources.items():
        if documents[name] == 0:
            raise empty_corpus(source, left_out[name])
    arrays = {name: np.concatenate(values) for name, values in columns.items() if values}
    lengths = arrays.pop("lengths")
    arrays["offsets"] = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    for name, dtype in ARRAYS.items():
        np.save(folder / f"{name}.npy", arrays[name].astype(dtype))
    names_of_files = ["tokens.bin", "names.jsonl", *(f"{name}.npy" for name in ARRAYS)]
    files = digest_files(folder, names_of_files, flush=True)
    manifest = {
        **origins,
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "vocab_size": tokenizer.vocab_size,
        "documents": len(lengths),
        "tokens": int(lengths.sum()),
        "bytes": int(arrays["num_bytes"].sum()),
        "chars": int(arrays["num_chars"].sum()),
        "left_out": {name: dict(counts) for name, counts in left_out.items()},
        "labels": list(labels),
        "files": {
            name: {"bytes": size, "sha256": digest} for name, (size, digest) in files.items()
        },
    }
    manifest["self_sha256"] = manifest_digest(manifest)
    write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1))


def _append(path: Path, target: Any) -> None:
    with open(path, "rb") as file:
        shutil.copyfileobj(file, target, 2**20)
