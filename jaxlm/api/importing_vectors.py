"""A file of word vectors as a run: config, tokenizer of its words, checkpoint 0.

    import_vectors("glove.6B.50d.txt", "runs/glove_6b", report=print)

The tokenizer's ids are the words in the file's order, after those of padding and of unknown words,
whose vectors are zeros. The run has no data and is not trained.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlm.checkpoint.writer import Checkpointer
from jaxlm.core import config as configs
from jaxlm.core.checksums import digest_files
from jaxlm.core.errors import few, shown
from jaxlm.core.files import write_atomic, write_sealed
from jaxlm.data.tokenizers.words import WordTokenizer
from jaxlm.hf.folder import check_new, new_folder
from jaxlm.run import RunConfig, trajectory
from jaxlm.runs.environment import environment
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import IDENTITY, Identity, Record, kept_files
from jaxlm.training.loading import program_on_one_device
from jaxlm.training.session import use_compilation_cache
from jaxlm.vectors.files import read_vectors
from jaxlm.vectors.table import WordVectors


def import_vectors(
    file: str | Path,
    out: str | Path,
    *,
    form: str | None = None,
    words: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> str:
    """Makes the run `out`, whole or not at all; returns a line that says what it holds.

    form, words: as of `read_vectors`. Raises `UserError` for a file that cannot be read, and where
    the folder exists.
    """
    out = Path(out)
    check_new(out)
    table = _single_words(read_vectors(file, form, words=words, report=report), report)
    tokenizer = WordTokenizer(table.words, lowercase=not any(w != w.lower() for w in table.words))
    values: dict[str, Any] = {
        "run_dir": str(out),
        "tokenizer": {"type": "saved", "path": str(out.absolute() / "tokenizer")},
        "data": None,
        "model": {"type": "vectors", "hidden_size": table.size, "vocab_size": tokenizer.vocab_size},
        "objective": {"type": "none"},
        "optimizer": None,
        "train": {"steps": 0},
    }
    config = configs.parse(RunConfig, values)
    use_compilation_cache(config)
    path = Path(file)
    (size, digest) = digest_files(path.parent, [path.name])[path.name]
    record = {
        "format": "vectors",
        "source": str(path.absolute()),
        "family": "vectors",
        "architecture": "word vectors",
        "dtype": "float32",
        "tokenizer": tokenizer.fingerprint(),
        "files": {path.name: {"size": size, "sha256": digest}},
    }
    with new_folder(out) as partial:
        _write_run(RunDir(partial), config, tokenizer, table, record, report)
    return f"{out}: {len(table):,} words, {table.size} dimensions"


def _single_words(table: WordVectors, report: Callable[[str], None]) -> WordVectors:
    """The table without words that have spaces, for which a tokenizer of words has no spelling."""
    kept = [
        i for i, word in enumerate(table.words) if len(word.split()) == 1 and word.strip() == word
    ]
    if len(kept) == len(table):
        return table
    left_out = sorted({*range(len(table))} - {*kept})
    report(f"left out, words with spaces: {few(shown(table.words[i]) for i in left_out)}")
    return WordVectors([table.words[i] for i in kept], table.vectors[kept])


def _write_run(
    run: RunDir,
    config: RunConfig,
    tokenizer: WordTokenizer,
    table: WordVectors,
    record: dict[str, Any],
    report: Callable[[str], None],
) -> None:
    identity, text = (
        Identity.new(tokenizer=tokenizer.fingerprint(), data=None),
        configs.to_yaml(config),
    )
    files = {
        "config.yaml": text.encode(),
        "data.json": b"null",
        IDENTITY: identity.text(0, configs.sha256(trajectory(config))),
    }
    tokenizer.save(run.tokenizer)
    write_sealed(run.environment, environment())
    write_sealed(run.imported, record)
    Record(identity=identity, config=text, files=kept_files(run)).write(run)
    write_atomic(run.config, text)
    program = program_on_one_device(config)
    rows = np.zeros((tokenizer.vocab_size, table.size), np.float32)
    rows[-len(table) :] = table.vectors
    params = {"table": jax.device_put(rows, program.param_shardings["table"])}
    saver = Checkpointer(run.checkpoints, config.checkpoint, report=report)
    with jax.set_mesh(program.mesh):
        saved = saver.save(0, {"params": params}, files, force=True)
    saver.close()
    if not saved:
        raise OSError(saver.status())
