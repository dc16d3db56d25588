"""TPU VMs, by gcloud: created or queued, created again after a preemption, deleted at the end.

    type: tpu_vm
    zone: us-east5-a
    accelerator_type: v5p-32
    runtime_version: v2-alpha-tpuv5
    provisioning: spot
    bucket: gs://my-runs

The run's folder must be on storage that outlives the machines: a bucket, which is mounted, or a
folder that all hosts share. The processes of a pod save a checkpoint together, and the disk of a
host is deleted with it, so one of the two is required.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxlm.core.config import REQUIRED, UserError, field
from jaxlm.launch import remote
from jaxlm.launch.chips import Chips, tpu_chips
from jaxlm.launch.job import Job
from jaxlm.launch.names import check_absolute, check_no_option, check_word
from jaxlm.launch.steps import (
    Argv,
    Await,
    Command,
    Follow,
    Outcome,
    Step,
    WriteFile,
    WriteSecrets,
)
from jaxlm.launch.targets.base import LaunchPlan, RestartingConfig

ARCHIVE = "source.tar.gz"
LOST = ("SUSPENDING", "SUSPENDED", "PREEMPTED", "TERMINATED", "FAILED", "DELETING", "STOPPED")
# ssh sends keepalives: a host that is gone does not close its connections.
KEEPALIVE = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
TRIES = 4


@dataclass(frozen=True, kw_only=True)
class TpuVm(RestartingConfig):
    """TPU VMs, created by gcloud."""

    project: str | None = field(None, "Google Cloud project; null: gcloud's default")
    zone: str = field(REQUIRED, "such as us-east5-a")
    accelerator_type: str = field(REQUIRED, "such as v5p-32")
    runtime_version: str = field(REQUIRED, "such as v2-alpha-tpuv5, v2-alpha-tpuv6e")
    queued: bool = field(True, "request a queued resource, which waits for capacity")
    provisioning: Literal["on_demand", "spot", "reserved"] = field(
        "on_demand", "spot machines are cheap and may be preempted at any time"
    )
    reservation: str | None = field(None, "name of the reservation, for provisioning: reserved")
    service_account: str | None = field(
        None, "service account of the machines; null: the default one"
    )
    network: str | None = field(None, "network of the machines; null: the default one")
    internal_ip: bool = field(False, "connect to the machines by their internal addresses")
    bucket: str | None = field(None, "gs://NAME; it is mounted and stores the run's folder")
    mount: str = field("/mnt/jaxlm", "where the bucket is mounted")
    shared_dir: str | None = field(None, "a folder that all hosts share, instead of a bucket")
    requirement: str = field(
        "jaxlm[tpu]", "what pip installs on the hosts: a name, file, URL or git repository"
    )
    source: str | None = field(None, "a folder with jaxlm's source to send and install instead")
    poll_seconds: float = field(30.0, "seconds between two checks of the machines' state", gt=0)

    def validate(self) -> None:
        super().validate()
        if (self.bucket is None) == (self.shared_dir is None):
            raise UserError(
                "bucket, shared_dir: set exactly one of the two; checkpoints on the machines' own "
                "disks are deleted with them, and a preempted run would start from step 0"
            )
        bucket = r"gs://[a-z0-9][a-z0-9._-]*"
        check_word("bucket", self.bucket, bucket, "write gs://NAME, without a folder")
        check_absolute("mount", self.mount)
        check_absolute("shared_dir", self.shared_dir)
        check_no_option("requirement", self.requirement)
        if self.reservation is not None and self.provisioning != "reserved":
            raise UserError("reservation: needs provisioning: reserved; set it")
        if self.reservation is not None and not self.queued:
            raise UserError("reservation: needs queued: true; set it")

    @property
    def root(self) -> str:
        return self.shared_dir or self.mount

    def chips(self) -> Chips | None:
        return tpu_chips(f"accelerator_type: {self.accelerator_type}", self.accelerator_type)

    def plan(self, job: Job) -> LaunchPlan:
        make = (*self._ask(job), *self._wait(job))
        run = (*self._send(job), *self._start(job))
        follow = self._follow(job)
        return LaunchPlan(
            actions={
                "create": make,
                "queue": self._ask(job),
                "run": (*run, follow, self._outcome(job)),
                "logs": (follow,),
                "status": (self._status(job),),
                "delete": self._delete(job),
            },
            start=make,
            attempt=(*run, follow, self._outcome(job)),
            again=(self._on_all(job, "stop.sh", "end the rest of the run", may_fail=True),),
            remove=self._delete(job),
            max_restarts=self.max_restarts,
            state=self._state(job),
            lost=LOST,
            notes=(
                f"{job.name}: {self.accelerator_type} in {self.zone}; the run's folder is "
                f"{job.run_dir_under(self.root)} on {self.bucket or 'the shared folder'}",
            ),
        )

    # ------------------------------------------------------------------------------- the machines

    def _ask(self, job: Job) -> tuple[Step, ...]:
        shape = (
            f"--accelerator-type={self.accelerator_type}",
            *([f"--service-account={self.service_account}"] if self.service_account else []),
            *([f"--network={self.network}"] if self.network else []),
            *(["--internal-ips"] if self.internal_ip else []),
        )
        if not self.queued:
            tier = {"on_demand": (), "spot": ("--spot",), "reserved": ("--reserved",)}
            argv = self._gcloud(
                "tpu-vm",
                "create",
                job.name,
                *shape,
                f"--version={self.runtime_version}",
                *tier[self.provisioning],
            )
            return (Command(why="create the machines", argv=argv, unless=self._node(job)),)
        tier = {"on_demand": (), "spot": ("--spot",), "reserved": ("--reserved",)}
        named = (f"--reservation={self.reservation}",) if self.reservation else ()
        argv = self._gcloud(
            "queued-resources",
            "create",
            job.name,
            f"--node-id={job.name}",
            *shape,
            f"--runtime-version={self.runtime_version}",
            *tier[self.provisioning],
            *named,
        )
        return (Command(why="request the machines", argv=argv, unless=self._state(job)),)

    def _wait(self, job: Job) -> tuple[Step, ...]:
        until = "ACTIVE" if self.queued else "READY"
        why = "wait until the machines are ready"
        return (
            Await(
                why=why,
                argv=self._state(job),
                until=(until,),
                never=LOST,
                seconds=self.poll_seconds,
            ),
        )

    def _delete(self, job: Job) -> tuple[Step, ...]:
        if self.queued:
            # --force: also deletes its machines
            argv = self._gcloud("queued-resources", "delete", job.name, "--force", "--quiet")
        else:
            argv = self._gcloud("tpu-vm", "delete", job.name, "--quiet")
        return (Command(why="delete the machines", argv=argv, tries=TRIES),)

    def _status(self, job: Job) -> Step:
        kind = "queued-resources" if self.queued else "tpu-vm"
        return Command(why="show their state", argv=self._gcloud(kind, "describe", job.name))

    def _state(self, job: Job) -> Argv:
        if not self.queued:
            return self._node(job)
        return self._gcloud("queued-resources", "describe", job.name, "--format=value(state.state)")

    def _node(self, job: Job) -> Argv:
        return self._gcloud("tpu-vm", "describe", job.name, "--format=value(state)")

    # ------------------------------------------------------------------------------------ the run

    def _send(self, job: Job) -> tuple[Step, ...]:
        """Sends the files of the run to all hosts; one archive is faster than a tree of files."""
        archive = ARCHIVE if self.source is not None else None
        scripts = remote.scripts(
            run_dir=job.run_dir_under(self.root),
            environment=self.env,
            secrets=bool(self.secrets),
            requirement=self.requirement,
            archive=archive,
            bucket=self.bucket,
            mount=self.mount,
        )
        texts = {"run.yaml": job.config_under(self.root), **scripts}
        steps: list[Step] = [
            WriteFile(why=f"write {name} for the hosts", path=job.stage / name, text=text)
            for name, text in texts.items()
        ]
        names = list(texts)
        if self.source is not None:
            steps.append(self._pack(job, self.source))
            names.append(ARCHIVE)
        secrets = job.stage / "secrets.env"
        if self.secrets:
            steps.append(WriteSecrets(why="write the secrets", path=secrets, names=self.secrets))
            names.append(secrets.name)
        there = self._there(job)
        steps.append(
            self._ssh(job, f"mkdir -p -m 700 {there}", "make a folder on all hosts", TRIES)
        )
        sources = [str(job.stage / name) for name in names]
        argv = self._gcloud("tpu-vm", "scp", *sources, f"{job.name}:{there}/", *self._all())
        steps.append(Command(why="send the files to all hosts", argv=argv, tries=TRIES))
        if self.secrets:
            argv = ("rm", "-f", str(secrets))
            steps.append(Command(why="delete the local copy of the secrets", argv=argv))
        steps.append(self._on_all(job, "setup.sh", "install and mount", tries=TRIES))
        return tuple(steps)

    def _pack(self, job: Job, source: str) -> Step:
        left_out = (".git", ".venv", "runs", ".jaxlm-launch", "__pycache__")
        argv = (
            "tar",
            "-czf",
            str(job.stage / ARCHIVE),
            *(f"--exclude={n}" for n in left_out),
            "-C",
            str(Path(source)),
            ".",
        )
        return Command(why="pack jaxlm's source", argv=argv)

    def _start(self, job: Job) -> tuple[Step, ...]:
        return (self._on_all(job, "start.sh", "start the run on all hosts", tries=TRIES),)

    def _follow(self, job: Job) -> Step:
        argv = self._gcloud(
            "tpu-vm",
            "ssh",
            job.name,
            "--worker=0",
            f"--command=bash {self._there(job)}/follow.sh",
            *self._way(),
            ssh_options=KEEPALIVE,
        )
        return Follow(
            why="follow the first host's log",
            argv=argv,
            state=self._state(job),
            lost=LOST,
            seconds=self.poll_seconds,
        )

    def _outcome(self, job: Job) -> Step:
        command = f"--command=bash {self._there(job)}/outcome.sh"
        argv = self._gcloud("tpu-vm", "ssh", job.name, *self._all(), command)
        return Outcome(why="ask how it ended", argv=argv)

    def _on_all(
        self, job: Job, script: str, why: str, *, tries: int = 1, may_fail: bool = False
    ) -> Step:
        return self._ssh(job, f"bash {self._there(job)}/{script}", why, tries, may_fail)

    def _ssh(self, job: Job, text: str, why: str, tries: int, may_fail: bool = False) -> Step:
        argv = self._gcloud("tpu-vm", "ssh", job.name, *self._all(), f"--command={text}")
        return Command(why=why, argv=argv, tries=tries, may_fail=may_fail)

    def _there(self, job: Job) -> str:
        return f"jaxlm-launch/{job.name}"

    def _all(self) -> tuple[str, ...]:
        return ("--worker=all", *self._way())

    def _way(self) -> tuple[str, ...]:
        return ("--internal-ip",) if self.internal_ip else ()

    def _gcloud(self, kind: str, verb: str, *words: str, ssh_options: tuple[str, ...] = ()) -> Argv:
        project = (f"--project={self.project}",) if self.project else ()
        rest = ("--", *ssh_options) if ssh_options else ()
        return (
            "gcloud",
            "compute",
            "tpus",
            kind,
            verb,
            *words,
            f"--zone={self.zone}",
            *project,
            *rest,
        )
