"""Runs with an adapter: what their checkpoints hold, and the base that they name."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxlm import api
from jaxlm.adapters.base import Adapter
from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten
from jaxlm.hf.exporting import export_run
from jaxlm.info import describe_run, render
from jaxlm.run import load_saved
from jaxlm.training.loading import load_trained
from tests import tiny
from tests.programs import run_programs

pytestmark = pytest.mark.usefixtures("shared_programs")

ONE = "mesh={data: 1, num_devices: 1}"
SHORT = (ONE, "data.seq_len=16", "eval.max_batches=1", *tiny.FOUR_STEPS)
LORA = "adapter={type: lora, rank: 2, targets: [query, ffn/up]}"


def quiet(_: str) -> None:
    pass


def train(run: Path, *changes: str) -> dict[str, Any]:
    outcome = api.fit(tiny.load("transformer", *SHORT, f"run_dir={run}", *changes))
    assert outcome.code == 0
    return outcome.result["final"]


def params_of(run: Path, *overrides: str, merge: bool = False) -> dict[str, np.ndarray]:
    params = load_trained(str(run), overrides=(ONE, *overrides), merge=merge, report=quiet)[2]
    return flatten(jax.device_get(params))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base <- lora <- chain: weights of another run, of one with an adapter."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "base")
    train(folder / "lora", f"init.from={folder / 'base'}", LORA)
    train(folder / "chain", f"init.from={folder / 'lora'}", "adapter={type: freeze, train: [norm]}")
    return folder


def test_a_checkpoint_has_the_bytes_of_what_is_trained_and_names_its_base(runs: Path) -> None:
    reader = CheckpointReader(runs / "lora" / "checkpoints")
    arrays = reader.read_metadata(4).arrays
    trained = 2 * 2 * (32 + 32 + 32 + 96)  # A and B of two layers, rank 2
    sizes = {path: math.prod(info.shape) for path, info in arrays.items() if info.shape}
    assert sum(n for path, n in sizes.items() if path.startswith("params/")) == trained
    assert sum(sizes.values()) == 3 * trained  # and both moments
    stored = sum(
        f.stat().st_size for f in (reader.path(4) / "orbax").rglob("*") if "/d/" in f.as_posix()
    )
    assert stored < 1.5 * 4 * 3 * trained + 20_000 < 4 * 33_184
    base = json.loads(reader.read_file(4, "identity.json"))["frozen"]["base"]
    digest = param_sha256(load_trained(str(runs / "base"), overrides=(ONE,), report=quiet)[2])
    assert base == {"run": str(runs / "base"), "step": 4, "sha256": digest}
    shown = describe_run(runs / "lora")
    assert shown["trained_params"] == trained and shown["num_params"] == 33_184 + trained
    assert f"{33_184 + trained:,}, {trained:,} trained (2.26%)" in render(shown)


def test_a_run_that_is_cut_ends_in_the_same_weights(runs: Path, tmp_path: Path) -> None:
    for name in ("lora", "chain"):
        cut = tmp_path / name
        shutil.copytree(runs / name, cut)
        want = json.loads((cut / "result.json").read_text())["final"]
        (cut / "result.json").unlink()
        shutil.rmtree(cut / "checkpoints" / "00000004")
        assert api.fit(load_saved(cut), must_exist=True).result["final"] == want


def test_the_base_is_its_own_to_the_bit_and_merged_weights_continue_in_a_chain(runs: Path) -> None:
    base, lora = params_of(runs / "base"), params_of(runs / "lora")
    assert all(np.array_equal(lora[path], value) for path, value in base.items())
    merged, chain = params_of(runs / "lora", merge=True), params_of(runs / "chain")
    assert merged.keys() == chain.keys() == base.keys()
    moved = {path for path in base if not np.array_equal(merged[path], base[path])}
    assert moved == {f"layers/{x}/kernel" for x in ("attention/query", "ffn/up")}
    for path, value in merged.items():
        assert np.array_equal(chain[path], value) != ("norm" in path), path


def test_an_export_has_the_merged_weights(runs: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    told: list[str] = []
    export_run(runs / "lora", tmp_path / "hf", family="llama", report=told.append)
    assert "the adapter is merged into the weights of its base" in told
    found = load_file(tmp_path / "hf" / "model.safetensors")
    merged = params_of(runs / "lora", merge=True)
    for layer in range(2):
        up = merged["layers/ffn/up/kernel"][layer].T
        np.testing.assert_array_equal(found[f"model.layers.{layer}.mlp.up_proj.weight"], up)
    assert not any("lora" in name for name in found)


def test_a_wrong_or_missing_base_is_one_error_that_a_right_one_fixes(
    runs: Path, tmp_path: Path
) -> None:
    for name in ("base", "lora"):
        shutil.copytree(runs / name, tmp_path / name)
    run, moved = tmp_path / "lora", tmp_path / "moved"
    other = tmp_path / "other"
    train(other, "seed=7")
    (tmp_path / "base").rename(moved)
    named = f"^init.from: the base of checkpoint 4 is step 4 of {runs / 'base'} \\(SHA-256 "
    fix = "; give the folder of that run by init.from=DIR$"
    with pytest.raises(UserError, match=f"{named}.*but step 4 of {other} has SHA-256 .*{fix}"):
        params_of(run, f"init.from={other}")
    with pytest.raises(UserError, match=f"{named}.*gone: not a run directory.*{fix}"):
        params_of(run, f"init.from={tmp_path / 'gone'}")
    found = params_of(run, f"init.from={moved}")
    assert all(np.array_equal(found[k], v) for k, v in params_of(runs / "lora").items())
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "00000004")
    outcome = api.fit(load_saved(run, [f"init.from={moved}"]), must_exist=True)
    want = json.loads((runs / "lora" / "result.json").read_text())["final"]
    assert outcome.result["final"]["param_sha256"] == want["param_sha256"]


@dataclass(frozen=True, kw_only=True)
class Fixed(Adapter):
    """Trains the norms beside a vector that is drawn and never trained."""

    def apply(self, model: Any, *, rngs: nnx.Rngs) -> None:
        drawn = jax.random.normal(rngs.params(), (model.config.hidden_size,))
        model.fixed = nnx.Param(drawn, axes=("embed",))

    def trains(self, path: str) -> bool:
        return "norm" in path


def test_what_an_adapter_adds_and_freezes_is_drawn_beside_a_base(
    runs: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    own = f"adapter={{type: '{__name__}:Fixed'}}"
    train(run, f"init.from={runs / 'base'}", own, "train.steps=2", "checkpoint.keep_last=1")
    found, base = params_of(run), params_of(runs / "base")
    assert found.keys() - base.keys() == {"fixed"} and found["fixed"].std() > 0.5
    assert np.array_equal(found["embed/table"], base["embed/table"])


DRAWN = """
import sys
import jax
from jaxlm.adapters.freeze import Freeze
from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.core.config import parse
from jaxlm.mesh import MeshConfig
from tests import tiny

