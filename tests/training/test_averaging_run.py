"""A run whose weights are averaged from a step on that validation decides (NT-ASGD)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm import api
from jaxlm.core.callback import Hook
from jaxlm.core.config import UserError
from jaxlm.core.exit_codes import INTERRUPTED
from jaxlm.core.tree import flatten
from jaxlm.run import trajectory
from jaxlm.runs.trackers import read_metrics
from tests import tiny
from tests.hooks import At, terminate

pytestmark = pytest.mark.usefixtures("shared_programs")

# A rate that soon overshoots, so that the validation loss rises.
SETTINGS = (
    *tiny.FOUR_SMALL_STEPS,
    "train.steps=12",
    "checkpoint.every_steps=3",
    "optimizer={type: sgd, learning_rate: 20, clip_norm: null, averaging: {patience: 1}}",
    "eval={every_steps: 2, max_batches: 1, batch_size: 4}",
)


class Seen(Hook):
    """The weights after each step, and the step at which averaging begins."""

    def __init__(self) -> None:
        self.weights: dict[int, np.ndarray] = {}
        self.began: int | None = None

    def due(self, run: Any, step: int) -> bool:
        return True

    def on_step(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        self.weights[step] = np.asarray(jax.device_get(flatten(run.state["params"])["embed/table"]))
        if self.began is None and int(run.state["num_averaged"]) > 0:
            self.began = step


def train(run: Path, *hooks: Hook) -> Any:
    return api.fit(tiny.load("lstm", *SETTINGS, f"run_dir={run}"), hooks=hooks)


def test_the_average_is_that_of_the_weights_since_validation_rose_also_after_a_kill(
    tmp_path: Path,
) -> None:
    seen = Seen()
    result = train(tmp_path / "straight", seen).result
    assert seen.began is not None and 2 <= seen.began <= 10
    losses = [
        x["eval/loss"] for x in read_metrics(tmp_path / "straight/metrics.jsonl")
        if "eval/loss" in x and x["step"] <= seen.began
    ]  # fmt: skip
    assert losses[-1] > min(losses[:-2]), "the evaluation that decides"
    run = jaxlm.load(tmp_path / "straight")
    table = np.asarray(flatten(run.params)["embed/table"])
    want = np.mean([w for step, w in seen.weights.items() if step >= seen.began], axis=0)
    np.testing.assert_allclose(table, want, rtol=1e-5, atol=1e-6)
    assert np.abs(table - seen.weights[12]).max() > 1e-3, "not the last weights"

    # killed before averaging begins, and in the middle of it
    for stop in (2, seen.began + 1):
        again = Seen()
        assert train(tmp_path / "cut", At({stop: terminate}), again).code == INTERRUPTED
    assert train(tmp_path / "cut").result["final"] == result["final"]
    resumed = flatten(jaxlm.load(tmp_path / "cut").params)["embed/table"]
    np.testing.assert_array_equal(resumed, table)


def test_what_is_measured_belongs_to_the_run_and_must_be_measured(tmp_path: Path) -> None:
    config = tiny.load("lstm", *SETTINGS).config
    assert trajectory(config) != trajectory(config.replace(eval=config.eval.replace(every_steps=3)))
    with pytest.raises(UserError, match=r"optimizer.averaging.measure: .* at the end alone"):
        api.fit(tiny.load("lstm", *SETTINGS, "eval.every_steps=null", f"run_dir={tmp_path}/run"))
