"""CPU-seconds of the verbs that answer without jax, beside an import of jax.

    python tools/bench/starts.py RUN_DIR --config configs/smoke/transformer.yaml

The first call of each is not counted: it compiles the modules to bytecode, as an installation does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from sides import Job, arguments, compare, emit


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = arguments(__doc__)
    parser.add_argument("run", nargs="?", help="a run directory, for `info`")
    parser.add_argument("--config", default="configs/smoke/transformer.yaml")
    options = parser.parse_args(words)
    verbs = {"config show": ["config", "show", options.config]}
    if not options.tiny:
        verbs["data inspect"] = ["data", "inspect", options.config]
    if options.run:
        verbs["info"] = ["info", options.run]
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: _process(["-m", "jaxlm", *verb], folder) for name, verb in verbs.items()}
        if not options.tiny:
            sides["import numpy"] = _process(["-c", "import numpy"], folder)
            sides["import jax"] = _process(["-c", "import jax"], folder)
        rows = [compare(sides, name="starts", rounds=1 if options.tiny else options.rounds)]
    for side, seconds in rows[0]["cpu_seconds"].items():
        print(f"{side:14} {seconds:.2f} CPU-seconds")
    emit("starts", rows, options.json)
    return rows


def _process(words: list[str], folder: str) -> Job:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = folder
    command = [sys.executable, *words]
    return lambda: subprocess.run(
        command, check=True, env=environment, stdout=subprocess.DEVNULL, timeout=120
    )


if __name__ == "__main__":
    main()
