"""Processes of this machine.

    type: local
    processes: 4
    devices: 2          # simulated CPU devices of each; null: the real ones

`jaxlm launch local CONFIG` starts one process, with `--set processes=4 --set devices=2` four. The
output of the first is printed, that of the others is in `processes/` in the run's folder.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from jaxlm.core.config import UserError, field
from jaxlm.launch.chips import Chips
from jaxlm.launch.job import Job
from jaxlm.launch.steps import Group, Member, Step, WriteFile
from jaxlm.launch.targets.base import LaunchPlan, RestartingConfig


@dataclass(frozen=True, kw_only=True)
class Local(RestartingConfig):
    """Processes of this machine."""

    processes: int = field(1, "processes that train the run together", ge=1)
    devices: int | None = field(
        None, "simulated CPU devices of each process; null: the real devices", ge=1
    )

    def validate(self) -> None:
        super().validate()
        if self.processes > 1 and self.devices is None:
            raise UserError(
                "devices: null, but several processes cannot share the machine's real devices; set "
                "devices for simulated ones, or use type: gpu_host"
            )

    def chips(self) -> Chips | None:
        if self.devices is None:
            return None
        text = f"processes: {self.processes}, devices: {self.devices}"
        return Chips(text=text, kind=None, count=self.processes * self.devices)

    def plan(self, job: Job) -> LaunchPlan:
        environment = dict(self.env)
        if self.devices is not None:
            kept = re.sub(r"--xla_force_host_platform_device_count=\d+", "", _flags(environment))
            count = f"--xla_force_host_platform_device_count={self.devices}"
            environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{kept.strip()} {count}".strip()}
        return local_plan(self, job, [environment] * self.processes)


def local_plan(
    target: RestartingConfig, job: Job, environments: list[dict[str, str]]
) -> LaunchPlan:
    """One process per environment; they connect on a free port."""
    config = job.stage / "run.yaml"
    run_dir = Path(job.run_dir)
    members = []
    for number, environment in enumerate(environments):
        if len(environments) > 1:
            environment = environment | {
                "JAXLM_NUM_PROCESSES": str(len(environments)),
                "JAXLM_PROCESS_ID": str(number),
            }
        argv = (sys.executable, "-u", "-m", "jaxlm", "train", str(config))
        log = run_dir / "processes" / f"{number}.txt" if number else None
        coordinator = "JAXLM_COORDINATOR" if len(environments) > 1 else None
        members.append(Member(argv=argv, environment=environment, coordinator=coordinator, log=log))
    write = WriteFile(why="write the run's config", path=config, text=job.config_under())
    train = Group(
        why=f"train {job.run_dir} to its end",
        members=tuple(members),
        run_dir=run_dir,
        max_restarts=target.max_restarts,
    )
    steps: tuple[Step, ...] = (write, train)
    return LaunchPlan(actions={"run": steps}, attempt=steps)


def _flags(environment: dict[str, str]) -> str:
    return environment.get("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
