"""`jaxlm train CONFIG`: trains the run of a config."""

from __future__ import annotations

from typing import Unpack

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import Starting
from jaxlm.cli.shared.verb import TRAINING, verb


@verb(
    "train the run of a config; continues from its last checkpoint",
    section=TRAINING,
    examples=(
        ("train configs/quickstart.yaml", "writes runs/quickstart"),
        ("train configs/quickstart.yaml run_dir=/data/a optimizer.learning_rate=3e-4", ""),
        ("train configs/quickstart.yaml mesh.fsdp=4 mesh.tensor=2", "on eight devices"),
    ),
    works=True,
    exit_codes=True,
)
@options.config
@options.accept_changed_data
@options.processes
def command(config: str, overrides: tuple[str, ...], **starting: Unpack[Starting]) -> int:
    """Trains the run of a config, from the start or from its newest checkpoint. The
    folder of another run is never overwritten.
    """
    from jaxlm.cli.shared.training import run_training
    from jaxlm.hf.opened import run_of
    from jaxlm.run import load_run

    return run_training(lambda: load_run(config, overrides, run_of), **starting)
