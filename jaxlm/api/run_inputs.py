"""What a run's results depend on, as one text: its config, its data, the weights at its start.

    key = inputs(config, content(prepare_data(config, print)))

Two runs with equal texts have equal results; verbs that train several runs skip those whose results
are stored with it.
"""

from __future__ import annotations

import hashlib
import json

from jaxlm.core.config_paths import moved
from jaxlm.core.files import read_json
from jaxlm.data.store.prepared import Prepared
from jaxlm.run import RunConfig, config_sha256
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import import_sha256


def inputs(config: RunConfig, data: str) -> str:
    """What a run's results depend on: its config, the data, and the weights at its start.

    data: a hash of it. An imported start counts by its files: another version of jaxlm imports them
    to another folder.
    """
    start = config.init.from_
    files = None if start is None else import_sha256(RunDir(start))
    named = config if start is None or files is None else moved(config, start, files)
    return f"{config_sha256(named)} {data} {_weights(config)}".strip()


def content(prepared: Prepared) -> str:
    """SHA-256 of the tokenizer and of what each split consists of."""
    manifest = prepared.manifest
    splits = {name: each["sha256"] for name, each in manifest["content"].items()}
    text = json.dumps([manifest["tokenizer"], splits], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _weights(config: RunConfig) -> str:
    """SHA-256 of the weights that a run starts from; "": from scratch, or it is not known."""
    start = config.init.from_
    if start is None or not RunDir(start).result.is_file():
        return ""
    final = read_json(RunDir(start).result, "restore it").get("final", {})
    return str(final.get("param_sha256", ""))
