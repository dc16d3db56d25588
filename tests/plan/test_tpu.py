"""Steps compiled for TPUs that are not there, where libtpu is: the whole way of `jaxlm plan`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxlm.cli import main
from jaxlm.core.config import to_yaml
from jaxlm.plan.devices import Topology
from tests.plan.texts import config_of
from tests.tpu import needs_libtpu

PRETRAIN = Path(__file__).parents[2] / "configs" / "pretrain"
pytestmark = [pytest.mark.pods, needs_libtpu]


def config_in(folder: Path) -> Path:
    path = folder / "run.yaml"
    path.write_text(to_yaml(config_of("v5e_fsdp8_tensor2").replace(run_dir="runs/a")))
    return path


def plan(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return planned(config_in(tmp_path), *words)


def analysed(capsys: pytest.CaptureFixture[str], path: Path, *words: str) -> dict[str, Any]:
    """What the analytic model says, which needs no libtpu and so no process of its own."""
    assert main(["plan", str(path), *words, "--analytic"]) == 0
    return json.loads(capsys.readouterr().out)


def planned(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: libtpu stays in one that has loaded it."""
    command = [sys.executable, "-m", "jaxlm", "plan", str(path), *words]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


NARROW = (
    "model.num_layers=2",
    "model.hidden_size=256",
    "model.ffn.intermediate_size=512",
    "model.attention.num_heads=2",
    "model.attention.num_kv_heads=2",
    "model.vocab_size=1024",
    "data.seq_len=512",
)


def test_a_compiled_step_agrees_with_the_analytic_model_and_is_kept(tmp_path, capsys):
    words = ("--topology", "v5e:2x4", "mesh.fsdp=4", *NARROW, "--json")
    kept = tmp_path / "step.bin"
    compiled = plan(tmp_path, *words, "--save", str(kept))
    assert compiled.returncode == 0, compiled.stderr
    lines = compiled.stderr.splitlines()  # ours alone: libtpu does not complain of this machine
    assert lines[0] == "compiling the train step for v5e:2x4 ..."
    assert lines[1:] == [f"kept the compiled step in {kept}: train with train.compiled={kept}"]
    found = json.loads(compiled.stdout)
    own = analysed(capsys, config_in(tmp_path), *words)
    assert found["plan"]["source"] == "compiled"
    flops = "FLOPs, FLOP"
    assert found["work"][flops] == pytest.approx(own["work"][flops], rel=2e-3)
    name = "ICI: all-gather fsdp, bytes"
    assert found["work"][name] == pytest.approx(own["work"][name], rel=1e-3)
    header = json.loads(kept.read_bytes().split(b"\n", 1)[0])
    assert header["identity"]["kind of device"] == "TPU v5 lite"
    assert header["identity"]["mesh"]["fsdp"] == 4


SMALL = (
    "--topology",
    "v5e:2x4",
    "mesh.data=1",
    "mesh.fsdp=4",
    "mesh.tensor=2",
    "train.batch_size=64",
    "--json",
)
T5 = [
    f"{path}.{field}"
    for path in ("model", "model.encoder")
    for field in ("hidden_size=1024", "num_layers=2", "attention.num_heads=8")
]
OTHERS = {
    "t5_11b": (*T5, "model.ffn.intermediate_size=4096", "model.encoder.ffn.intermediate_size=4096"),
    "lstm_1b": ("model.hidden_size=1024", "model.num_layers=2"),
}


# tests/pods/test_graphs.py compares their FLOPs as well, and their bytes within a twentieth.
@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_steps_of_other_models_agree_with_the_analytic_model(name, capsys):
    path = PRETRAIN / f"{name}.yaml"
    compiled = planned(path, *SMALL, *OTHERS[name])
    assert compiled.returncode == 0, compiled.stderr
    found, own = json.loads(compiled.stdout), analysed(capsys, path, *SMALL, *OTHERS[name])
    assert (found["plan"]["source"], own["plan"]["source"]) == (
        "compiled",
        "analytic, not compiled",
    )
    counted, told = found["work"], own["work"]
    assert counted["FLOPs, FLOP"] == pytest.approx(told["FLOPs, FLOP"], rel=2e-3)
    for kind, axes in (
        ("all-gather", "fsdp"),
        ("all-gather", "tensor"),
        ("all-to-all", "fsdp"),
        *([("all-gather", "fsdp+tensor")] if name == "lstm_1b" else []),
    ):
        key = f"ICI: {kind} {axes}, bytes"
        assert counted[key] == pytest.approx(told[key], rel=1e-3, abs=1e5)


def test_the_two_cores_of_a_v4_chip_are_one_device():
    program = (
        "from jaxlm.plan.compiling import devices_of; from jaxlm.plan.devices import Topology\n"
        "print(len(devices_of(Topology.read('v4:2x2x2'))))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout == "8\n", found.stderr


@pytest.mark.slow
def test_a_step_is_compiled_for_the_two_cores_of_a_v4_chip(tmp_path):
    words = ("mesh.fsdp=4", "mesh.tensor=2", *NARROW, "--quick", "--json")
    found = plan(tmp_path, "--topology", "v4:2x2x2", *words)
    assert found.returncode == 0, found.stderr
    assert found.stderr.startswith("compiling the train step for v4:2x2x2 ...")
    assert json.loads(found.stdout)["plan"]["source"].startswith("compiled")


def test_a_step_without_room_is_reported_in_the_compilers_figures(tmp_path):
    large = ("model.num_layers=16", "model.hidden_size=4096", "model.attention.num_heads=32")
    words = ("--topology", "v5e:2x2", "mesh.fsdp=4", "mesh.tensor=1", "model.remat=none")
    found = plan(tmp_path, *words, *large)
    assert found.returncode == 1, found.stderr
    assert "DOES NOT FIT" in found.stdout and "of 15.75 GiB" in found.stdout
    assert "First to try" in found.stdout or "No one or two changes" in found.stdout


def test_the_compiler_refuses_what_is_live_and_not_what_it_packed():
    """It compares its limit with the most bytes that are live at a time. Arguments and temporaries
    may be more; close to the limit they are packed without gaps.
    """
    rows = (905_000, 1_512_000, 1_520_000)
    command = [sys.executable, "-m", "tests.plan.edge_of_memory", *map(str, rows)]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["JAX_PLATFORMS"] = "cpu"
    root = Path(__file__).parents[2]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    assert run.returncode == 0, run.stderr
    loose, tight, refused = map(json.loads, run.stdout.splitlines())
    limit = Topology.read("v5e:2x2").hbm_per_device
    assert loose["live"] < 0.65 * limit < limit < loose["packed"]
    assert 0.99 * limit < tight["live"] <= limit
    assert refused["needed"] == pytest.approx(tight["live"] * rows[2] / rows[1], rel=2e-3)
    assert refused["needed"] > limit
