"""A training run over two processes of two devices each, through the command line, against the same
run in one process: its start, its samples, its losses; and a stop that one process is told alone.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import load

from jaxlm.hf import export_run
from jaxlm.train import loop
from jaxlm.train.loop import DONE, INTERRUPTED
from tests import golden_families

STEPS, STOP = 20, 9
SETTINGS = (
    f"train.steps={STEPS}",
    "train.batch_size=16",
    "checkpoint.every_steps=null",
    "eval.every_steps=10",
    "sample.prompts=['a']",
    "sample.max_tokens=4",
    "logging.tensorboard=false",
)
# Process 1 alone is told to stop; afterwards each says what the run's parameters are before step 1.
WORKER = """
import os, signal, sys
from jaxlm.cli import main
from jaxlm.train.loop import Loop

stop, run, *words = sys.argv[1:]
after = Loop._after

def stop_after(self, state, step):
    if step == int(stop) and os.environ["JAXLM_PROCESS_ID"] == "1":
        signal.raise_signal(signal.SIGTERM)
    return after(self, state, step)

Loop._after = stop_after
code = main(words)
import jax
from jaxlm.run import load_saved
from jaxlm.train.hashing import param_sha256
from jaxlm.train.session import program_of
config = load_saved(run).config
program = program_of(config, config.mesh.build())
params = jax.jit(program.init_params, out_shardings=program.param_shardings)()
print("start", param_sha256(params), jax.process_count(), jax.device_count(), flush=True)
sys.exit(code)
"""


def train_in_two(run: Path, settings: tuple[str, ...], stop: int = 0) -> tuple[int, str]:
    """(exit code, hash of the parameters at the start) of both processes, which must agree."""
    resolved = load(*settings, f"run_dir={run}")
    config = run.parent / "config.yaml"
    config.write_text(loop.configs.to_yaml(resolved.config))
    code, outputs = in_two(WORKER, str(stop), str(run), "train", str(config))
    last = {output.splitlines()[-1] if output else "" for output in outputs}
    assert len(last) == 1, outputs
    word, digest, processes, devices = last.pop().split()
    assert (word, processes, devices) == ("start", "2", "4"), outputs
    return code, digest


def in_two(program: str, *words: str) -> tuple[int, list[str]]:
    """(exit code, output of each) of a Python program in two processes of two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    workers = []
    for index in range(2):
        environment = os.environ | {
            "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2"),
            "JAXLM_COORDINATOR": address,
            "JAXLM_NUM_PROCESSES": "2",
            "JAXLM_PROCESS_ID": str(index),
        }
        workers.append(
            subprocess.Popen(
                [sys.executable, "-c", program, *words],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        outputs = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    codes = {worker.returncode for worker in workers}
    assert len(codes) == 1, outputs
    return codes.pop(), outputs


def ledger(path: Path) -> dict[int, list[int]]:
    return {r["step"]: r["ids"] for r in map(json.loads, path.read_text().splitlines())}


def figures(run: Path, name: str) -> dict[int, float]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {r["step"]: r[name] for r in records if name in r}


def compare(run: Path, alone: Path) -> None:
    for name, steps in (("train/loss", STEPS), ("train/grad_norm", STEPS), ("eval/loss", 2)):
        one, two = figures(alone, name), figures(run, name)
        assert one.keys() == two.keys() and len(one) == steps
        rtol = 1e-3 if name == "train/grad_norm" else 1e-5
        np.testing.assert_allclose([two[s] for s in one], list(one.values()), rtol=rtol)


def start_of(alone: Path, settings: tuple[str, ...]) -> str:
    from tiny import prepared, program

    from jaxlm.train.hashing import param_sha256

    return param_sha256(program(prepared(load(*settings).config)[0]).create_state()["params"])


def train_alone(run: Path, settings: tuple[Any, ...]) -> None:
    outcome = loop.train(load(*settings, f"run_dir={run}", "mesh={data: 1, num_devices: 1}"))
    assert outcome.code == DONE, outcome.message


def test_two_processes_train_as_one_device_does(tmp_path: Path) -> None:
    settings = ("transformer", *SETTINGS)
    alone, run = tmp_path / "alone", tmp_path / "run"
    train_alone(alone, settings)
    code, start = train_in_two(run, (*settings, "mesh={data: 2, fsdp: 2}"))
    assert code == DONE
    assert start == start_of(alone, settings)
    compare(run, alone)
    parts = [ledger(run / name) for name in ("ledger.jsonl", "ledger.1.jsonl")]
    whole = {step: parts[0][step] + parts[1][step] for step in parts[0]}
    assert whole == ledger(alone / "ledger.jsonl")
    assert all(len(part[1]) == 8 for part in parts)


def test_two_processes_import_one_model(tmp_path: Path) -> None:
    """Over a mesh of both; it goes out again from one of them, byte for byte."""
    arrays = golden_families.load_case("mixtral").weights()
    config = golden_families.load_case("mixtral").config
    model, run = tmp_path / "model", tmp_path / "run"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    save_file(arrays, model / "model.safetensors")
    command = "import sys; from jaxlm.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ("import", "hf", str(model), "--out", str(run), "mesh={data: 2, fsdp: 2}")
    code, outputs = in_two(command, *words)
    assert code == 0, outputs
    told = [sum("mixtral, " in line for line in text.splitlines()) for text in outputs]
    assert told[0] == 1, outputs
    export_run(run, tmp_path / "out", report=lambda _: None)
    found = load_file(tmp_path / "out/model.safetensors")
    assert found.keys() == arrays.keys()
    assert all(found[name].tobytes() == array.tobytes() for name, array in arrays.items())


@pytest.mark.slow
def test_a_stop_that_one_process_hears_ends_both_and_one_process_goes_on(tmp_path: Path) -> None:
    """An LSTM that carries its state: two processes, then eight devices of one, on another mesh."""
    settings = ("lstm", *SETTINGS, "train.accumulation=2")
    alone, run = tmp_path / "alone", tmp_path / "run"
    train_alone(alone, settings)
    code, _ = train_in_two(run, (*settings, "mesh={data: 4}"), stop=STOP)
    assert code == INTERRUPTED
    reached = max(figures(run, "train/loss"))
    # two batches were ahead when it was told, and metrics are read one step late
    assert STOP <= reached <= STOP + 4
    outcome = loop.train(load(*settings, f"run_dir={run}", "mesh={data: 2, fsdp: 2, tensor: 2}"))
    assert outcome.code == DONE, outcome.message
    compare(run, alone)
    drawn, want = ledger(run / "ledger.jsonl"), ledger(alone / "ledger.jsonl")
    for step, ids in ledger(run / "ledger.1.jsonl").items():
        drawn[step] += ids
    assert drawn == want
