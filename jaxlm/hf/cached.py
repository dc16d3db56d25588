"""The run that a folder in Hugging Face's format is imported to, once, in the cache.

    imported(Path("downloads/gpt2"), report=print)    # .../jaxlm/imports/gpt2-0f3a5c...

The name ends in a hash of the files that an import reads, so changed files give another run. The
import is that of `jaxlm import hf` without overrides.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path

from jaxlm import __version__
from jaxlm.core.files import digest_of
from jaxlm.data.reading.fetch import default_cache_dir, locked
from jaxlm.data.reading.remembered import file_checksum
from jaxlm.distributed.consensus import decide, processes
from jaxlm.hf.importing import CONFIGS, import_model
from jaxlm.hf.stored import INDEX, Stored
from jaxlm.hf.vocabularies import FILES, keep

_calls = itertools.count(1)  # the key of a decision is new in the run


def imported(folder: Path, report: Callable[[str], None]) -> Path:
    """The run of this folder's files; imports it if the cache does not have it.

    All processes of a program make the same call. Raises `UserError` as `import_model` does, and
    where the cache cannot be written.
    """
    names = {*Stored.open(folder).files, *keep(folder, (*CONFIGS, INDEX, *FILES))}
    hashes = {name: file_checksum(folder / name) for name in sorted(names)}
    digest = digest_of({"version": __version__, "files": hashes})[:16]
    out = default_cache_dir() / "imports" / f"{folder.absolute().name}-{digest}"
    with locked(out) if processes()[0] == 0 else contextlib.nullcontext():
        key = f"hf/{out}/found {next(_calls)}"
        found = decide(key, "", lambda _: "yes" if out.exists() else "")
        if not found:
            report(f"importing {folder} to {out}")
            report(import_model(folder, out, report=report))
    return out
