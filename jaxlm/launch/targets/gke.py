"""TPU slices on GKE: a JobSet, with a job for each slice and a pod for each of its hosts.

    type: gke
    image: us-docker.pkg.dev/my-project/jaxlm:1
    accelerator: tpu-v5p-slice
    topology: 2x2x4
    slices: 2
    bucket: my-runs

JobSet restarts all pods when one fails, at most `max_restarts` times; an exit code that a restart
cannot fix fails the whole set immediately. The labels and the names `slice-job` and `jax-tpu` are
those of xpk's workloads, so `xpk workload list` and `delete` find this one.
Source: jobset.sigs.k8s.io (v1alpha2); cloud.google.com/kubernetes-engine/docs/how-to/tpus.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from jaxlm.core.chips import cloud_chip
from jaxlm.core.config import REQUIRED, UserError, field
from jaxlm.core.exit_codes import DONE, FINAL
from jaxlm.launch.chips import Chips
from jaxlm.launch.job import Job
from jaxlm.launch.manifest import manifest
from jaxlm.launch.names import check_absolute, check_word
from jaxlm.launch.shell import join
from jaxlm.launch.steps import Argv, Command, Follow, Outcome, Step, WriteFile
from jaxlm.launch.targets.base import LaunchConfig, LaunchPlan

REPLICATED, CONTAINER = "slice-job", "jax-tpu"
ENDS = ("Completed", "Failed")
CONFIG_DIR = "/etc/jaxlm"
PORT = 8080  # libtpu's, between slices


@dataclass(frozen=True, kw_only=True)
class Gke(LaunchConfig):
    """TPU slices of a GKE cluster, through JobSet."""

    image: str = field(REQUIRED, "container image with jaxlm[tpu] installed")
    accelerator: str = field(REQUIRED, "such as tpu-v5p-slice, tpu-v6e-slice, tpu7x")
    topology: str = field(REQUIRED, "chips of a slice, such as 2x2x4")
    chips_per_host: int = field(4, "TPU chips per host", ge=1)
    max_restarts: int = field(
        20, "restarts in total, including preemptions; a newer checkpoint does not renew them", ge=0
    )
    slices: int = field(1, "slices that train one run", ge=1)
    spot: bool = field(False, "use spot nodes")
    bucket: str | None = field(
        None, "Cloud Storage bucket for the run's folder, mounted in the pods"
    )
    claim: str | None = field(
        None, "PersistentVolumeClaim for the run's folder, instead of a bucket"
    )
    mount: str = field("/mnt/jaxlm", "where the bucket or claim is mounted")
    service_account: str | None = field(None, "Kubernetes service account of the pods")
    secret_name: str = field("jaxlm", "Kubernetes secret with the values of `secrets`")
    queue: str | None = field(
        "multislice-queue", "local queue of Kueue; null: the cluster has no Kueue"
    )
    priority: str | None = field(None, "priority class of the pods; xpk has very-low to very-high")
    namespace: str = field("default", "Kubernetes namespace; xpk only looks at default")
    context: str | None = field(None, "context of kubectl; null: the current one")
    grace_seconds: int = field(120, "seconds between SIGTERM and SIGKILL, for a checkpoint", ge=1)
    poll_seconds: float = field(30.0, "seconds between two checks of the set's state", gt=0)

    def validate(self) -> None:
        super().validate()
        if (self.bucket is None) == (self.claim is None):
            raise UserError(
                "bucket, claim: set exactly one of the two; checkpoints inside a pod are deleted "
                "with it, and a restart would start from step 0"
            )
        check_word("bucket", self.bucket, r"[a-z0-9][a-z0-9._-]*", "write its name, without gs://")
        check_word("topology", self.topology, r"\d+(x\d+){1,2}", "write it as 2x4 or 2x2x4")
        check_absolute("mount", self.mount)
        if self._chips % min(self.chips_per_host, self._chips):
            raise UserError(
                f"chips_per_host: {self.chips_per_host} does not divide the {self._chips} chips of "
                f"topology {self.topology}; set the machine type's number of chips"
            )

    def chips(self) -> Chips | None:
        named = re.fullmatch(r"(?:tpu-)?(.+?)(?:-(?:podslice|slice|device))?", self.accelerator)
        chip = None if named is None else cloud_chip(named[1])
        if chip is None:
            return None
        several = f", slices: {self.slices}" if self.slices > 1 else ""
        return Chips(
            text=f"accelerator: {self.accelerator}, topology: {self.topology}{several}",
            kind=chip.name,
            count=self._chips * self.slices,
            slices=self.slices,
            shape=self.topology,
        )

    def plan(self, job: Job) -> LaunchPlan:
        path = job.stage / "jobset.yaml"
        write = WriteFile(why="write the manifest", path=path, text=self.manifest(job))
        argv = self._kubectl("apply", "-f", str(path))
        continues = f"! {join(self._state(job))} | grep -qwE '{'|'.join(ENDS)}'"
        clean = Command(
            why="delete an earlier set that has ended",
            argv=self._kubectl("delete", "jobset", job.name, "--ignore-not-found"),
            unless=("bash", "-c", continues),
        )
        make = (write, clean, Command(why="submit the set", argv=argv, tries=3))
        follow = self._follow(job)
        attempt: tuple[Step, ...] = (*make, follow, self._outcome(job))
        remove = (
            Command(
                why="delete the set",
                argv=self._kubectl(
                    "delete", "jobset,configmap", job.name, "--ignore-not-found", "--wait=false"
                ),
            ),
        )
        status = (
            Command(
                why="show the set", argv=self._kubectl("get", "jobset", job.name, "-o", "wide")
            ),
            Command(
                why="show its pods", argv=self._kubectl("get", "pods", "-o", "wide", *self._of(job))
            ),
        )
        return LaunchPlan(
            actions={
                "create": make,
                "run": attempt,
                "logs": (follow,),
                "status": status,
                "delete": remove,
            },
            attempt=attempt,
            notes=(
                f"{self.slices} x {self.accelerator} {self.topology}, {self._hosts} hosts each",
                f"the run's folder: {job.run_dir_under(self.mount)} on {self.bucket or self.claim}",
                f"JobSet restarts the run: at most {self.max_restarts} times",
            ),
        )

    # ------------------------------------------------------------------------------- the manifest

    def manifest(self, job: Job) -> str:
        """The ConfigMap with the run's config, and the JobSet."""
        return manifest(
            "gke.yaml",
            name=job.name,
            namespace=self.namespace,
            config=job.config_under(self.mount),
            queue=self.queue,
            max_restarts=self.max_restarts,
            replicated=REPLICATED,
            container=CONTAINER,
            slices=self.slices,
            hosts=self._hosts,
            final=sorted(FINAL - {DONE}),
            bucket=self.bucket,
            claim=self.claim,
            service_account=self.service_account,
            priority=self.priority,
            grace_seconds=self.grace_seconds,
            accelerator=self.accelerator,
            topology=self.topology,
            spot=self.spot,
            image=self.image,
            env=self.env,
            secrets=self.secrets,
            secret_name=self.secret_name,
            coordinator=f"{job.name}-{REPLICATED}-0-0.{job.name}:{PORT}",  # by JobSet's DNS
            port=PORT,
            chips=min(self.chips_per_host, self._chips),
            config_dir=CONFIG_DIR,
            config_file=f"{CONFIG_DIR}/run.yaml",
            mount=self.mount,
        )

    @property
    def _chips(self) -> int:
        return math.prod(map(int, self.topology.split("x")))

    @property
    def _hosts(self) -> int:
        return max(1, self._chips // self.chips_per_host)

    # ------------------------------------------------------------------------------------ the run

    def _follow(self, job: Job) -> Step:
        first = "jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
        selector = f"{self._of(job)[0]},{first}"
        logs = ("logs", "--follow", "--tail=50", "--ignore-errors", f"--container={CONTAINER}")
        return Follow(
            why="follow the first pod's log",
            argv=self._kubectl(*logs, selector),
            state=self._state(job),
            over=ENDS,
            again=True,  # a pod may be replaced
            seconds=self.poll_seconds,
        )

    def _outcome(self, job: Job) -> Step:
        """JobSet only knows success or failure; the exit code is in the log and the pods."""
        state = self._state(job)
        return Outcome(
            why="ask how it ended", argv=state, words=tuple(zip(ENDS, (0, 1), strict=True))
        )

    def _state(self, job: Job) -> Argv:
        path = '{.status.conditions[?(@.status=="True")].type}'
        return self._kubectl("get", "jobset", job.name, "-o", f"jsonpath={path}")

    def _of(self, job: Job) -> tuple[str]:
        return (f"--selector=jobset.sigs.k8s.io/jobset-name={job.name}",)

    def _kubectl(self, *words: str) -> Argv:
        context = (f"--context={self.context}",) if self.context else ()
        return ("kubectl", *context, f"--namespace={self.namespace}", *words)
