"""The Python API: train, load, and what a `Run` gives."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxlm
from jaxlm.core.config import UserError
from jaxlm.data.sources.synthetic import Synthetic
from jaxlm.data.text import TextData
from jaxlm.data.tokenizers.base import Bytes
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.attention import MultiHeadConfig
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.optim.adamw import AdamW
from jaxlm.run import TrainConfig
from jaxlm.runs.files import read_result
from jaxlm.runs.folder import RunDir
from jaxlm.runs.trackers import LoggingConfig
from tests import tiny

pytestmark = pytest.mark.usefixtures("shared_programs")

QUIET = (
    "train.steps=2",
    "eval.every_steps=null",
    "sample.prompts=[]",
    "logging.tensorboard=false",
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


def test_a_config_built_in_python_trains_as_a_yaml_does(tmp_path: Path) -> None:
    """The same run, to the last bit of its weights and of its identity."""
    (tmp_path / "run.yaml").write_text(
        f"""
        seed: 3
        run_dir: {tmp_path}/yaml
        cache_dir: {tiny.cache_dir()}
        tokenizer: {{type: bytes}}
        data: {{type: text, source: {{type: synthetic, num_documents: 20}}, seq_len: 16}}
        model:
          type: transformer
          hidden_size: 16
          num_layers: 1
          attention: {{type: multi_head, num_heads: 2}}
        objective: {{type: causal_lm}}
        optimizer: {{type: adamw, learning_rate: 1.0e-3}}
        train: {{steps: 2, batch_size: 8}}
        logging: {{tensorboard: false}}
        """
    )
    config = jaxlm.RunConfig(
        seed=3,
        run_dir=f"{tmp_path}/python",
        cache_dir=tiny.cache_dir(),
        tokenizer=Bytes(),
        data=TextData(source=Synthetic(num_documents=20), seq_len=16),
        model=TransformerConfig(
            hidden_size=16, num_layers=1, attention=MultiHeadConfig(num_heads=2)
        ),
        objective=CausalLM(),
        optimizer=AdamW(learning_rate=1e-3),
        train=TrainConfig(steps=2, batch_size=8),
        logging=LoggingConfig(tensorboard=False),
    )
    runs = [jaxlm.train(tmp_path / "run.yaml"), jaxlm.train(config)]
    finals = [read_result(RunDir(run.path))[0]["final"] for run in runs]
    for key in ("param_sha256", "config_sha256", "eval/loss"):
        assert finals[0][key] == finals[1][key]


STEPS = ("train.steps=6", "checkpoint.every_steps=4", "eval.at_end=false", "train.prefetch=0")


def test_the_steps_of_a_run_one_by_one(tmp_path: Path) -> None:
    config = tiny.load("transformer", *QUIET, *STEPS, f"run_dir={tmp_path}/run").config
    seen, before = {}, None
    steps = jaxlm.steps(config)
    for step in steps:
        seen[step.step] = step.metrics["loss"]
        table = np.asarray(step.params["embed"]["table"])
        assert before is None or not np.array_equal(table, before), "each step changes it"
        before = table
    assert steps.outcome is not None and steps.outcome.code == 0
    run = jaxlm.load(f"{tmp_path}/run")
    assert seen == {x["step"]: x["train/loss"] for x in run.metrics if "train/loss" in x}
    np.testing.assert_array_equal(before, np.asarray(run.params["embed"]["table"]))


@pytest.mark.parametrize("way", ["break", "with", "error"])
def test_to_leave_the_steps_early_saves_the_run(tmp_path: Path, way: str) -> None:
    config = tiny.load("transformer", *QUIET, *STEPS, f"run_dir={tmp_path}/run").config
    if way == "with":
        with jaxlm.steps(config) as steps:
            for step in steps:
                if step.step == 3:
                    break
        assert steps.outcome is not None and "stopped after step 3 of 6, saved" in (
            steps.outcome.message
        )
    else:
        with contextlib.suppress(ZeroDivisionError):
            for step in jaxlm.steps(config):
                if step.step == 3:
                    if way == "break":
                        break
                    1 / 0  # noqa: B018
    assert jaxlm.load(f"{tmp_path}/run").step == 3
    assert [step.step for step in jaxlm.steps(config)] == [4, 5, 6]
    straight = tiny.load("transformer", *QUIET, *STEPS, f"run_dir={tmp_path}/straight").config
    finals = [
        read_result(RunDir(Path(path)))[0]["final"]["param_sha256"]
        for path in (f"{tmp_path}/run", jaxlm.train(straight).path)
    ]
    assert finals[0] == finals[1]


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
        (lambda run: run.predict(["a text"]), "its data is running text"),
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
    quiet = (*QUIET[:-1], "mesh={data: 1, num_devices: 1}")
    config = tiny.load("transformer", *quiet, f"run_dir={tmp_path}/run").config
    with pytest.raises(RuntimeError, match="not finite"):
        jaxlm.train(config, ["optimizer.learning_rate=1e30", "train.max_bad_steps=1"])
