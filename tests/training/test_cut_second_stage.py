"""Each method of the second stage: a run that is cut in the middle ends in the same weights.

In one process, at a tiny size: what a checkpoint of each method holds is all that the rest of its
run needs. `tools/chaos.py --scenario NAME` kills processes of such runs at random instants. Other
methods have such a test among their own: DPO, distillation, GKD, GRPO with its default loss, word
vectors and n-grams.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxlm import api
from jaxlm.run import load_saved
from tests import tiny
from tests.commands import ROOT

sys.path.insert(0, str(ROOT / "tools"))

from combinations import METHODS  # noqa: E402  # records of each method

HERE = "test_cut_second_stage"
pytestmark = pytest.mark.usefixtures("shared_programs")


def low_letters(record: dict[str, Any], text: str) -> float:
    """The share of characters below "P": a random model has about a half of them."""
    return sum(c < "P" for c in text) / 8


ALL = "{type: %s, rank: 2, targets: [all-linear]}"
WRITES = f"group_size: 4, max_tokens: 4, rewards: ['{HERE}:low_letters'], variant: "
# {case: (method of tools/combinations.py, objective if it is another, adapter, config)}
CASES = {
    "orpo": ("ORPO", "", "null"),
    "simpo": ("SimPO", "", "null"),
    "reward": ("reward model", "", "null"),
    "kto": ("KTO", "", "null"),
    "classification": ("classification", "", "null"),
    "multi_label": ("multi-label", "", "null"),
    "regression": ("regression", "", "null"),
    "tagging": ("tagging", "", "null"),
    "question_answering": ("question answering", "", "null"),
    "seq2seq": ("translation, encoder", "", "null"),
    "lora": ("prompt and completion", "", ALL % "lora"),
    "dora": ("prompt and completion", "", ALL % "dora"),
    **{name: ("GRPO", f"grpo, {WRITES}{name}", "null") for name in ("grpo", "dr_grpo", "gspo")},
}
SETTINGS = (
    *tiny.FOUR_SMALL_STEPS,
    "eval.every_steps=null",
    "eval.at_end=false",
    "train.batch_size=8",  # three batches an epoch: the rest of a cut run begins another one
    "model.hidden_size=16",
    "model.num_layers=1",
    "model.dropout=0.1",  # whose draws follow from the seed and the step
    "optimizer.schedule.warmup=1",
)
ENCODER = ("model.encoder.hidden_size=16", "model.encoder.num_layers=1")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind of model, which the others start from."""
    made = {}
    for smoke, own in (("transformer", ()), ("t5", ENCODER)):
        made[smoke] = tmp_path_factory.mktemp("base") / smoke
        settings = (*SETTINGS, *own, "data.seq_len=32", "train.steps=1", f"run_dir={made[smoke]}")
        assert api.fit(tiny.load(smoke, *settings)).code == 0
    return made


def config_of(name: str, bases: dict[str, Path], folder: Path) -> Any:
    called, objective, adapter = CASES[name]
    method = METHODS[called]
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(method.make(n)) + "\n" for n in range(24)))
    smoke, own = ("t5", ENCODER) if name == "seq2seq" else ("transformer", ())
    return tiny.load(
        smoke,
        *SETTINGS,
        *own,
        f"data={{type: records, source: {{type: files, files: {rows}}}, seq_len: 32}}",
        f"data.task={{type: {method.task}}}",
        f"objective={{type: {objective or method.objective}}}",
        f"adapter={adapter}",
        f"init.from={bases[smoke]}",
        f"run_dir={folder / 'run'}",
    )


def steps_of(run: Path) -> dict[int, tuple[float, float]]:
    """{step: (loss, or reward of what was written; norm of the gradient)}"""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        line["step"]: (line.get("train/loss", line.get("train/reward")), line["train/grad_norm"])
        for line in lines
        if "train/grad_norm" in line
    }


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_is_cut_ends_in_the_same_weights(
    name: str, bases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = api.fit(config_of(name, bases, tmp_path))
    assert whole.code == 0
    run = tmp_path / "run"
    steps = steps_of(run)
    assert list(steps) == [1, 2, 3, 4] and steps[3][1] > 0 and steps[4][1] > 0
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "00000004")
    capsys.readouterr()
    again = api.fit(load_saved(run), must_exist=True)
    assert "resume <- checkpoint 2 of" in capsys.readouterr().out
    assert again.result["final"]["param_sha256"] == whole.result["final"]["param_sha256"]
    assert steps_of(run) == steps and (run / "checkpoints" / "00000004").is_dir()
