"""GKE, Slurm and SkyPilot against stand-ins: what they are handed, followed, and ended with."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, SECRET, SMOKE

from jaxlm import cli
from jaxlm.cli.shared.parsing import parse
from jaxlm.core.exit_codes import DONE, HUNG, INTERRUPTED, LOST, MISTAKE

GKE = """
type: gke
image: registry/jaxlm:1
accelerator: tpu-v5p-slice
topology: 2x2x4
slices: 2
bucket: my-runs
secrets: [WANDB_API_KEY]
env: {JAX_TRACEBACK_FILTERING: "off"}
poll_seconds: 0.05
"""
SLURM = """
type: slurm
nodes: 2
partition: gpu
secrets: [WANDB_API_KEY]
setup: ["export FROM_SETUP=yes"]
max_restarts: 2
poll_seconds: 0.1
"""
SKY = """
type: skypilot
accelerators: H100:8
num_nodes: 2
use_spot: true
bucket: gs://my-runs
secrets: [WANDB_API_KEY]
"""


def pasted(script: str) -> None:
    done = subprocess.run(["bash", "-uc", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done


# --------------------------------------------------------------------------------------------- GKE


JOBSET = r"get jobset transformer -o jsonpath"


def gke(standins: Callable, *states: str) -> Any:
    kubectl = standins("kubectl")
    if states:
        kubectl.answer(JOBSET, *states)
    kubectl.answer(r" logs ", "step 7 of the log")
    return kubectl


@pytest.mark.parametrize(("word", "code"), [("Completed", DONE), ("Failed", 1)])
def test_a_jobset_is_followed_until_it_has_ended(
    standins: Callable, launch: Callable, word: str, code: int
) -> None:
    """Logs end when pods are started again: the run has not ended."""
    kubectl = gke(standins)
    followed = f"""[ $(grep -c '"logs"' {kubectl.folder}/calls) -ge 3 ] && echo {word}; true"""
    starting = ("StartupPolicyCompleted", 0, followed)  # until logs have ended twice
    kubectl.answers(JOBSET, ("", 0, None), ("", 0, None), starting)
    found, told = launch(GKE)
    assert found == code and told.count("step 7 of the log") >= 2
    verbs = [next(v for v in ("apply", "delete", "logs", "get") if v in c) for c in kubectl.calls]
    assert verbs[0] == "get" and verbs[1] == "apply" and "delete" not in verbs
    assert SECRET not in told + kubectl.everything


def test_an_earlier_set_that_has_ended_makes_room(standins: Callable, launch: Callable) -> None:
    kubectl = gke(standins, "Failed", "", "Completed")
    assert launch(GKE)[0] == DONE
    (delete,) = kubectl.lines(" delete ")
    assert "delete jobset transformer" in delete


def test_the_manifest(standins: Callable, launch: Callable, tmp_path: Path) -> None:
    kubectl = gke(standins, "", "Completed")
    assert launch(GKE)[0] == DONE
    (files,) = [files for files in kubectl.files if files]
    config, jobset = yaml.safe_load_all(files[".jaxlm-launch/transformer/jobset.yaml"][1])
    run = yaml.safe_load(config["data"]["run.yaml"])
    assert (config["kind"], config["metadata"]["name"]) == ("ConfigMap", "transformer")
    assert run["run_dir"] == "/mnt/jaxlm/runs/transformer" and run["train"]["steps"] == 7
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    # what xpk's list and delete look for
    labels = jobset["metadata"]["labels"]
    assert labels["xpk.google.com/workload"] == jobset["metadata"]["name"] == "transformer"
    assert labels["kueue.x-k8s.io/queue-name"] == "multislice-queue"
    assert jobset["metadata"]["namespace"] == "default"
    spec = jobset["spec"]
    assert spec["failurePolicy"]["maxRestarts"] == 20
    (job,) = spec["replicatedJobs"]
    assert (job["name"], job["replicas"]) == ("slice-job", 2)
    inner = job["template"]["spec"]
    assert inner["parallelism"] == inner["completions"] == 4  # 16 chips, four a host
    assert inner["backoffLimit"] == 0
    (rule,) = inner["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert set(rule["onExitCodes"]["values"]) == {2, 65, 74, 130}
    assert spec["failurePolicy"]["rules"] == [
        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    pod = inner["template"]["spec"]
    assert inner["template"]["metadata"]["labels"] == {"xpk.google.com/workload": "transformer"}
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "2x2x4",
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    arguments = parse(container["command"][4:])
    assert (arguments.info_name, arguments.params["config"]) == ("train", "/etc/jaxlm/run.yaml")
    given = {e["name"]: e.get("value", e.get("valueFrom")) for e in container["env"]}
    assert given["WANDB_API_KEY"] == {"secretKeyRef": {"name": "jaxlm", "key": "WANDB_API_KEY"}}
    assert given["MEGASCALE_NUM_SLICES"] == "2"
    assert given["MEGASCALE_COORDINATOR_ADDRESS"] == "transformer-slice-job-0-0.transformer:8080"
    assert "job-index" in given["MEGASCALE_SLICE_ID"]["fieldRef"]["fieldPath"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"config": "/etc/jaxlm", "runs": "/mnt/jaxlm"}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)


def test_one_slice_on_a_claim_without_kueue(launch: Callable) -> None:
    text = GKE.replace("slices: 2", "queue: null").replace("bucket: my-runs", "claim: disk")
    code, script = launch(text.replace("2x2x4", "2x2"), "--dry-run")
    assert code == DONE
    assert "MEGASCALE" not in script and "kueue" not in script and "gcsfuse" not in script
    assert "claimName: disk" in script and "parallelism: 1\n" in script


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("bucket: my-runs", ""), "bucket, claim: set exactly one of the two"),
        (("2x2x4", "16"), "topology: "),
        (("2x2x4", "2x3"), "chips_per_host: 4 does not divide the 6 chips"),
    ],
)
def test_mistakes_of_gke(launch: Callable, change: tuple, says: str) -> None:
    code, told = launch(GKE.replace(*change), "--dry-run")
    assert code == MISTAKE and says in told


# ------------------------------------------------------------------------------------------- Slurm

# A queue of one: sbatch runs the script immediately, again and again while it asks to be requeued.
SBATCH = """
script=$1
touch queued
(
    export SLURM_JOB_ID=11
    while true; do
        rm -f requeued
        bash "$script" >> .jaxlm-launch/transformer/log.txt 2>&1
        [ -f requeued ] || break
    done
    rm -f queued
) > /dev/null 2>&1 &
"""


def slurm(standins: Callable, *srun: tuple[str, int, str | None]) -> Any:
    made = standins("sbatch", "squeue", "srun", "scontrol", "scancel")
    made.answer(r"^sbatch", "Submitted batch job 11", run=SBATCH)
    made.answer(r"^squeue .*--format", run="[ -f queued ] && echo RUNNING || true")
    made.answer(r"^scontrol requeue 11", run="touch requeued")
    made.answers(r"^srun", *srun)
    return made


def checkpoint(step: int) -> str:
    return f"mkdir -p runs/transformer/checkpoints/{step:08d}; exit 1"


def test_a_job_is_submitted_followed_and_ends(standins: Callable, launch: Callable) -> None:
    made = slurm(standins, ("", 0, 'echo "step 7, $FROM_SETUP"; exit 0'))
    code, told = launch(SLURM)
    assert code == DONE and "step 7, yes" in told, told
    assert len(made.lines("sbatch")) == len(made.lines("srun")) == 1
    (srun,) = (made.calls[[c[0] for c in made.calls].index("srun")],)
    arguments = parse(srun[srun.index("jaxlm") + 1 :])
    assert (arguments.info_name, arguments.params["config"]) == (
        "train",
        ".jaxlm-launch/transformer/run.yaml",
    )
    script = Path(".jaxlm-launch/transformer/job.sh").read_text()
    for option in (
        "--requeue",
        "--signal=B:TERM@120",
        "--nodes=2",
        "--partition=gpu",
        "--export=ALL,WANDB_API_KEY",
        "--dependency=singleton",
    ):
        assert f"#SBATCH {option}\n" in script
    assert SECRET not in told + made.everything + script


@pytest.mark.parametrize("code", [MISTAKE, 65, 74])
def test_what_has_to_be_fixed_is_not_requeued(
    standins: Callable, launch: Callable, code: int
) -> None:
    made = slurm(standins, ("", code, None))
    assert launch(SLURM)[0] == code
    assert made.lines("scontrol") == []


def test_stops_that_saved_are_requeued_and_failures_as_long_as_there_is_progress(
    standins: Callable, launch: Callable
) -> None:
    """Two failures without a newer checkpoint are allowed, however many stops there are."""
    stop, fail = ("", INTERRUPTED, None), ("", LOST, None)
    saved = [("", 0, checkpoint(8)), fail, ("", 0, checkpoint(16))]
    made = slurm(standins, stop, fail, stop, stop, fail, stop, *saved, fail, fail, fail)
    code, _ = launch(SLURM)
    assert code == LOST
    # 6 + 3, then two more are allowed after that of checkpoint 16, which counts itself
    assert len(made.lines("srun")) == 11 and len(made.lines("scontrol")) == 10
    assert not Path(".jaxlm-launch/transformer/restarts").exists()


def test_a_warning_reaches_the_run_which_saves_and_is_requeued(
    standins: Callable, launch: Callable, tmp_path: Path
) -> None:
    """The script's own handling of SIGTERM, with a run that needs a while to save."""
    waits = "trap 'sleep 0.3; exit 75' TERM; touch started; while true; do sleep 0.05; done"
    made = slurm(standins, ("", 0, 'exec -a run bash -c "$0"'))
    srun = made.bin / "srun"
    srun.write_text(f"#!/bin/bash\n{waits}\n")
    assert launch(SLURM, "--dry-run")[0] == DONE
    code, script = launch(SLURM, "--dry-run")
    head, _, _ = script.partition("# remove an earlier outcome")
    pasted(head)
    job = subprocess.Popen(
        ["bash", ".jaxlm-launch/transformer/job.sh"],
        env={**os.environ, "SLURM_JOB_ID": "11"},
        stdout=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + 10
    while not Path("started").exists() and time.monotonic() < limit:
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    told, _ = job.communicate(timeout=20)
    assert job.returncode == INTERRUPTED
    assert f"exit code {INTERRUPTED}; back into the queue" in told
    assert made.lines("scontrol") == ["scontrol requeue 11"]


def test_a_job_in_the_queue_is_not_submitted_twice(standins: Callable, launch: Callable) -> None:
    made = slurm(standins)
    Path("queued").touch()
    assert launch(SLURM, "--action", "create")[0] == DONE
    assert made.lines("sbatch") == []
    assert launch(SLURM, "--action", "delete")[0] == DONE
    assert made.calls[-1] == ["scancel", "--name=transformer", "--me"]
    assert launch(SLURM, "--action", "status")[0] == DONE
    assert made.calls[-1][0] == "squeue"


# ---------------------------------------------------------------------------------------- SkyPilot


def test_a_managed_job(standins: Callable, launch: Callable) -> None:
    sky = standins("sky")
    sky.answer(r"jobs logs", "step 7 of the log")
    code, told = launch(SKY)
    assert code == DONE and "step 7 of the log" in told, told
    submit, logs = sky.calls
    assert submit[:4] == ["sky", "jobs", "launch", "--detach-run"]
    assert submit[submit.index("--secret") + 1] == "WANDB_API_KEY"
    assert logs == ["sky", "jobs", "logs", "--name", "transformer"]
    task = yaml.safe_load(sky.files[0][".jaxlm-launch/transformer/task.yaml"][1])
    assert task["num_nodes"] == 2 and task["secrets"] == {"WANDB_API_KEY": None}
    assert task["resources"]["use_spot"] is True
    recovery = {"max_restarts_on_errors": 0, "recover_on_exit_codes": [INTERRUPTED]}
    assert task["resources"]["job_recovery"] == recovery
    assert task["file_mounts"]["/mnt/jaxlm"] == {"source": "gs://my-runs", "mode": "MOUNT"}
    run = Path(task["file_mounts"]["~/jaxlm-run.yaml"]).read_text()
    assert "run_dir: /mnt/jaxlm/runs/transformer" in run
    assert SECRET not in told + sky.everything
    assert launch(SKY, "--action", "delete")[0] == DONE
    assert sky.calls[-1] == ["sky", "jobs", "cancel", "--name", "transformer", "--yes"]


def test_the_nodes_of_a_managed_job_meet_at_the_first(
    standins: Callable, launch: Callable, tmp_path: Path
) -> None:
    """The run's lines, as a node runs them."""
    assert launch(SKY, "--dry-run")[0] == DONE
    sky = standins("sky")
    assert launch(SKY, "--action", "create")[0] == DONE
    task = yaml.safe_load(sky.files[0][".jaxlm-launch/transformer/task.yaml"][1])
    python = tmp_path / "jaxlm-venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/bash\necho "$JAXLM_COORDINATOR $JAXLM_NUM_PROCESSES $JAXLM_PROCESS_ID $*"\n'
    )
    python.chmod(0o755)
    node = {
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(["bash", "-c", task["run"]], env=node, capture_output=True, text=True)
    assert done.stdout == f"10.0.0.1:8476 2 1 -u -m jaxlm train {tmp_path}/jaxlm-run.yaml\n"
    subprocess.run(["bash", "-n"], input=task["setup"], text=True, check=True)


class SkyJob:
    """A managed job of one node, as SkyPilot's controller starts it again and again."""

    def __init__(self, standins: Callable, launch: Callable, folder: Path, program: str) -> None:
        """`program`: what stands in for jaxlm, in bash; $attempt counts from 0."""
        self.folder = folder
        sky = standins("sky")
        settings = ("--set", f"mount={folder}/bucket", "--set", "max_restarts=2")
        assert launch(SKY, "--action", "create", *settings)[0] == DONE
        self.task = yaml.safe_load(sky.files[0][".jaxlm-launch/transformer/task.yaml"][1])
        python = folder / "jaxlm-venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(
            f"#!/bin/bash\nattempt=$(cat {folder}/attempts 2>/dev/null | wc -c)\n"
            f"save() {{ mkdir -p {folder}/bucket/runs/transformer/checkpoints/$1; }}\n"
            f"printf x >> {folder}/attempts\n{program}\n"
        )
        python.chmod(0o755)

    def start(self, job: int = 1) -> subprocess.Popen:
        environment = {
            "HOME": str(self.folder),
            "PATH": os.environ["PATH"],
            "SKYPILOT_NODE_IPS": "10.0.0.1",
            "SKYPILOT_NUM_NODES": "1",
            "SKYPILOT_NODE_RANK": "0",
            "SKYPILOT_TASK_ID": f"sky-managed-{job}_transformer",
        }
        return subprocess.Popen(
            ["bash", "-c", self.task["run"]], env=environment, start_new_session=True
        )

    def run(self, job: int = 1) -> tuple[int, int]:
        """(exit code of the last start, starts)."""
        recovery, failures = self.task["resources"]["job_recovery"], 0
        for starts in range(1, 20):
            code = self.start(job).wait(timeout=20)
            if code in recovery["recover_on_exit_codes"]:
                continue
            failures += code != DONE
            if code == DONE or failures > recovery["max_restarts_on_errors"]:
                return code, starts
        raise AssertionError("it is started again for ever")


