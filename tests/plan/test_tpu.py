"""Steps compiled for TPUs that are not there, where libtpu is: the whole way of `jaxlm plan`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxlm.config import to_yaml
from tests.plan.texts import config_of
from tests.tpu import needs_libtpu

pytestmark = [pytest.mark.slow, needs_libtpu]


def plan(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: libtpu stays in one that has loaded it."""
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(config_of("v5e_fsdp8_tensor2").replace(run_dir="runs/a")))
    command = [sys.executable, "-m", "jaxlm", "plan", str(path), *words]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_compiled_step_agrees_with_the_analytic_model_and_is_kept(tmp_path):
    words = ("--topology", "v5e:2x4", "mesh.fsdp=4", "model.num_layers=2", "--json")
    kept = tmp_path / "step.bin"
    compiled = plan(tmp_path, *words, "--save", str(kept))
    assert compiled.returncode == 0, compiled.stderr
    lines = compiled.stderr.splitlines()  # ours alone: libtpu does not complain of this machine
    assert lines[0] == "compiling the train step for v5e:2x4 ..."
    assert lines[1:] == [f"kept the compiled step in {kept}: train with train.compiled={kept}"]
    found = json.loads(compiled.stdout)
    own = json.loads(plan(tmp_path, *words, "--analytic").stdout)
    assert found["plan"]["source"] == "compiled"
    flops = "FLOPs, FLOP"
    assert found["work"][flops] == pytest.approx(own["work"][flops], rel=2e-3)
    name = "ICI: all-gather fsdp, bytes"
    assert found["work"][name] == pytest.approx(own["work"][name], rel=1e-3)
    header = json.loads(kept.read_bytes().split(b"\n", 1)[0])
    assert header["identity"]["kind of device"] == "TPU v5 lite"
    assert header["identity"]["mesh"]["fsdp"] == 4


def test_a_step_without_room_is_told_in_the_compilers_figures(tmp_path):
    large = ("model.num_layers=16", "model.hidden_size=4096", "model.attention.num_heads=32")
    words = ("--topology", "v5e:2x2", "mesh.fsdp=4", "mesh.tensor=1", "model.remat=none")
    found = plan(tmp_path, *words, *large)
    assert found.returncode == 1, found.stderr
    assert "DOES NOT FIT" in found.stdout and "of 15.75 GiB" in found.stdout
    assert "First to try" in found.stdout or "No single change" in found.stdout
