"""`jaxlm resume RUN_DIR`: continues a run, on any mesh."""

from __future__ import annotations

from typing import Unpack

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import Starting
from jaxlm.cli.shared.verb import TRAINING, verb


@verb(
    "continue a run, on any mesh",
    section=TRAINING,
    examples=(
        ("resume runs/quickstart", ""),
        ("resume runs/quickstart mesh.fsdp=2", "on another mesh"),
    ),
    works=True,
    exit_codes=True,
)
@options.run_dir
@options.overrides
@options.accept_changed_data
@options.processes
def command(run_dir: str, overrides: tuple[str, ...], **starting: Unpack[Starting]) -> int:
    """Continues from a run's newest good checkpoint, with the config in the run's folder. The
    mesh may be another.
    """
    from jaxlm.cli.shared.training import run_training
    from jaxlm.run import load_saved

    return run_training(lambda: load_saved(run_dir, overrides), must_exist=True, **starting)
