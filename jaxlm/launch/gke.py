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
from typing import Any

from jaxlm.core.chips import cloud_chip
from jaxlm.core.config import REQUIRED, UserError, field
from jaxlm.core.config_yaml import dump_yaml
from jaxlm.core.exit_codes import DONE, FINAL
from jaxlm.launch.chips import Chips
from jaxlm.launch.job import Job
from jaxlm.launch.names import check_absolute, check_word
from jaxlm.launch.shell import join
from jaxlm.launch.steps import Argv, Command, Follow, Outcome, Step, WriteFile
from jaxlm.launch.target import LaunchConfig, Plan

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

    def plan(self, job: Job) -> Plan:
        manifest = job.stage / "jobset.yaml"
        text = dump_yaml(self._config_map(job), self.jobset(job))
        write = WriteFile(why="write the manifest", path=manifest, text=text)
        argv = self._kubectl("apply", "-f", str(manifest))
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
        return Plan(
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

    def _config_map(self, job: Job) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": job.name, "namespace": self.namespace},
            "data": {"run.yaml": job.config_under(self.mount)},
        }

    def jobset(self, job: Job) -> dict[str, Any]:
        """The JobSet as plain values."""
        labels = {"xpk.google.com/workload": job.name}
        queue = {"kueue.x-k8s.io/queue-name": self.queue} if self.queue else {}
        final = sorted(FINAL - {DONE})
        return {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {
                "name": job.name,
                "namespace": self.namespace,
                "labels": {**queue, **labels},
                # each slice on one node pool
                "annotations": {
                    "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
                },
            },
            "spec": {
                "failurePolicy": {
                    "maxRestarts": self.max_restarts,
                    "rules": [
                        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
                    ],
                },
                "replicatedJobs": [
                    {
                        "name": REPLICATED,
                        "replicas": self.slices,
                        "template": {
                            "spec": {
                                "parallelism": self._hosts,
                                "completions": self._hosts,
                                "completionMode": "Indexed",
                                "backoffLimit": 0,
                                "podFailurePolicy": {
                                    "rules": [
                                        {
                                            "action": "FailJob",
                                            "onExitCodes": {
                                                "containerName": CONTAINER,
                                                "operator": "In",
                                                "values": final,
                                            },
                                        }
                                    ]
                                },
                                "template": self._pod(job, labels),
                            }
                        },
                    }
                ],
            },
        }

    def _pod(self, job: Job, labels: dict[str, str]) -> dict[str, Any]:
        spot = {"cloud.google.com/gke-spot": "true"} if self.spot else {}
        chips = {"google.com/tpu": min(self.chips_per_host, self._chips)}
        storage: dict[str, Any] = {"persistentVolumeClaim": {"claimName": self.claim}}
        metadata: dict[str, Any] = {"labels": labels}
        if self.bucket is not None:
            metadata["annotations"] = {"gke-gcsfuse/volumes": "true"}
            options = "implicit-dirs,rename-dir-limit=100000"
            attributes = {"bucketName": self.bucket, "mountOptions": options}
            driver = "gcsfuse.csi.storage.gke.io"
            storage = {"csi": {"driver": driver, "volumeAttributes": attributes}}
        container = {
            "name": CONTAINER,
            "image": self.image,
            "command": ["python", "-u", "-m", "jaxlm", "train", f"{CONFIG_DIR}/run.yaml"],
            "env": self._environment(job),
            # jax's coordinator, and libtpu's between slices
            "ports": [{"containerPort": port} for port in (8482, PORT)],
            "resources": {"requests": chips, "limits": chips},
            "volumeMounts": [
                {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
                {"name": "runs", "mountPath": self.mount},
            ],
        }
        account = {"serviceAccountName": self.service_account} if self.service_account else {}
        priority = {"priorityClassName": self.priority} if self.priority else {}
        return {
            "metadata": metadata,
            "spec": {
                "restartPolicy": "Never",
                **account,
                **priority,
                "terminationGracePeriodSeconds": self.grace_seconds,
                "nodeSelector": {
                    "cloud.google.com/gke-tpu-accelerator": self.accelerator,
                    "cloud.google.com/gke-tpu-topology": self.topology,
                    **spot,
                },
                "containers": [container],
                "volumes": [
                    {"name": "config", "configMap": {"name": job.name}},
                    {"name": "runs", **storage},
                ],
            },
        }

    def _environment(self, job: Job) -> list[dict[str, Any]]:
        """The variables of a pod. GKE sets those of its slice; those across slices are set here."""
        # Kubernetes reads $(NAME) in a value as a reference, and $$ as $.
        plain = [{"name": n, "value": v.replace("$", "$$")} for n, v in self.env.items()]
        several: list[dict[str, Any]] = []
        if self.slices > 1:
            first = f"{job.name}-{REPLICATED}-0-0.{job.name}"  # pod 0 of slice 0, by JobSet's DNS
            slice_id = "metadata.labels['jobset.sigs.k8s.io/job-index']"
            several = [
                {"name": "MEGASCALE_COORDINATOR_ADDRESS", "value": f"{first}:{PORT}"},
                {"name": "MEGASCALE_NUM_SLICES", "value": str(self.slices)},
                {
                    "name": "MEGASCALE_SLICE_ID",
                    "valueFrom": {"fieldRef": {"fieldPath": slice_id}},
                },
            ]
        secret = [
            {
                "name": name,
                "valueFrom": {"secretKeyRef": {"name": self.secret_name, "key": name}},
            }
            for name in self.secrets
        ]
        return [*plain, *several, *secret]

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
