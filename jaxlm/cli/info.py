"""`jaxlm info RUN_DIR`: what a run directory holds."""

from __future__ import annotations

import json

from jaxlm.cli.shared import options
from jaxlm.cli.shared.verb import USING, verb


@verb(
    "show what a run directory holds",
    section=USING,
    examples=(("info runs/quickstart", ""), ("info runs/quickstart --json", "for a program")),
)
@options.run_dir
@options.json
def command(run_dir: str, as_json: bool) -> None:
    """Step, parameters and their SHA-256, the config's SHA-256, data position, checkpoints."""
    from jaxlm.info import describe_run, render
    from jaxlm.run import saved_config

    found = describe_run(saved_config(run_dir).parent)
    print(json.dumps(found, indent=1) if as_json else render(found))
