"""`jaxlm doctor`: checks this machine."""

from __future__ import annotations

import json

from jaxlm.cli.shared import options
from jaxlm.cli.shared.verb import PREPARING, verb


@verb(
    "show versions, devices and memory, and run a self-test",
    section=PREPARING,
    examples=(("doctor", ""),),
)
@options.json
def command(as_json: bool) -> int:
    """Checks this machine: versions, devices, memory, disk, and a two-second self-test."""
    from jaxlm.doctor import examine, render

    found = examine()
    print(json.dumps(found, indent=1) if as_json else render(found))
    return 0 if found["ok"] else 1
