"""Hostile texts in every field of every target: each is refused by name, or arrives unchanged.

What a launch prints and sends is given to a real bash with stand-in executables. A text that is
executed makes a file `canary`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from standins import Recorders

from jaxlm.core.config import UserError
from jaxlm.core.config_yaml import dump_yaml
from jaxlm.launch.job import Job
from jaxlm.launch.start import render
from jaxlm.launch.steps import WriteFile, command
from jaxlm.launch.target import load_target

HOSTILE = (
    "a$(touch canary)",
    "a$(touch${IFS}canary)",
    "a`touch canary`",
    "a;touch canary;",
    "a&touch canary&",
    "a&&touch canary",
    "a||touch canary",
    "a|touch canary",
    "a>canary",
    "a\ntouch canary\n",
    "a\n#SBATCH --wrap=canary",
    "a\rtouch canary\r",
    "a\ttouch canary",
    "a\0touch canary",
    "a\x1b]0;canary\x07",
    "a\x85touch canary",
    "a\u2028touch canary",
    "a\u2029touch canary",
    "a\ud800",
    "a'; touch canary; '",
    'a"; touch canary; "',
    "a'$(touch canary)'",
    "a b  c --d e",
    "-rf",
    "--help",
    "a*",
    "[a-z]?",
    "~",
    "~root",
    "a{b,c}",
    "$HOME",
    "${HOME}$$",
    "a\\",
    "a!!",
    "#a",
    "{run_dir}",
    "%s%n",
    "EOF",
    "ä😀",
    "yes",
    "x" * 300,
    "x" * 200_000,
)
TARGETS: dict[str, dict[str, str]] = {
    "tpu_vm": {
        "zone": "z",
        "accelerator_type": "v5p-32",
        "runtime_version": "v2",
        "bucket": "gs://b",
    },
    "gke": {"image": "i", "accelerator": "tpu-v5p-slice", "topology": "2x2x4", "bucket": "b"},
    "slurm": {},
    "skypilot": {"accelerators": "H100:8", "bucket": "gs://b"},
    "gpu_host": {"gpus": "[0, 1]", "process_per_gpu": "true"},
    "local": {"processes": "2", "devices": "1"},
}
# Where a field's text is found, as a whole word of a call, line of a script or leaf of a YAML.
FIELDS: dict[str, dict[str, str]] = {
    "tpu_vm": {
        "project": "--project={}",
        "zone": "--zone={}",
        "accelerator_type": "--accelerator-type={}",
        "runtime_version": "--runtime-version={}",
        "service_account": "--service-account={}",
        "network": "--network={}",
        "bucket": "{}",
        "mount": "{}",
        "requirement": "{}",
        "source": "{}",
    },
    "gke": {
        key: "{}"
        for key in ("image", "accelerator", "topology", "bucket", "mount", "service_account")
    }
    | {"queue": "{}", "priority": "{}", "namespace": "--namespace={}", "context": "--context={}"}
    | {"secret_name": "{}"},
    "slurm": {
        "memory": "#SBATCH --mem={}",
        "partition": "#SBATCH --partition={}",
        "account": "#SBATCH --account={}",
        "qos": "#SBATCH --qos={}",
        "time": "#SBATCH --time={}",
        "options.0": "#SBATCH {}",
        "python": "{}",
    },
    "skypilot": {
        key: "{}"
        for key in ("accelerators", "infra", "image_id", "runtime_version", "bucket", "mount")
    }
    | {"requirement": "{}", "source": "{}"},
    "gpu_host": {},
    "local": {},
}
SHARED = ("name", "env.A", "env", "secrets.0")


class Machine:
    """A folder to launch from that is a host, a node and a cluster as well."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.cwd = folder, folder / "cwd"
        tools = ("gcloud", "kubectl", "sbatch", "squeue", "srun", "scontrol", "sky", "python")
        tools += ("uv", "curl", "gcsfuse", "sudo", "mountpoint", "tar")
        self.recorders = Recorders(folder, *tools)
        # not mounted yet: the stand-in has to fail
        (self.recorders.bin / "mountpoint").write_text("#!/bin/sh\nexit 1\n")
        self.recorders.add(folder / "jaxlm-venv/bin/python")
        monkeypatch.setattr(sys, "executable", str(self.recorders.bin / "python"))
        self._environment = {"PATH": f"{self.recorders.bin}:/usr/bin:/bin", "HOME": str(folder)}
        self._environment |= {"LANG": "C.UTF-8", "SLURM_JOB_ID": "1", "SKYPILOT_TASK_ID": "t"}
        self._environment |= {"SKYPILOT_NODE_IPS": "127.0.0.1", "SKYPILOT_NUM_NODES": "1"}
        self._environment |= {"SKYPILOT_NODE_RANK": "0", "WANDB_API_KEY": "secret"}

    def empty(self) -> None:
        shutil.rmtree(self.cwd, ignore_errors=True)
        shutil.rmtree(self.folder / "mnt", ignore_errors=True)
        self.cwd.mkdir()
        self.recorders.words()

    def bash(self, script: str | Path) -> str:
        done = subprocess.run(
            ["bash", "-u", *([str(script)] if isinstance(script, Path) else ["-s"])],
            input=None if isinstance(script, Path) else script.encode(),
            cwd=self.cwd,
            env=self._environment,
            capture_output=True,
            timeout=20,
        )
        return done.stdout.decode() + done.stderr.decode()

    def canaries(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.name == "canary"]


