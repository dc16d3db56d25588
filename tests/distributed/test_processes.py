"""How processes find each other; a training run over two processes of two devices each, through
the command line, against the same run in one process: its start, its samples, its losses; a stop
that one process is told alone; other numbers of processes after it; and one that is killed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from jaxlm import api
from jaxlm.cli import main
from jaxlm.core import config as configs
from jaxlm.core.config import UserError
from jaxlm.core.exit_codes import DONE, INTERRUPTED, LOST, MISTAKE
from jaxlm.distributed.processes import init_processes
from jaxlm.hf.exporting import export_run
from jaxlm.run import load_saved
from tests import tiny
from tests.models import golden_families
from tests.programs import run_programs
from tests.several import FLAG, in_processes, in_two, unordered
from tests.tiny import load

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
TRAIN = "import sys; from jaxlm.cli import main; sys.exit(main(sys.argv[1:]))"
# Process 1 compiles for longer than a step may take.
LATE = """
import os, sys, time
from jaxlm.cli import main
from jaxlm.training import trainer
from jaxlm.training.learner import Learner

compile_ = Learner.compile

def late(*arguments):
    if os.environ["JAXLM_PROCESS_ID"] == "1":
        time.sleep(6)
    return compile_(*arguments)

Learner.compile = late
trainer.LINGER_SECONDS = 0
sys.exit(main(sys.argv[1:]))
"""


def start_of(output: str) -> list[str]:
    """What `tests.hooks.Start` printed: SHA-256, number of processes, number of devices."""
    (line,) = (line for line in output.splitlines() if line.startswith("start "))
    return line.split()[1:]


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


def train_alone(run: Path, settings: tuple[Any, ...]) -> None:
    outcome = api.fit(load(*settings, f"run_dir={run}", "mesh={data: 1, num_devices: 1}"))
    assert outcome.code == DONE, outcome.message


def config_in(folder: Path, *settings: str) -> str:
    """The file of a run's config."""
    path = folder / "config.yaml"
    path.write_text(configs.to_yaml(load(*settings).config))
    return str(path)