@pytest.mark.parametrize(
    ("program", "ends"),
    [
        ("exit 0", (DONE, 1)),
        *((f"exit {code}", (code, 3)) for code in (1, LOST, HUNG, 134)),
        ("kill -KILL $$", (137, 3)),
        *((f"exit {code}", (code, 1)) for code in (MISTAKE, 65, 74, 130)),
        (f"[ $attempt -lt 9 ] && exit {INTERRUPTED}; exit 0", (DONE, 10)),
        ("[ $attempt = 1 ] && exit 2; exit 1", (MISTAKE, 2)),
        ("save 0000000$attempt; [ $attempt -lt 8 ] && exit 1; exit 0", (DONE, 9)),
    ],
)
def test_skypilot_restarts_what_a_new_start_may_fix(
    standins: Callable, launch: Callable, tmp_path: Path, program: str, ends: tuple[int, int]
) -> None:
    """As often as every other target: by the budget, which a newer checkpoint renews."""
    job = SkyJob(standins, launch, tmp_path, program)
    assert job.run() == ends


def test_each_managed_job_has_its_own_budget(
    standins: Callable, launch: Callable, tmp_path: Path
) -> None:
    job = SkyJob(standins, launch, tmp_path, "exit 1")
    assert job.run(job=1) == (1, 3) and job.run(job=1) == (1, 1) and job.run(job=2) == (1, 3)