def job_for(run_dir: str, name: str | None) -> Job:
    return Job.of({"run_dir": run_dir, "mesh": {}, "train": {"steps": 7}}, name)


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from (str(key), *leaves(item))
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, str):
        yield value


def attempt(
    machine: Machine, kind: str, key: str, text: str
) -> tuple[set[str], set[str], list[str]] | str:
    """(words that arrived, environment, what scripts printed), or the line that refuses it."""
    machine.empty()
    values: dict[str, Any] = {"type": kind}
    for name, value in TARGETS[kind].items():
        values[name] = yaml.safe_load(value)
    if kind in ("tpu_vm", "skypilot", "gke"):
        values["mount"] = str(machine.folder / "mnt")
    if kind == "skypilot" and key == "runtime_version":
        values["accelerators"] = "tpu-v6e-8"
    head, _, rest = key.partition(".")
    run_dir = text if key == "run_dir" else "runs/a"
    if key == "env":
        values["env"] = {text: "x"}
    elif rest == "A":
        values["env"] = {"A": text}
    elif key == "secret_name":
        values |= {"secrets": ["WANDB_API_KEY"], key: text}
    elif rest == "0":
        values[head] = [text]
    elif key != "run_dir":
        values[key] = text
    file = machine.folder / "target.yaml"
    try:
        file.write_text(dump_yaml(values), encoding="utf-8")
        target = load_target(str(file))
        plan = target.plan(job_for(run_dir, target.name))
    except UserError as error:
        return str(error)
    if kind in ("tpu_vm", "skypilot", "gke"):
        root = machine.folder / "mnt" if key != "mount" else machine.folder / "elsewhere"
    else:
        root = machine.cwd
    saved = root / run_dir / "checkpoints" / "00000007"
    saved.mkdir(parents=True, exist_ok=True)
    # Slurm's attempt follows a log for as long as the job is there
    printed = [machine.bash(render(plan, "create" if kind == "slurm" else None))]
    environment = machine.recorders.environment()
    stage = machine.cwd / job_for(run_dir, target.name).stage
    arrived: set[str] = set()
    if kind == "tpu_vm":
        (stage / "exit_code").write_text("0\n")
        scripts = ("outcome.sh",) if key == "run_dir" else ("setup.sh", "run.sh")
        printed += [machine.bash(stage / name) for name in scripts]
        environment = machine.recorders.environment()
    elif kind == "slurm":
        printed.append(machine.bash(stage / "job.sh"))
        environment = machine.recorders.environment()
        printed.append((stage / "outcome").read_text())
        arrived |= set((stage / "job.sh").read_text().split("\n"))
    elif kind == "skypilot":
        task = yaml.safe_load((stage / "task.yaml").read_text())
        failing = task["run"].replace("|| code=$?", "; code=1")
        printed.append(machine.bash(failing if key == "run_dir" else task["setup"]))
    for path in stage.glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            arrived |= set(leaves(document))
            if kind == "gke" and document["kind"] == "ConfigMap":
                arrived |= set(leaves(yaml.safe_load(document["data"]["run.yaml"])))
    steps = (s for s in (*plan.start, *plan.attempt) if isinstance(s, WriteFile))
    assert all((machine.cwd / s.path).read_text(encoding="utf-8") == s.text for s in steps)
    return arrived | machine.recorders.words(), environment, printed


