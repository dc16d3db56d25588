"""A managed job of SkyPilot: machines of any cloud, recovered after a preemption.

    type: skypilot
    accelerators: H100:8
    num_nodes: 2
    use_spot: true
    bucket: gs://my-runs

`sky jobs launch` creates the machines, and new ones after a preemption. SkyPilot has two settings
for a job that fails: a number of restarts after any exit code, a mistake of the user included, and
exit codes after which it always restarts. jaxlm uses one such code: each node's script exits with
it if a restart can fix the failure and the budget is not used up.
Source: docs.skypilot.co, task YAML and managed jobs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import REQUIRED, field
from jaxlm.core.exit_codes import FINAL, INTERRUPTED
from jaxlm.launch.chips import Chips, tpu_chips
from jaxlm.launch.job import Job
from jaxlm.launch.manifest import manifest
from jaxlm.launch.names import check_no_option, check_word
from jaxlm.launch.shell import script
from jaxlm.launch.steps import Command, WriteFile
from jaxlm.launch.targets.base import LaunchPlan, RestartingConfig

CONFIG = "~/jaxlm-run.yaml"
PORT = 8476


@dataclass(frozen=True, kw_only=True)
class SkyPilot(RestartingConfig):
    """A managed job of SkyPilot."""

    accelerators: str = field(REQUIRED, "accelerators per node, such as H100:8 or tpu-v6e-8")
    num_nodes: int = field(1, "nodes of the job", ge=1)
    infra: str | None = field(
        None, "cloud and region, such as gcp/us-central1 or k8s; null: the cheapest"
    )
    use_spot: bool = field(False, "use spot machines")
    image_id: str | None = field(None, "image of the machines")
    runtime_version: str | None = field(None, "software version of TPUs")
    disk_size: int | None = field(None, "disk of a node in GB", ge=1)
    bucket: str = field(REQUIRED, "gs:// or s3://; it is mounted and stores the run's folder")
    mount: str = field("/mnt/jaxlm", "where the bucket is mounted")
    requirement: str = field(
        "jaxlm[cuda]", "what pip installs on the nodes: a name, file, URL or git repository"
    )
    source: str | None = field(None, "a folder with jaxlm's source to send and install instead")
    setup: tuple[str, ...] = field((), "shell lines before the installation")

    def validate(self) -> None:
        super().validate()
        check_word("bucket", self.bucket, r"\w+://[\w.@:/-]+", "write it as gs://NAME or s3://NAME")
        # SkyPilot writes it into its own scripts
        check_word("mount", self.mount, r"/[\w./-]+", "write a path such as /mnt/jaxlm")
        check_no_option("requirement", self.requirement)

    def chips(self) -> Chips | None:
        text = f"accelerators: {self.accelerators}"
        if self.accelerators.lower().startswith("tpu"):
            return tpu_chips(text, self.accelerators.partition(":")[0])
        name, _, count = self.accelerators.lower().partition(":")
        if not re.fullmatch(r"\d*", count):
            return None
        text += f", num_nodes: {self.num_nodes}" if self.num_nodes > 1 else ""
        # A100-80GB is an A100
        kind = name.partition("-")[0]
        return Chips(text=text, kind=kind, count=int(count or 1) * self.num_nodes)

    def plan(self, job: Job) -> LaunchPlan:
        config, task = job.stage / "run.yaml", job.stage / "task.yaml"
        files = (
            WriteFile(why="write the run's config", path=config, text=job.config_under(self.mount)),
            WriteFile(why="write the task", path=task, text=self.task(job)),
        )
        # the value is read from the environment; the command has only the name
        secrets = [word for name in self.secrets for word in ("--secret", name)]
        words = ("--name", job.name, *secrets, "--yes", str(task))
        submit = Command(
            why="submit the job", argv=("sky", "jobs", "launch", "--detach-run", *words)
        )
        logs = Command(why="follow the log", argv=("sky", "jobs", "logs", "--name", job.name))
        queue = Command(why="show the queue", argv=("sky", "jobs", "queue"))
        cancel = Command(
            why="cancel the job", argv=("sky", "jobs", "cancel", "--name", job.name, "--yes")
        )
        return LaunchPlan(
            actions={
                "create": (*files, submit),
                "queue": (*files, submit),
                "run": (*files, submit, logs),
                "logs": (logs,),
                "status": (queue,),
                "delete": (cancel,),
            },
            attempt=(*files, submit, logs),
            notes=(
                f"SkyPilot restarts the run: at most {self.max_restarts} times without a newer "
                "checkpoint after a failure, always after a preemption",
            ),
        )

    def task(self, job: Job) -> str:
        """The task's YAML."""
        tpu = self.accelerators.lower().startswith("tpu")
        resources: dict[str, Any] = {
            "infra": self.infra,
            "accelerators": self.accelerators,
            "accelerator_args": (
                {"runtime_version": self.runtime_version} if self.runtime_version else None
            ),
            "use_spot": self.use_spot,
            "image_id": self.image_id,
            "disk_size": self.disk_size,
        }
        requirement = self.requirement
        if self.source is not None:
            requirement = ".[tpu]" if tpu else ".[cuda]"
        return manifest(
            "skypilot.yaml",
            name=job.name,
            num_nodes=self.num_nodes,
            resources={name: value for name, value in resources.items() if value is not None},
            config=CONFIG,
            sent=str(job.stage / "run.yaml"),
            mount=self.mount,
            bucket=self.bucket,
            source=self.source,
            env=self.env,
            secrets=self.secrets,
            interrupted=INTERRUPTED,
            setup=script("skypilot_setup.sh", setup=self.setup, requirement=requirement),
            run=self._run(job, tpu),
        )

    def _run(self, job: Job, tpu: bool) -> str:
        """The script that each node runs.

        The budget of restarts is stored in the bucket, one file per node: SkyPilot kills the other
        nodes' scripts when one has ended. The task's id is the same for all starts of a job.
        SIGTERM is sent to every process of a job; the script ignores it to report how the run
        ended.
        """
        return script(
            "skypilot_run.sh",
            tpu=tpu,
            port=PORT,
            run_dir=job.run_dir_under(self.mount),
            config=CONFIG,  # the shell expands its ~
            final=sorted(FINAL),
            max_restarts=self.max_restarts,
            interrupted=INTERRUPTED,
        )
