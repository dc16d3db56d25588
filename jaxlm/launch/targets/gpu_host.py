"""The GPUs of this machine.

type: gpu_host
gpus: [0, 1]        # empty: all
process_per_gpu: true
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxlm.core.config import UserError, field
from jaxlm.launch.chips import GPU, Chips
from jaxlm.launch.job import Job
from jaxlm.launch.targets.base import LaunchPlan, RestartingConfig
from jaxlm.launch.targets.local import local_plan


@dataclass(frozen=True, kw_only=True)
class GpuHost(RestartingConfig):
    """The GPUs of this machine: one process for all of them, or one for each."""

    gpus: tuple[int, ...] = field((), "numbers of the GPUs to use; empty: all")
    process_per_gpu: bool = field(False, "start a process for each of `gpus`")

    def validate(self) -> None:
        super().validate()
        if self.process_per_gpu and not self.gpus:
            raise UserError(
                "gpus: is empty, but process_per_gpu needs their numbers; "
                "set gpus, such as [0, 1, 2, 3]"
            )
        if len(set(self.gpus)) != len(self.gpus):
            raise UserError(f"gpus: {list(self.gpus)} has a number twice; write each once")

    def chips(self) -> Chips | None:
        text = f"gpus: {list(self.gpus)}" if self.gpus else "gpu_host"
        return Chips(text=text, kind=GPU, count=len(self.gpus) or None)

    def plan(self, job: Job) -> LaunchPlan:
        base = {
            **self.env,
            "JAX_PLATFORMS": "cuda",
        }  # an error, not a run on the CPU, if CUDA is missing
        if self.process_per_gpu:
            return local_plan(self, job, [base | _only(gpu) for gpu in self.gpus])
        return local_plan(self, job, [base | (_only(*self.gpus) if self.gpus else {})])


def _only(*gpus: int) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
