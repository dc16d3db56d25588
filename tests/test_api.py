"""The Python API: train, load, and what a `Run` gives."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxlm
from jaxlm.core.config import UserError
from tests import tiny

QUIET = (
    *("train.steps=2", "eval.every_steps=null", "sample.prompts=[]", "logging.tensorboard=false"),
    "mesh={data: 2, fsdp: 2, tensor: 2}",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> jaxlm.Run:
    folder = tmp_path_factory.mktemp("api") / "run"
    return jaxlm.train(tiny.load("transformer", *QUIET, f"run_dir={folder}").config)


def test_a_config_made_in_python_trains_and_loads(run: jaxlm.Run) -> None:
    again = jaxlm.load(run.path)
    assert (again.step, again.config) == (2, run.config)
    assert [line["step"] for line in run.metrics if "train/loss" in line] == [1, 2]
    values = again.evaluate()
    last = [line["final/loss"] for line in run.metrics if "final/loss" in line][-1]
    assert values["eval/loss"] == pytest.approx(last, rel=1e-5)


def test_logits_are_those_of_each_text_alone(run: jaxlm.Run) -> None:
    texts = ["the king", "a horse, a horse", "no"]
    together = run.logits(texts)
    assert together.dtype == np.float32
    for row, text in zip(together, texts, strict=True):
        alone = run.logits([text])[0]
        np.testing.assert_allclose(row[: len(alone)], alone, atol=1e-5)


def test_perplexity_is_that_of_the_logits(run: jaxlm.Run) -> None:
    ids = [5, 9, 17, 3]
    logits = run.logits([ids])[0].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = math.exp(-np.mean([logs[t, ids[t + 1]] for t in range(3)]))
    assert run.perplexity([ids, [4, 4]])[0] == pytest.approx(want, rel=1e-5)


def test_hidden_states_of_the_last_layer_give_the_logits(run: jaxlm.Run) -> None:
    ids = [[5, 9, 17, 3]]
    model = run.config.model
    states = [run.hidden(ids, layer=n) for n in range(model.num_layers + 1)]
    assert {x.shape for x in states} == {(1, 4, model.hidden_size)}
    assert not np.allclose(states[0], states[-1])
    final, kernel = run.hidden(ids)[0], np.asarray(run.params["embed"]["table"])
    np.testing.assert_allclose(run.logits(ids)[0], final @ kernel.T, atol=1e-4)


def test_text_is_generated(run: jaxlm.Run) -> None:
    text = run.generate("the", max_tokens=4, temperature=0.0)
    assert isinstance(text, str) and run.generate(["the"], max_tokens=4, temperature=0.0) == [text]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run: run.logits("one text"), "give a list"),
        (lambda run: run.logits([]), "is empty"),
        (lambda run: run.perplexity([[5]]), "less than two tokens"),
        (lambda run: jaxlm.load(run.path / "absent"), "not a run directory"),
    ],
)
def test_mistakes_are_one_line(run: jaxlm.Run, call, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        call(run)
    assert "\n" not in str(caught.value)


def test_the_package_is_imported_without_jax() -> None:
    code = "import sys, jaxlm; dir(jaxlm); assert 'jax' not in sys.modules; jaxlm.RunConfig"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runs_that_stop_early_raise(tmp_path: Path) -> None:
    config = tiny.load("transformer", *QUIET, f"run_dir={tmp_path}/run").config
    with pytest.raises(RuntimeError, match="not finite"):
        jaxlm.train(config, ["optimizer.learning_rate=1e30", "train.max_bad_steps=1"])
