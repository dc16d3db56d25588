"""A managed job of SkyPilot: machines of whatever cloud has them, recovered when taken away.

    type: skypilot
    accelerators: H100:8
    num_nodes: 2
    use_spot: true
    bucket: gs://my-runs

`sky jobs launch` brings the machines, and new ones when they are gone. Exit codes that a new start
mends (another process lost, a hang, a stop that saved) are named to it; other failures end the job,
for SkyPilot cannot tell a mistake from a crash.
Source: docs.skypilot.co, task YAML and managed jobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxlm.config import REQUIRED, UserError, field
from jaxlm.config_yaml import dump_yaml
from jaxlm.exit_codes import HUNG, INTERRUPTED, LOST
from jaxlm.launch.job import Job
from jaxlm.launch.steps import Command, WriteFile
from jaxlm.launch.target import LaunchConfig, Plan

CONFIG = "~/jaxlm-run.yaml"
PORT = 8476


@dataclass(frozen=True, kw_only=True)
class SkyPilot(LaunchConfig):
    """A managed job of SkyPilot."""

    accelerators: str = field(REQUIRED, "of a node, such as H100:8 or tpu-v6e-8")
    num_nodes: int = field(1, "nodes of the job", ge=1)
    infra: str | None = field(None, "where, such as gcp/us-central1 or k8s; null: the cheapest")
    use_spot: bool = field(False, "take spot machines")
    image_id: str | None = field(None, "image of the machines")
    runtime_version: str | None = field(None, "of TPUs: their software")
    disk_size: int | None = field(None, "GB of a node's disk", ge=1)
    bucket: str = field(REQUIRED, "gs:// or s3:// that is mounted; the run's folder lies in it")
    mount: str = field("/mnt/jaxlm", "where it is mounted")
    requirement: str = field("jaxlm[cuda]", "what pip installs there: a name, a file, a git or URL")
    source: str | None = field(None, "a folder with jaxlm's source to send, in place of that")
    setup: tuple[str, ...] = field((), "shell lines before the installation")

    def validate(self) -> None:
        super().validate()
        if "://" not in self.bucket:
            raise UserError(f"bucket: {self.bucket!r} is none; write it as gs://NAME or s3://NAME")

    def plan(self, job: Job) -> Plan:
        config, task = job.stage / "run.yaml", job.stage / "task.yaml"
        files = (
            WriteFile(
                why="the run's config, whole", path=config, text=job.config_under(self.mount)
            ),
            WriteFile(why="the task", path=task, text=dump_yaml(self.task(job))),
        )
        # the value is taken from the environment; the command has the name alone
        secrets = [word for name in self.secrets for word in ("--secret", name)]
        words = ("--name", job.name, *secrets, "--yes", str(task))
        submit = Command(why="submit it", argv=("sky", "jobs", "launch", "--detach-run", *words))
        logs = Command(why="follow the log", argv=("sky", "jobs", "logs", "--name", job.name))
        queue = Command(why="how it stands", argv=("sky", "jobs", "queue"))
        cancel = Command(
            why="cancel it", argv=("sky", "jobs", "cancel", "--name", job.name, "--yes")
        )
        return Plan(
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
                "SkyPilot restarts it when machines are taken away, and after exit codes "
                f"{LOST}, {HUNG} and {INTERRUPTED}",
            ),
        )

    def task(self, job: Job) -> dict[str, Any]:
        """The task YAML as plain values."""
        tpu = self.accelerators.lower().startswith("tpu")
        resources = {
            "infra": self.infra,
            "accelerators": self.accelerators,
            "accelerator_args": (
                {"runtime_version": self.runtime_version} if self.runtime_version else None
            ),
            "use_spot": self.use_spot,
            "image_id": self.image_id,
            "disk_size": self.disk_size,
            "job_recovery": {
                "max_restarts_on_errors": 0,
                "recover_on_exit_codes": [LOST, HUNG, INTERRUPTED],
            },
        }
        install = f"uv pip install --quiet --python ~/jaxlm-venv '{self.requirement}'"
        if self.source is not None:
            extra = "tpu" if tpu else "cuda"
            install = f"uv pip install --quiet --python ~/jaxlm-venv '.[{extra}]'"
        setup = [
            "set -e",
            *self.setup,
            "command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh",
            'export PATH="$HOME/.local/bin:$PATH"',
            "[ -x ~/jaxlm-venv/bin/python ] || uv venv --quiet --python 3.12 ~/jaxlm-venv",
            install,
        ]
        meet = [  # the hosts of a TPU pod find one another
            f'export JAXLM_COORDINATOR="$(head -n 1 <<< "$SKYPILOT_NODE_IPS"):{PORT}"',
            'export JAXLM_NUM_PROCESSES="$SKYPILOT_NUM_NODES"',
            'export JAXLM_PROCESS_ID="$SKYPILOT_NODE_RANK"',
        ]
        run = [*([] if tpu else meet), f"exec ~/jaxlm-venv/bin/python -u -m jaxlm train {CONFIG}"]
        task: dict[str, Any] = {
            "name": job.name,
            "num_nodes": self.num_nodes,
            "resources": {name: value for name, value in resources.items() if value is not None},
            "file_mounts": {
                CONFIG: str(job.stage / "run.yaml"),
                self.mount: {"source": self.bucket, "mode": "MOUNT"},
            },
        }
        if self.source is not None:
            task["workdir"] = self.source
        if self.env:
            task["envs"] = self.env
        if self.secrets:
            task["secrets"] = {name: None for name in self.secrets}
        return task | {"setup": "\n".join(setup) + "\n", "run": "\n".join(run) + "\n"}
