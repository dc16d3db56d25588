"""A Slurm job: one task per node (or GPU), requeued when it is preempted or fails.

    type: slurm
    nodes: 2
    tasks_per_node: 8
    partition: gpu
    time: "24:00:00"
    setup: ["source /shared/venv/bin/activate"]

Two minutes before the time limit, or at a preemption, the run receives SIGTERM: it saves, exits
with code 75, and the job is requeued. The processes find each other through Slurm's environment.
The working directory of the launch must be shared by all nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxlm.core.config import UserError, field
from jaxlm.core.exit_codes import FINAL, INTERRUPTED
from jaxlm.launch.chips import GPU, Chips
from jaxlm.launch.job import Job
from jaxlm.launch.names import check_no_option, check_word
from jaxlm.launch.shell import join, script
from jaxlm.launch.steps import Argv, Command, Follow, Outcome, Step, WriteFile
from jaxlm.launch.targets.base import LaunchPlan, RestartingConfig


@dataclass(frozen=True, kw_only=True)
class Slurm(RestartingConfig):
    """A job of a Slurm cluster."""

    nodes: int = field(1, "nodes of the job", ge=1)
    tasks_per_node: int = field(1, "processes per node; if several, jax gives each one GPU", ge=1)
    gpus_per_node: int | None = field(None, "GPUs to request per node; null: none", ge=1)
    cpus_per_task: int | None = field(None, "CPU cores per process", ge=1)
    memory: str | None = field(None, "memory per node, such as 200G")
    partition: str | None = field(None, "partition to queue in")
    account: str | None = field(None, "account to charge")
    qos: str | None = field(None, "quality of service")
    time: str | None = field(None, 'time limit of the job, such as "24:00:00"')
    options: tuple[str, ...] = field((), "more options of sbatch, such as --constraint=a100")
    setup: tuple[str, ...] = field((), "shell lines before the run, such as module load")
    python: str = field("python", "the Python with jaxlm, after `setup`")
    warning_seconds: int = field(
        120, "seconds between SIGTERM and the time limit, for a checkpoint", ge=1
    )
    poll_seconds: float = field(15.0, "seconds between two checks of the queue", gt=0)

    def validate(self) -> None:
        super().validate()
        if any(not option.startswith("-") for option in self.options):
            raise UserError(
                "options: must start with -, as for sbatch; write each such as --constraint=a100"
            )
        # sbatch splits the lines of a script as a shell does
        for key in ("partition", "account", "qos", "time", "memory"):
            check_word(key, getattr(self, key), r"[^\s'\"\\#]+", "write one word without quotes")
        check_no_option("python", self.python)

    def chips(self) -> Chips | None:
        if self.gpus_per_node is None:
            return None  # set by options, or by the queue
        each = self.gpus_per_node if self.tasks_per_node == 1 else self.tasks_per_node
        text = f"nodes: {self.nodes}, gpus_per_node: {self.gpus_per_node}"
        if self.tasks_per_node != 1:
            text += f", tasks_per_node: {self.tasks_per_node}"
        return Chips(text=text, kind=GPU, count=self.nodes * each)

    def plan(self, job: Job) -> LaunchPlan:
        files = (
            WriteFile(
                why="write the run's config", path=job.stage / "run.yaml", text=job.config_under()
            ),
            WriteFile(why="write the job script", path=job.stage / "job.sh", text=self.script(job)),
        )
        submit = Command(
            why="submit the job",
            argv=("sbatch", str(job.stage / "job.sh")),
            unless=self._queued(job),
        )
        clean = Command(
            why="remove an earlier outcome",
            argv=("rm", "-f", str(job.stage / "outcome"), str(job.stage / "restarts")),
            unless=self._queued(job),
        )
        make: tuple[Step, ...] = (*files, clean, submit)
        follow = Follow(
            why="follow the log",
            argv=("tail", "-n", "50", "-F", str(job.stage / "log.txt")),
            state=self._state(job),
            over=("",),
            seconds=self.poll_seconds,
        )
        outcome = Outcome(why="ask how it ended", argv=("cat", str(job.stage / "outcome")))
        attempt = (*make, follow, outcome)
        name = (f"--name={job.name}", "--me")
        return LaunchPlan(
            actions={
                "create": make,
                "queue": make,
                "run": attempt,
                "logs": (follow,),
                "status": (Command(why="show its state", argv=("squeue", *name, "--long")),),
                "delete": (Command(why="cancel the job", argv=("scancel", *name)),),
            },
            attempt=attempt,
            notes=(
                f"Slurm restarts the run: at most {self.max_restarts} times without a newer "
                "checkpoint after a failure, always after a preemption",
            ),
        )

    def script(self, job: Job) -> str:
        """The batch script."""
        given: dict[str, object] = {
            "job-name": job.name,
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks_per_node,
            "gpus-per-node": self.gpus_per_node,
            "cpus-per-task": self.cpus_per_task,
            "mem": self.memory,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "time": self.time,
            "output": job.stage / "log.txt",
            "open-mode": "append",
            "signal": f"B:TERM@{self.warning_seconds}",
            "dependency": "singleton",  # never two jobs of one name at the same time
            "export": ",".join(("ALL", *self.secrets)),
        }
        options = [f"--{name}={value}" for name, value in given.items() if value is not None]
        # The budget of restarts is stored in a file: each attempt is a new process.
        return script(
            "slurm.sh",
            options=[*options, "--requeue", *self.options],
            env=self.env,
            setup=self.setup,
            run_dir=job.run_dir,
            stage=str(job.stage),
            python=self.python,
            config=str(job.stage / "run.yaml"),
            final=sorted(FINAL),
            max_restarts=self.max_restarts,
            interrupted=INTERRUPTED,
        )

    def _state(self, job: Job) -> Argv:
        return ("squeue", f"--name={job.name}", "--me", "--noheader", "--format=%T")

    def _queued(self, job: Job) -> Argv:
        return ("bash", "-c", f"{join(self._state(job))} | grep -q .")