def cases(kind: str) -> Iterator[tuple[str, str]]:
    """Every text as the run's folder where scripts look for it; in turn in every other field."""
    for text in HOSTILE[:: 1 if kind in ("tpu_vm", "slurm", "skypilot") else 3]:
        yield "run_dir", text
    for i, key in enumerate((*FIELDS[kind], *SHARED)):
        for text in HOSTILE[i % 10 :: 10]:
            yield key, text


def check(machine: Machine, kind: str, key: str, text: str) -> bool:
    """Whether it was refused."""
    found = attempt(machine, kind, key, text)
    assert machine.canaries() == []
    if isinstance(found, str):
        assert "\n" not in found and key.split(".")[0] in found, found
        return True
    words, environment, printed = found
    lines = "\n".join(printed).splitlines()
    if key == "run_dir":
        remote = kind in ("tpu_vm", "skypilot", "gke")
        want = str(machine.folder / "mnt" / text) if remote else text
        assert want in words, "the run's folder is in the config that is sent"
        number = {"tpu_vm": "jaxlm-checkpoint 7", "slurm": "jaxlm-checkpoint 7"}
        number["skypilot"] = "jaxlm launch: exit code 1; SkyPilot starts again, from checkpoint 7"
        assert kind not in number or number[kind] in lines, printed
        if kind in ("local", "gpu_host"):
            assert (machine.cwd / text / "processes/1.txt").exists()
    elif key == "env.A":
        where = environment if kind not in ("gke", "skypilot") else words
        want = text.replace("$", "$$") if kind == "gke" else text
        assert (f"A={text}" if where is environment else want) in where
    elif key in FIELDS[kind]:
        want = text.removeprefix("gs://") if key == "bucket" else text
        assert FIELDS[kind][key].format(want) in words, sorted(words)[:40]
    return False


@pytest.mark.parametrize("kind", TARGETS)
def test_nothing_of_a_hostile_launch_is_executed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, monkeypatch)
    faults, refused, tried = [], 0, 0
    for key, text in cases(kind):
        tried += 1
        try:
            refused += check(machine, kind, key, text)
        except Exception as error:
            faults.append(f"{key}={text[:40]!r}: {type(error).__name__}: {str(error)[:300]}")
            for path in machine.canaries():
                path.unlink()
    assert not faults, f"{len(faults)} of {tried}:\n" + "\n".join(faults)
    assert refused < tried, "some arrive"


def test_there_are_300_hostile_launches() -> None:
    assert sum(len(list(cases(kind))) for kind in TARGETS) >= 300


@pytest.mark.parametrize("run_dir", ["../a", "/mnt/jaxlm/../a", "a/../../b"])
def test_a_run_folder_does_not_leave_the_storage(run_dir: str) -> None:
    with pytest.raises(UserError, match=r"run_dir: .* leads out of /mnt/jaxlm"):
        job_for(run_dir, "a").run_dir_under("/mnt/jaxlm")


def test_long_commands_are_broken_between_words_alone() -> None:
    words = ("echo", "-n", *(f"--option{i}=a --b $c" for i in range(9)))
    text = command(words)
    assert len(text.splitlines()) == 10
    assert " \\\n  " in text
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {text}"], capture_output=True, text=True)
    assert tuple(done.stdout.split("\0")[:-1]) == words
