"""`jaxlm info RUN_DIR`: shows the content of a run directory."""

from __future__ import annotations

import json
from pathlib import Path

from jaxlm.cli.shared import options
from jaxlm.cli.shared.verb import USING, verb


@verb(
    "show the content of a run directory",
    section=USING,
    examples=(("info runs/quickstart", ""), ("info runs/quickstart --json", "as JSON")),
)
@options.run_dir
@options.json
def command(run_dir: str, as_json: bool) -> None:
    """Step, parameters and config with their SHA-256, data position, checkpoints, rollbacks,
    accepted changes of the data, final figures.
    """
    from jaxlm.info import describe_run, render

    found = describe_run(Path(run_dir))
    print(json.dumps(found, indent=1) if as_json else render(found))