config = tiny.load("transformer").config
mesh = parse(MeshConfig, {"data": 1, "fsdp": int(sys.argv[1])})
learner = tiny.learner(config, mesh, adapter=Freeze(train=("norm",)))
state = learner.create()
again = learner.program.base(learner.program.draw())
print("sha", *map(param_sha256, (learner.frozen["base"], again, state["params"])))
"""


def test_a_draw_is_equal_on_one_and_eight_devices_in_processes_of_their_own() -> None:
    devices = [{"XLA_FLAGS": f"--xla_force_host_platform_device_count={n}"} for n in (1, 8)]
    codes, printed = run_programs(DRAWN, [["1"], ["8"]], devices)
    assert codes == [0, 0], printed
    one, eight = (text[text.index("sha ") :].split()[1:] for text in printed)
    assert one == eight and one[0] == one[1]


def test_a_base_from_the_seed_is_drawn_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, "adapter={type: freeze, train: [ffn]}", "train.steps=2", "checkpoint.keep_last=1")
    identity = json.loads((run / "checkpoints" / "00000002" / "identity.json").read_text())
    assert identity["frozen"]["base"].keys() == {"seed", "sha256"}
    table = params_of(run)["embed/table"]
    assert np.array_equal(
        table, params_of(run, "mesh={data: 1, fsdp: 4, num_devices: 4}")["embed/table"]
    )
    with pytest.raises(UserError, match="drawn from seed .*, but the seed's has SHA-256"):
        params_of(run, "seed=9")
