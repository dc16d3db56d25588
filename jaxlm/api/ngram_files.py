"""Files of n-gram models: built from the data of a config on disk, or converted.

    build_file(config, "model.ngrams", memory=400_000_000)
    convert_file("model.arpa", "model.ngrams")

A name that ends in .arpa or .arpa.gz is an ARPA file; any other is a binary file
(`jaxlm.ngrams.binary`). An ARPA file is written from a model that is mapped, but the texts of its
n-grams are in memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.errors import looked_from
from jaxlm.data.store.tokens import Documents
from jaxlm.ngrams.arpa import read_arpa, write_arpa
from jaxlm.ngrams.binary import read_binary, write_binary
from jaxlm.ngrams.names import names_of
from jaxlm.ngrams.on_disk import StoredText, build
from jaxlm.ngrams.on_disk.build import MEMORY
from jaxlm.run import RunConfig
from jaxlm.training.session import prepare_data, resolve

if TYPE_CHECKING:
    from jaxlm.objectives.ngram import Ngram


def build_file(
    config: RunConfig,
    out: str | Path,
    *,
    memory: int = MEMORY,
    bits: int = 32,
    process: int = 0,
    processes: int = 1,
    report: Callable[[str], None] = print,
) -> str:
    """Counts the training split of a config with `objective: {type: ngram}`, and writes its model;
    returns a line about it. The folder OUT.work has what a killed build continues from.
    """
    if getattr(config.objective, "smoothing", None) is None:
        raise UserError("objective: n-grams are counted by objective ngram; set objective.type")
    prepared = prepare_data(config, report)
    config = resolve(config, prepared)
    objective = cast("Ngram", config.objective)
    assert objective.bos is not None, "resolve"
    size = (config.model.vocab_size or 0) + 1  # with an id that no text has, as in a run
    documents = getattr(prepared.splits["train"], "documents", None)
    assert isinstance(documents, Documents), "resolve"
    out, order = Path(out), int(getattr(config.model, "order", 1))
    made = out if not _is_arpa(out) else out.with_name(f"{out.name}.ngrams")
    folder = out.with_name(f"{out.name}.work")
    build(
        _text(documents, objective.bos),
        made,
        folder=folder,
        order=order,
        vocab_size=size,
        bos=objective.bos,
        words=names_of(prepared.tokenizer, bos=objective.bos, size=size),
        smoothing=objective.smoothing,
        never=[] if objective.bos == size - 1 else [size - 1],
        memory=memory,
        bits=bits,
        process=process,
        processes=processes,
    )
    if process == 0 and made != out:
        convert_file(made, out)
        made.unlink()
    if processes == 1:
        shutil.rmtree(folder)
    return f"{out}: {order}-grams of {documents.num_tokens:,} tokens"


def convert_file(given: str | Path, out: str | Path, *, bits: int = 32) -> str:
    """Writes an n-gram model in the format of the other name; returns a line about it."""
    if not Path(given).is_file():
        raise UserError(f"{given}: there is no such file{looked_from(given)}; check the path")
    model, words = read_arpa(given) if _is_arpa(given) else read_binary(given, verify=True)
    if _is_arpa(out):
        write_arpa(model, words, out)
    else:
        write_binary(model, words, out, bits=bits)
    return f"{out}: {sum(map(len, model.levels)):,} n-grams of orders 1 to {model.order}"


def _is_arpa(path: str | Path) -> bool:
    return str(path).endswith((".arpa", ".arpa.gz"))


def _text(documents: Documents, bos: int) -> StoredText:
    tokens = documents.tokens
    digest = hashlib.sha256(json.dumps([str(tokens.path), len(tokens)]).encode())
    for array in (documents.starts, documents.lengths):
        digest.update(np.ascontiguousarray(array).data)
    return StoredText(
        tokens.path,
        tokens.dtype,
        documents.starts,
        documents.lengths,
        bos=bos,
        fingerprint=digest.hexdigest(),
        skip=tokens._skip,
    )