def test_a_managed_job_that_is_cancelled_saves(
    standins: Callable, launch: Callable, tmp_path: Path
) -> None:
    """SkyPilot sends SIGTERM to the script and to what it runs; one is enough for jaxlm."""
    program = f"trap 'echo told >> {tmp_path}/told; exit {INTERRUPTED}' TERM\n"
    program += f"touch {tmp_path}/ready; while true; do sleep 0.05; done"
    process = SkyJob(standins, launch, tmp_path, program).start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=20) == INTERRUPTED
    assert (tmp_path / "told").read_text() == "told\n"


# ---------------------------------------------------------------------------------- what all share


@pytest.mark.parametrize("name", ["gke", "slurm", "skypilot"])
def test_a_dry_run_can_be_pasted(standins: Callable, launch: Callable, name: str) -> None:
    """bash and the printed text hand over the same files by the same calls."""
    tools = {"gke": "kubectl", "slurm": "sbatch", "skypilot": "sky"}
    made = standins(tools[name], *(["squeue"] if name == "slurm" else []))
    made.answer("get jobset", "", "Completed")
    made.answer("^squeue", "")
    text = {"gke": GKE, "slurm": SLURM, "skypilot": SKY}[name]
    code, script = launch(text, "--action", "create", "--dry-run")
    assert code == DONE and made.calls == [] and not Path(".jaxlm-launch").exists()
    assert SECRET not in script
    pasted(script)
    calls, files = made.calls, made.files
    made.reset()
    assert launch(text, "--action", "create")[0] == DONE
    assert (made.calls, made.files) == (calls, files) and any(files)


@pytest.mark.parametrize("file", sorted((ROOT / "launch").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_launch_files(file: Path, capsys: pytest.CaptureFixture) -> None:
    """Each is executable, says so in its first line, and has a plan."""
    assert file.read_text().startswith("#!/usr/bin/env -S jaxlm launch\n# ")
    assert os.access(file, os.X_OK)
    assert cli.main(["launch", str(file), SMOKE, "--dry-run"]) == DONE
    assert len(capsys.readouterr().out.splitlines()) > 10


def test_an_action_that_a_target_has_not(launch: Callable) -> None:
    code, told = launch("type: local", "--action", "delete")
    assert code == MISTAKE and "--action: local has no 'delete'; choose one of run" in told
