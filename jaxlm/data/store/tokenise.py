"""Writes a token store (`jaxlm.data.store.tokens`): texts as token ids, by `preparation`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.core.types import Tokenizer
from jaxlm.data.sources.base import Document, Source, Unit
from jaxlm.data.store.preparation import Counted, append, prepare, report_left_out
from jaxlm.data.store.prepared import Report
from jaxlm.data.store.split import full_name, hash64
from jaxlm.data.store.tokens import ARRAYS, FORMAT_VERSION, TokenStore, token_dtype

BATCH_CHARS = 2**20  # characters that are tokenised and written at a time


@dataclass(frozen=True)
class Options:
    """The inputs besides texts and tokenizer that decide the tokens."""

    add_bos: bool = True
    add_eos: bool = True


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

    Arguments as of `preparation.prepare`.
    """
    folder = prepare(
        TokenWriter(options), sources, tokenizer, cache_dir, workers=workers, report=report
    )
    store = TokenStore.open(folder)
    report_left_out(store.manifest, report)
    return store


@dataclass(frozen=True)
class TokenWriter:
    """Documents as token ids."""

    options: Options
    kind = "token store"

    @property
    def origins(self) -> dict[str, Any]:
        # "labelled": stores that earlier versions wrote are found by it
        return {
            "format_version": FORMAT_VERSION,
            "options": {**vars(self.options), "labelled": False},
        }

    def write_part(self, tokenizer: Tokenizer, prefix: str, unit: Unit, folder: Path) -> Counted:
        dtype, options = token_dtype(tokenizer.vocab_size), self.options
        bos = [tokenizer.bos_id] if options.add_bos and tokenizer.bos_id is not None else []
        eos = [tokenizer.eos_id] if options.add_eos and tokenizer.eos_id is not None else []
        columns: dict[str, list[Any]] = {n: [] for n in ("lengths", *ARRAYS) if n != "offsets"}
        labels: dict[str, int] = {}
        counts: Counter[str] = Counter()
        with ExitStack() as stack:
            tokens = stack.enter_context(open(folder / "tokens.bin", "wb"))
            names = stack.enter_context(open(folder / "names.jsonl", "w", encoding="utf-8"))
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
                    columns["labels"].append(_code(document.label, labels))
        for name, values in columns.items():
            np.save(folder / f"{name}.npy", np.array(values, ARRAYS.get(name, np.int64)))
        return len(columns["lengths"]), counts, list(labels)

    def join(
        self, parts: list[Path], notes: list[Any], tokenizer: Tokenizer, folder: Path
    ) -> dict[str, Any]:
        columns: dict[str, list[np.ndarray]] = {name: [] for name in ("lengths", *ARRAYS)}
        labels: dict[str, int] = {}
        with (
            open(folder / "tokens.bin", "wb") as tokens,
            open(folder / "names.jsonl", "wb") as names,
        ):
            for part, found in zip(parts, notes, strict=True):
                append(part / "tokens.bin", tokens)
                append(part / "names.jsonl", names)
                for name in columns.keys() - {"offsets", "labels"}:
                    columns[name].append(np.load(part / f"{name}.npy"))
                codes = [_code(label, labels) for label in found]
                of_part = np.load(part / "labels.npy")
                columns["labels"].append(np.array([*codes, -1], np.int32)[of_part])
        arrays = {name: np.concatenate(values) for name, values in columns.items() if values}
        lengths = arrays.pop("lengths")
        arrays["offsets"] = np.concatenate(
            [np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]
        )
        for name, dtype in ARRAYS.items():
            np.save(folder / f"{name}.npy", arrays[name].astype(dtype))
        return {
            "dtype": token_dtype(tokenizer.vocab_size).name,
            "vocab_size": tokenizer.vocab_size,
            "documents": len(lengths),
            "tokens": int(lengths.sum()),
            "bytes": int(arrays["num_bytes"].sum()),
            "chars": int(arrays["num_chars"].sum()),
            "labels": list(labels),
        }


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


def _code(label: str | None, labels: dict[str, int]) -> int:
    return -1 if label is None else labels.setdefault(label, len(labels))
