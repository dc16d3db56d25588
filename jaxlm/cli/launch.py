"""`jaxlm launch TARGET CONFIG`: creates the machines of a run, and trains on all of them."""

from __future__ import annotations

from typing import Any

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.values import PATH, Choice
from jaxlm.cli.shared.verb import TRAINING, verb

ACTIONS = ("create", "queue", "run", "logs", "status", "delete")


@verb(
    "start a run on a TPU pod, GKE, Slurm, SkyPilot, GPUs or in local processes",
    section=TRAINING,
    examples=(
        ("launch launch/tpu_vm.yaml configs/quickstart.yaml --dry-run", "prints every command"),
        ("launch launch/slurm.yaml configs/quickstart.yaml train.steps=500", "other settings"),
        ("launch launch/gke.yaml configs/quickstart.yaml --action logs", "follows a run"),
        (
            "launch local configs/quickstart.yaml --set processes=4 --set devices=2",
            "local processes",
        ),
    ),
    works=True,
    exit_codes=True,
)
@options.argument("target", "a launch file, or local or gpu_host", type=PATH, metavar="TARGET")
@options.config
@click.option(
    "--action",
    type=Choice(ACTIONS),
    metavar="ACTION",
    help="one part only: create (the machines), queue (request them without waiting), run "
    "(train), logs (follow the log), status, delete (the machines)",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="a setting that overrides the launch file's, such as zone=us-east5-b; may be repeated",
)
@click.option("--dry-run", is_flag=True, help="print the commands, run nothing")
def command(
    target: str,
    config: str,
    overrides: tuple[str, ...],
    action: str | None,
    settings: tuple[str, ...],
    dry_run: bool,
) -> int:
    """Creates the machines of a launch file, trains the config on all of them, shows the log,
    restarts from the last checkpoint after a preemption or a failure, and deletes the machines
    when the run has ended. With --action it does only one part of that.
    """
    from jaxlm.core.without_jax import reading
    from jaxlm.launch.job import Job
    from jaxlm.launch.start import launch
    from jaxlm.launch.target import load_target

    def read() -> dict[str, Any]:
        from jaxlm.core.config import to_dict
        from jaxlm.run import load_run

        return to_dict(load_run(config, overrides).config)

    where = load_target(target, settings)
    job = Job.of(reading(read), where.name)
    return launch(where, job, action, dry_run=dry_run)