def test_two_processes_train_as_one_device_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where one waits for the compilation of the other for longer than for a step."""
    settings = ("transformer", *SETTINGS, "callbacks=[{type: 'tests.hooks:Start'}]")
    alone, run = tmp_path / "alone", tmp_path / "run"
    train_alone(alone, settings)
    more = ("mesh={data: 2, fsdp: 2}", "train.hang_timeout=4", f"run_dir={run}")
    start, *_ = start_of(capsys.readouterr().out)
    code, outputs = in_two(LATE, "train", config_in(tmp_path, *settings, *more))
    assert code == DONE, outputs
    assert [start_of(output) for output in outputs] == [[start, "2", "4"]] * 2
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
    words = ("import", "hf", str(model), "--out", str(run), "mesh={data: 2, fsdp: 2}")
    code, outputs = in_two(TRAIN, *words)
    assert code == 0, outputs
    told = [sum("mixtral, " in line for line in text.splitlines()) for text in outputs]
    assert told[0] == 1, outputs
    export_run(run, tmp_path / "out", report=lambda _: None)
    found = load_file(tmp_path / "out/model.safetensors")
    assert found.keys() == arrays.keys()
    assert all(found[name].tobytes() == array.tobytes() for name, array in arrays.items())


@pytest.mark.parametrize("verb", ["train", "finetune"])
def test_processes_join_before_a_start_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """An import computes: jax makes its devices, and a process cannot join after that."""
    order = []

    def run_of(folder: str) -> Path:
        order.append("import")
        raise UserError(f"{folder}: not imported here")

    monkeypatch.setattr(
        "jaxlm.distributed.processes.init_processes", lambda *_: order.append("join")
    )
    monkeypatch.setattr("jaxlm.hf.opened.run_of", run_of)
    config = str(tiny.SMOKE / "transformer.yaml")
    assert main([verb, config, f"init.from={tmp_path}"]) == MISTAKE
    assert order == ["join", "import"]


@pytest.mark.slow
def test_two_processes_start_from_a_folder_of_hugging_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is their teacher as well: the second look finds what the first one has made."""
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    case, model, run = golden_families.load_case("gpt2"), tmp_path / "model", tmp_path / "run"
    model.mkdir()
    weights = case.weights()
    wide = np.resize(weights["transformer.wte.weight"], (264, case.config["n_embd"]))
    (model / "config.json").write_text(json.dumps({**case.config, "vocab_size": 264}))
    save_file({**weights, "transformer.wte.weight": wide}, model / "model.safetensors")
    config = yaml.safe_load((tiny.SMOKE / "transformer.yaml").read_text())
    del config["model"]
    config["objective"] = {"type": "distill", "teacher": {"from": str(model)}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    words = (*SETTINGS[1:], "train.steps=2", "optimizer.schedule.warmup=0", "sample.prompts=[]")
    words = (f"init.from={model}", f"run_dir={run}", "mesh={data: 4}", *words)
    code, outputs = in_two(TRAIN, "finetune", str(tmp_path / "config.yaml"), *words)
    assert code == DONE, outputs
    assert figures(run, "train/loss").keys() == {1, 2}
    (imported,) = (tmp_path / "cache/imports").glob("model-*/config.yaml")
    assert load_saved(run).config.init.from_ == str(imported.parent)


@pytest.mark.parametrize("processes", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_stop_that_one_process_receives_ends_both_and_other_numbers_resume(
    tmp_path: Path, processes: int
) -> None:
    """An LSTM that carries its state: two processes of two devices, then two devices of one, on
    another mesh, or four processes of one device.
    """
    settings = ("lstm", *SETTINGS, "train.accumulation=2", "sample.prompts=[]")
    alone, run = tmp_path / "alone", tmp_path / "run"
    train_alone(alone, settings)
    stop = f"callbacks=[{{type: 'tests.hooks:Signal', step: {STOP}}}]"  # of process 1
    config = config_in(tmp_path, *settings, "mesh={data: 4}", stop, f"run_dir={run}")
    code, outputs = in_two(TRAIN, "train", config)
    assert code == INTERRUPTED, outputs
    reached = max(figures(run, "train/loss"))
    assert STOP <= reached <= STOP + 4  # the other one may be ahead
    if processes == 1:
        mesh = "mesh={data: 1, fsdp: 2, num_devices: 2}"
        outcome = api.fit(load(*settings, f"run_dir={run}", mesh))
        assert outcome.code == DONE, outcome.message
    else:
        codes, outputs = in_processes(4, 1, TRAIN, "resume", str(run), "mesh={data: 2, fsdp: 2}")
        assert codes == [DONE] * 4, outputs
    compare(run, alone)
    drawn = ledger(run / "ledger.jsonl")
    for number in range(1, max(2, processes)):
        for step, ids in ledger(run / f"ledger.{number}.jsonl").items():
            drawn[step] += ids
    assert drawn == ledger(alone / "ledger.jsonl")


# Heartbeats are quick.
KILLED = """
import functools, sys
from jaxlm.distributed import processes
from jaxlm.cli import main

processes.Peers = functools.partial(processes.Peers, beat=0.2, missed=2.0)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.chaos
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_other_with_a_word_on_it(tmp_path: Path, victim: int) -> None:
    """Process 0 takes the store of keys with it, of which jax tells the others immediately."""
    kill = f"{{type: 'tests.hooks:Signal', step: 3, number: 9, process: '{victim}'}}"
    settings = (*SETTINGS, f"run_dir={tmp_path / 'run'}", "train.steps=100000")
    config = config_in(tmp_path, "transformer", *settings, f"callbacks=[{kill}]")
    began = time.monotonic()
    codes, outputs = in_processes(2, 2, KILLED, "train", config)
    assert time.monotonic() - began < 60
    if victim == 0:
        assert codes == [-signal.SIGKILL, -signal.SIGABRT], outputs
        assert "another task died" in outputs[1]
        return
    assert codes == [LOST, -signal.SIGKILL], outputs
    line = f"error: process 1 on {socket.gethostname()} sent no heartbeat for"
    assert line in outputs[0] and "start all processes again" in outputs[0]


# ---------------------------------------------------------------------------- finding each other


# What a process has for XLA, and the order in which it runs a program of two independent halves.
ORDER = """
import os, sys
if sys.argv[1:]:
    os.environ["XLA_FLAGS"] += " " + sys.argv[1]
START
import jax, jax.numpy as jnp

def halves(x):
    a, b = x @ x, x.T @ x
    for _ in range(3):
        a, b = jnp.sin(a @ x), jnp.cos(b @ x)
    return a + b

text = jax.jit(halves).lower(jnp.ones((8, 8))).compile().as_text()
order = [line.split("=")[0].strip() for line in text.partition("ENTRY")[2].splitlines()]
flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "scheduler" in flag]
print(flags, [name for name in order if name.startswith("%")])
"""
JOINING = ORDER.replace(
    "START", "from jaxlm.distributed.processes import init_processes\ninit_processes()"
)
VERB = ORDER.replace("START", "from jaxlm.cli import main\nassert main(['presets', '--json']) == 0")


def test_collectives_have_one_order_in_all_processes() -> None:
    """XLA gets the flag though its library is loaded before; a flag that a user gives is kept."""
    found = []
    for words in ([], [f"{FLAG}=true"]):
        code, outputs = in_two(JOINING, *words)
        assert code == 0, outputs
        (told,) = {output.splitlines()[-1] for output in outputs}
        found.append(told)
    compare_orders(*found)


@pytest.mark.parametrize(
    "program", [pytest.param(JOINING, marks=pytest.mark.slow), VERB], ids=["library", "verb"]
)
def test_collectives_have_one_order_on_simulated_devices(program: str) -> None:
    """In one process too, whether a verb or the library runs it; one device does not need it."""
    eight = unordered()
    told = [alone(program, eight, *words) for words in ([], [f"{FLAG}=true"])]
    compare_orders(*told)
    one = alone(program, eight.replace("device_count=8", "device_count=1"))
    assert one.startswith("[] ['%") and orders(one) == orders(told[1])


def alone(program: str, flags: str, *words: str) -> str:
    """The last line of a Python program in a process by itself."""
    (code,), (output,) = run_programs(
        program, [words], [{"XLA_FLAGS": flags, "TPU_SKIP_MDS_QUERY": "1"}]
    )
    assert code == 0, output
    return output.splitlines()[-1]


def compare_orders(unsaid: str, concurrent: str) -> None:
    """What processes told that got no flag, and a user's own "true"."""
    assert unsaid.startswith(f"['{FLAG}=false'] ['%")
    assert concurrent.startswith(f"['{FLAG}=true'] ['%")
    assert orders(unsaid) != orders(concurrent)


def orders(told: str) -> str:
    return told.partition("] ")[2]


def test_processes_with_accelerators_keep_their_flags(joined, monkeypatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--a=b")
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", "cuda,cpu")
        init_processes("host:1", 4, 2)
    finally:
        jax.config.update("jax_platforms", before)
    assert len(joined) == 1 and os.environ["XLA_FLAGS"] == "--a=b"


@pytest.fixture
def joined(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))  # joining adds to it
    """The calls of `jax.distributed.initialize`, in an environment that says nothing."""
    for name in list(os.environ):
        if name.startswith(("JAXLM_", "SLURM_", "TPU_", "MEGASCALE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # as jax sets it where there is no TPU chip
    calls = []

    def initialize(*arguments: Any, heartbeat_timeout_seconds: int) -> None:
        assert heartbeat_timeout_seconds < 60
        calls.append(tuple(value for value in arguments if value is not None))

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    return calls


def test_one_process_joins_nothing(joined, monkeypatch):
    init_processes()
    init_processes("localhost:1", 1, 0)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "2")  # as in a batch script, which srun has not started
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    init_processes()
    assert joined == []


def test_flags_go_before_the_environment(joined, monkeypatch):
    init_processes("localhost:1", 2, 1)
    monkeypatch.setenv("JAXLM_COORDINATOR", "localhost:2")
    monkeypatch.setenv("JAXLM_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAXLM_PROCESS_ID", "0")
    init_processes()
    init_processes(process_id=3)
    assert joined == [("localhost:1", 2, 1), ("localhost:2", 4, 0), ("localhost:2", 4, 3)]


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
        {"MEGASCALE_COORDINATOR_ADDRESS": "a"},
    ],
)
def test_clusters_are_detected(joined, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    init_processes()
    assert joined == [()]


@pytest.mark.parametrize(
    ("environment", "joins"),
    [
        ({}, True),  # a VM of a pod, or one alone: the metadata server knows, jax asks it
        ({"JAX_PLATFORMS": "tpu,cpu"}, True),
        ({"JAX_PLATFORMS": "cpu"}, False),
        ({"TPU_SKIP_MDS_QUERY": "1"}, False),
    ],
)
def test_tpu_vms_are_detected(joined, monkeypatch, environment, joins):
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY")
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setenv("TPU_LIBRARY_PATH", "libtpu.so")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    init_processes()
    assert joined == [()] * joins


def test_mistaken_processes(joined, monkeypatch):
    assert "give all three or none" in message(lambda: init_processes("localhost:1", 2))
    assert "give all three or none" in message(lambda: init_processes(process_id=0))
    assert "--process-id 2 is not one of 2" in message(lambda: init_processes("a:1", 2, 2))
    monkeypatch.setenv("JAXLM_PROCESS_ID", "one")
    assert "JAXLM_PROCESS_ID: 'one' is not a whole number" in message(init_processes)
    assert joined == []


def message(mistake: Any) -> str:
    with pytest.raises(UserError) as caught:
        mistake()
    return str(caught.value)
