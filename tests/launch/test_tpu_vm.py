"""A pod's whole life against a stand-in gcloud: queue, train, preemption, failures, deletion."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, SECRET

from jaxlm.core.config import UserError
from jaxlm.core.exit_codes import DONE, LOST, MISTAKE
from jaxlm.launch import remote
from jaxlm.launch.job import Job
from jaxlm.launch.steps import WriteFile
from jaxlm.launch.target import load_target
from jaxlm.run import load_run

POD = """
type: tpu_vm
zone: us-east5-a
accelerator_type: v5p-32
runtime_version: v2-alpha-tpuv5
provisioning: spot
bucket: gs://my-runs
poll_seconds: 0.05
"""
GONE = ("NOT_FOUND", 1, None)
ACTIVE = ("ACTIVE", 0, None)
FOLLOWED = r"--worker=0 .*follow.sh"


def words(standins, *parts: str) -> list[str]:
    """What was called, each as the first of `parts` that it contains."""
    lines = standins.lines()
    return [next(p for p in parts if p in line) for line in lines if any(p in line for p in parts)]


def pod(standins: Callable, *states: tuple, outcome: str = "jaxlm-exit 0\njaxlm-checkpoint 7"):
    gcloud = standins("gcloud")
    gcloud.answers(r"queued-resources describe", *states)
    gcloud.answer(r"outcome.sh --", outcome)
    return gcloud


def test_from_the_queue_to_the_end(standins: Callable, launch: Callable, tmp_path: Path) -> None:
    gcloud = pod(
        standins, GONE, ("WAITING_FOR_RESOURCES", 0, None), ("PROVISIONING", 0, None), ACTIVE
    )
    gcloud.answer(FOLLOWED, "step 7 of the log")
    code, told = launch(POD)
    assert code == DONE and "step 7 of the log" in told
    order = (
        "queued-resources create",
        "mkdir",
        " scp ",
        "setup.sh --",
        "start.sh --",
        "follow.sh --",
        "outcome.sh --",
        "queued-resources delete",
    )
    assert words(gcloud, *order) == list(order)
    (create,) = gcloud.lines("create")
    for word in (
        "--node-id=transformer",
        "--accelerator-type=v5p-32",
        "--spot",
        "--runtime-version=v2-alpha-tpuv5",
        "--zone=us-east5-a",
    ):
        assert word in create.split()
    assert all("--worker=all" in line for line in gcloud.lines("start.sh --"))
    assert told.count("WAITING_FOR_RESOURCES") == 1 and "PROVISIONING" in told
    (sent,) = (files for files in gcloud.files if files)
    config = tmp_path / "sent.yaml"
    config.write_text(sent[".jaxlm-launch/transformer/run.yaml"][1])
    found = load_run(config).config
    assert found.train.steps == 7, "the override is in it"
    assert found.run_dir == "/mnt/jaxlm/runs/transformer"


def test_what_is_printed_can_be_pasted_and_is_what_is_run(
    standins: Callable, launch: Callable, tmp_path: Path
) -> None:
    """bash and a dry run's text make the very calls that the launch makes."""
    gcloud = pod(standins, GONE, ACTIVE)
    code, script = launch(POD + "secrets: [WANDB_API_KEY]", "--dry-run")
    assert code == DONE and gcloud.calls == [] and not (tmp_path / ".jaxlm-launch").exists()
    assert SECRET not in script
    done = subprocess.run(["bash", "-uc", script], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    pasted = [c for c in gcloud.calls if "stop.sh --" not in " ".join(c)]
    files = gcloud.files
    gcloud.reset()
    assert launch(POD + "secrets: [WANDB_API_KEY]")[0] == DONE
    looks = {"describe"}  # while it follows, it looks as often as it likes
    assert [c for c in gcloud.calls if not looks & set(c)] == [
        c for c in pasted if not looks & set(c)
    ]
    assert [f for f in gcloud.files if f] == [f for f in files if f]


def test_a_preempted_pod_is_deleted_queued_again_and_trained_on(
    standins: Callable, launch: Callable
) -> None:
    """However often, and whichever way it is reported: it costs nothing of the budget."""
    states = [GONE, ACTIVE]
    for word in ("SUSPENDED", "SUSPENDING", "FAILED"):
        states += [(word, 0, None), GONE, ACTIVE]
    gcloud = pod(standins, *states)
    gcloud.answers(FOLLOWED, *[("", 0, "sleep 30")] * 3, ("", 0, None))
    code, told = launch(POD + "max_restarts: 0")
    assert code == DONE
    order = ("create", "start.sh --", "delete")
    assert words(gcloud, *order) == list(order) * 4
    for word in ("SUSPENDED", "SUSPENDING", "FAILED"):
        assert f"the machines are gone: {word}" in told


def test_a_pod_that_is_lost_while_it_installs_is_made_again(
    standins: Callable, launch: Callable
) -> None:
    gcloud = pod(standins, GONE, ACTIVE, ("SUSPENDED", 0, None), GONE, ACTIVE)
    gcloud.answers(r"setup.sh --", *[("", 255, None)] * 4, ("", 0, None))
    assert launch(POD)[0] == DONE
    assert words(gcloud, "create", "delete", "start.sh --") == [
        "create",
        "delete",
        "create",
        "start.sh --",
        "delete",
    ]


def test_a_mistake_is_not_tried_again(standins: Callable, launch: Callable) -> None:
    """One host in three knows of it; those that heard of it from others say so."""
    outcome = f"jaxlm-exit {LOST}\njaxlm-exit {MISTAKE}\njaxlm-checkpoint 0"
    gcloud = pod(standins, GONE, ACTIVE, outcome=outcome)
    code, _ = launch(POD)
    assert code == MISTAKE
    assert words(gcloud, "create", "start.sh --", "delete") == ["create", "start.sh --", "delete"]


def test_a_failure_starts_again_on_the_same_pod_as_long_as_there_is_progress(
    standins: Callable, launch: Callable
) -> None:
    gcloud = standins("gcloud")
    gcloud.answers(r"queued-resources describe", GONE, ACTIVE)
    steps = (0, 4, 4, 8, 8, 8)  # two in a row without a newer one are too many
    gcloud.answer(r"outcome.sh --", *(f"jaxlm-exit 1\njaxlm-checkpoint {step}" for step in steps))
    code, told = launch(POD + "max_restarts: 2")
    assert code == 1 and "no newer checkpoint in 2 restarts" in told
    found = words(gcloud, "create", "start.sh --", "stop.sh --", "delete")
    assert found == ["create", *["start.sh --", "stop.sh --"] * 5, "start.sh --", "delete"]


def test_a_broken_connection_is_made_again(standins: Callable, launch: Callable) -> None:
    gcloud = pod(standins, GONE, ACTIVE)
    gcloud.answers(FOLLOWED, ("", 255, None), ("", 255, None), ("the rest", 0, None))
    code, told = launch(POD)
    assert code == DONE and "the rest" in told
    assert len(gcloud.lines("follow.sh --")) == 3 and len(gcloud.lines("start.sh --")) == 1


def test_a_log_that_cannot_be_followed_fails_unless_it_is_our_own_network(
    standins: Callable, launch: Callable
) -> None:
    """A run continues while this machine is offline; nothing is stopped or deleted."""
    offline = ("", 1, None)
    gcloud = pod(standins, GONE, ACTIVE, *[offline] * 20, ACTIVE)
    gcloud.answers(FOLLOWED, *[("", 255, None)] * 8, ("the rest", 0, None))
    code, told = launch(POD, "--set", "poll_seconds=5", "--set", "max_restarts=0")
    assert code == DONE and "the rest" in told and gcloud.lines("stop.sh --") == []
    gcloud = pod(standins, GONE, ACTIVE)
    gcloud.answer(FOLLOWED, code=255)
    code, told = launch(POD, "--set", "poll_seconds=5", "--set", "max_restarts=0")
    assert code == 1 and "ended 5 times with code 255" in told


def test_a_pod_that_is_there_is_taken(standins: Callable, launch: Callable) -> None:
    gcloud = pod(standins, ACTIVE)
    assert launch(POD)[0] == DONE
    assert gcloud.lines("create") == []


def test_what_cannot_be_made_is_reported_and_nothing_is_deleted(
    standins: Callable, launch: Callable
) -> None:
    gcloud = standins("gcloud")
    gcloud.answer(r"describe", code=1)
    gcloud.answer(r"create", "ERROR: quota exceeded", code=1)
    code, told = launch(POD)
    assert code == 1 and "quota exceeded" in told and "ended with exit code 1" in told
    assert gcloud.lines("delete") == []


@pytest.mark.parametrize(
    ("action", "calls"),
    [
        ("queue", ["queued-resources create"]),
        ("create", ["queued-resources create"]),
        ("run", [" scp ", "start.sh --", "follow.sh --", "outcome.sh --"]),
        ("logs", ["follow.sh --"]),
        ("status", ["describe"]),
        ("delete", ["queued-resources delete"]),
    ],
)
def test_actions(standins: Callable, launch: Callable, action: str, calls: list[str]) -> None:
    states = (GONE, ACTIVE) if action in ("queue", "create") else (ACTIVE,)
    gcloud = pod(standins, *states)
    assert launch(POD, "--action", action)[0] == DONE
    every = (
        "queued-resources create",
        " scp ",
        "start.sh --",
        "follow.sh --",
        "outcome.sh --",
        "queued-resources delete",
    )
    assert words(gcloud, *(("describe",) if action == "status" else every)) == calls


def test_without_a_queue(standins: Callable, launch: Callable) -> None:
    gcloud = standins("gcloud")
    gcloud.answers(r"tpu-vm describe", GONE, ("CREATING", 0, None), ("READY", 0, None))
    gcloud.answer(r"outcome.sh --", "jaxlm-exit 0\njaxlm-checkpoint 7")
    settings = ("--set", "queued=false", "--set", "provisioning=on_demand")
    assert launch(POD, *settings)[0] == DONE
    assert words(gcloud, "tpu-vm create", "start.sh --", "tpu-vm delete") == [
        "tpu-vm create",
        "start.sh --",
        "tpu-vm delete",
    ]
    (create,) = gcloud.lines("create")
    assert "--version=v2-alpha-tpuv5" in create and "--spot" not in create
    assert gcloud.lines("queued-resources") == []


def test_secrets_are_never_seen(standins: Callable, launch: Callable, tmp_path: Path) -> None:
    """Not in a command or a line, even where a host prints one; in a file of mode 600 alone."""
    gcloud = pod(standins, GONE, ACTIVE)
    gcloud.answer(FOLLOWED, f"wandb: key is {SECRET}")
    code, told = launch(POD + "secrets: [WANDB_API_KEY]")
    assert code == DONE
    assert "wandb: key is ***" in told
    assert SECRET not in told and SECRET not in gcloud.everything
    (sent,) = (files for files in gcloud.files if files)
    mode, text = sent[".jaxlm-launch/transformer/secrets.env"]
    assert (mode, text) == ("0o600", f"export WANDB_API_KEY={SECRET}\n")
    assert not (tmp_path / ".jaxlm-launch/transformer/secrets.env").exists()
    left = [p.read_text() for p in (tmp_path / ".jaxlm-launch").rglob("*") if p.is_file()]
    assert left and all(SECRET not in text for text in left)


def test_the_source_is_sent_as_one_archive(standins: Callable, launch: Callable) -> None:
    gcloud = pod(standins, GONE, ACTIVE)
    assert launch(POD + f"source: {ROOT / 'launch'}")[0] == DONE
    assert "source.tar.gz" in gcloud.lines(" scp ")[0]
    names = subprocess.run(
        ["tar", "-tzf", ".jaxlm-launch/transformer/source.tar.gz"], capture_output=True, text=True
    ).stdout
    assert "./tpu_vm.yaml" in names


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("bucket: gs://my-runs", ""), "bucket, shared_dir: set exactly one of the two"),
        (("gs://my-runs", "my-runs"), "write gs://NAME"),
        (("zone: us-east5-a", "zones: us-east5-a"), "zones: unknown key; did you mean zone"),
        (("zone: us-east5-a", ""), "zone: is required"),
        (("type: tpu_vm", "type: tpu"), "type: unknown type 'tpu'; did you mean tpu_vm"),
        (("provisioning: spot", "provisioning: spott"), "did you mean spot"),
        (("provisioning: spot", "env: {HF_TOKEN: abc}"), "HF_TOKEN looks like a secret"),
        (("provisioning: spot", "secrets: [NO_SUCH_THING]"), "NO_SUCH_THING: not set"),
        (("provisioning: spot", "name: My_Pod"), "'My_Pod' is not a name for a machine"),
        (("provisioning: spot", "reservation: mine"), "reservation: needs provisioning"),
    ],
)
def test_mistakes(standins: Callable, launch: Callable, change: tuple, says: str) -> None:
    gcloud = pod(standins, ACTIVE)
    code, told = launch(POD.replace(*change))
    assert code == MISTAKE and says in told and told.count("\n") == 1, told
    assert gcloud.calls == []


