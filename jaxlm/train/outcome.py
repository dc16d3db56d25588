"""How a run ended, and whether one that is to go on has ended already.

return Outcome(DONE, "done: step 20 of 20", result)
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import Any

from jaxlm.exit_codes import DONE
from jaxlm.run import RunConfig
from jaxlm.train.agree import decide
from jaxlm.train.checkpoint_reader import CheckpointReader
from jaxlm.train.run_dir import RESULT, RunDir

log = logging.getLogger("jaxlm")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: an exit code, and a line for the user."""

    code: int
    message: str
    result: dict[str, Any] = field(default_factory=dict)


def finished(run: RunDir, config: RunConfig) -> Outcome | None:
    """What to tell of a run that has ended, if its last checkpoint stands; None of any other."""
    try:
        text = (run.path / RESULT).read_text()
    except OSError:
        text = "{}"
    result = json.loads(decide("result", text, lambda texts: texts[0]))
    step = result.get("step")
    if step is None or step != config.train.steps:
        return None
    if CheckpointReader(run.checkpoints, report=log.warning).latest() != step:
        return None
    return Outcome(
        DONE,
        f"done already: step {step} of {step}, nothing was changed; `jaxlm eval {run}` measures it "
        "again, another run_dir starts anew",
        result,
    )
