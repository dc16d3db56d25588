"""This machine: N local processes, or all its GPUs.

    type: local
    processes: 4
    devices: 2          # simulated CPU devices of each; null: the real ones

`jaxlm launch local CONFIG` starts one process; `--set processes=4 --set devices=2` four. The first
one's output is on the screen, that of the others in `processes/` in the run's folder.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from jaxlm.config import UserError, field
from jaxlm.launch.chips import GPU, Chips
from jaxlm.launch.job import Job
from jaxlm.launch.steps import Group, Member, Step, WriteFile
from jaxlm.launch.target import Plan, RestartingConfig


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
                "devices: null, but processes of one machine cannot share its real devices; set "
                "devices for simulated ones, or use type gpu_host"
            )

    def chips(self) -> Chips | None:
        if self.devices is None:
            return None
        told = f"processes: {self.processes}, devices: {self.devices}"
        return Chips(told=told, kind=None, count=self.processes * self.devices)

    def plan(self, job: Job) -> Plan:
        environment = dict(self.env)
        if self.devices is not None:
            kept = re.sub(r"--xla_force_host_platform_device_count=\d+", "", _flags(environment))
            count = f"--xla_force_host_platform_device_count={self.devices}"
            environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{kept.strip()} {count}".strip()}
        return local_plan(self, job, [environment] * self.processes)


@dataclass(frozen=True, kw_only=True)
class GpuHost(RestartingConfig):
    """The GPUs of this machine: one process over all of them, or one for each."""

    gpus: tuple[int, ...] = field((), "numbers of the GPUs to use; none: all there are")
    process_per_gpu: bool = field(False, "start a process for each of `gpus`")

    def validate(self) -> None:
        super().validate()
        if self.process_per_gpu and not self.gpus:
            raise UserError("gpus: name them, such as [0, 1, 2, 3], for a process for each")
        if len(set(self.gpus)) != len(self.gpus):
            raise UserError(f"gpus: {list(self.gpus)} names one twice; name each once")

    def chips(self) -> Chips | None:
        told = f"gpus: {list(self.gpus)}" if self.gpus else "gpu_host"
        return Chips(told=told, kind=GPU, count=len(self.gpus) or None)

    def plan(self, job: Job) -> Plan:
        base = {**self.env, "JAX_PLATFORMS": "cuda"}  # never a run on the CPU by mistake
        if self.process_per_gpu:
            return local_plan(self, job, [base | _only(gpu) for gpu in self.gpus])
        return local_plan(self, job, [base | (_only(*self.gpus) if self.gpus else {})])


def local_plan(target: RestartingConfig, job: Job, environments: list[dict[str, str]]) -> Plan:
    """A process for each environment; they find one another on a free port."""
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
    write = WriteFile(why="the run's config, whole", path=config, text=job.config_under())
    train = Group(
        why=f"train {job.run_dir} to its end",
        members=tuple(members),
        run_dir=run_dir,
        max_restarts=target.max_restarts,
    )
    steps: tuple[Step, ...] = (write, train)
    return Plan(actions={"run": steps}, attempt=steps)


def _only(*gpus: int) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}


def _flags(environment: dict[str, str]) -> str:
    return environment.get("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