def test_a_run_folder_that_would_be_lost_is_refused(standins: Callable, launch: Callable) -> None:
    pod(standins, ACTIVE)
    code, told = launch(POD, "run_dir=/tmp/a")
    assert code == MISTAKE and "not on the storage that outlives the machines" in told
    assert launch(POD, "run_dir=/mnt/jaxlm/a", "--dry-run")[0] == DONE


def test_a_tool_that_is_not_there(launch: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, told = launch(POD)
    assert code == MISTAKE and "gcloud: not found" in told


# ------------------------------------------------------------------------- the scripts of the hosts


def host(folder: Path, program: str) -> Callable[[str], str]:
    """A host's folder with the scripts, and a stand-in for python; runs a script there."""
    python = folder / "jaxlm-venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/bash\n{program}\n")
    python.chmod(0o755)
    there = folder / "jaxlm-launch/a"
    there.mkdir(parents=True)
    text = POD + "secrets: [WANDB_API_KEY]\nenv: {A: it's b}\n" + f"mount: {folder}/mnt\n"
    (folder / "pod.yaml").write_text(text)
    plan = load_target(str(folder / "pod.yaml")).plan(Job.of({"run_dir": "runs/a"}, "a"))
    for step in plan.attempt:
        if isinstance(step, WriteFile):
            (there / step.path.name).write_text(step.text)
    (there / "secrets.env").write_text(f"export WANDB_API_KEY={SECRET}\n")

    def run(script: str) -> str:
        done = subprocess.run(
            ["bash", f"jaxlm-launch/a/{script}.sh"],
            cwd=folder,
            env={**os.environ, "HOME": str(folder)},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done
        return done.stdout

    return run


def test_a_host_trains_and_reports_the_outcome(tmp_path: Path) -> None:
    run = host(tmp_path, 'echo "$A|$WANDB_API_KEY|$*"; exit 69')
    (tmp_path / "mnt/runs/a/checkpoints/00000012").mkdir(parents=True)
    (tmp_path / "mnt/runs/a/checkpoints/00000008").mkdir()
    (tmp_path / "mnt/runs/a/checkpoints/00000016.saving").mkdir()
    run("start")
    assert run("outcome") == "jaxlm-exit 69\njaxlm-checkpoint 12\n"
    assert run("follow") == f"it's b|{SECRET}|-u -m jaxlm train run.yaml\n"
    run("start")
    run("outcome")
    assert run("follow").count("train run.yaml") == 2, "a new start adds to the log"


def test_a_run_that_continues_is_left_alone_and_what_hangs_is_ended(tmp_path: Path) -> None:
    run = host(tmp_path, "echo started; sleep 60 & wait")
    run("start")
    log = tmp_path / "jaxlm-launch/a/log.txt"
    limit = time.monotonic() + 10
    while "started" not in log.read_text() and time.monotonic() < limit:
        time.sleep(0.01)
    assert run("start") == "already running\n"
    pid = int((tmp_path / "jaxlm-launch/a/pid").read_text())
    run("stop")
    with pytest.raises(ProcessLookupError):
        for _ in range(500):
            os.killpg(pid, 0)
            time.sleep(0.01)
    run("stop")


@pytest.mark.parametrize("bucket", [None, "gs://my-runs"])
@pytest.mark.parametrize("archive", [None, "source.tar.gz"])
def test_the_setup_is_a_sound_script(bucket: str | None, archive: str | None) -> None:
    text = remote.setup_script("jaxlm[tpu]", archive, bucket, "/mnt/a b")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert ("gcsfuse" in text) == (bucket is not None)
    assert ("./source[tpu]" in text) == (archive is not None)
    assert re.search(r"python 3\.1[1-9]", text)


def test_bare_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="needs zone, accelerator_type, .*launch/tpu_vm.yaml"):
        load_target("tpu_vm")
    said = "'tpu_wm' is not a target or a launch file; did you mean tpu_vm"
    with pytest.raises(UserError, match=said):
        load_target("tpu_wm")
    assert json.dumps(load_target("local", ["processes=1"]).env) == "{}"
