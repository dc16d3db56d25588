"""The loop's promises: one compiled step, metrics read one step late, nothing moved in secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxlm import api
from jaxlm.training import loop
from jaxlm.training.learner import GradientLearner
from jaxlm.training.loop import DONE, Loop
from tests import tiny

STEPS = 12
QUIET = (
    *("eval.every_steps=null", "eval.at_end=false", "sample.prompts=[]"),
    *("checkpoint.every_steps=null", "logging.tensorboard=false", "train.ledger=false"),
)


def train(run: Path, *settings: str, name: str = "transformer") -> loop.Outcome:
    return api.fit(
        tiny.load(name, f"train.steps={STEPS}", f"run_dir={run}", "mesh.num_devices=2", *settings)
    )


@pytest.fixture
def compilations() -> Any:
    """The names of the programs that XLA has compiled, or read from the cache, so far."""
    names: list[str] = []

    def listen(event: str, duration: float, **facts: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(facts.get("fun_name", ""))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("name", tiny.MODELS)
def test_the_step_compiles_once_and_nothing_else_in_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[str], name: str
) -> None:
    """Steps, evaluations, samples and saves: each has its program, made at its first use."""
    at: dict[int, int] = {}
    after = Loop._after

    def count(self: Loop, state: Any, step: int) -> Any:
        outcome = after(self, state, step)
        at[step] = len(compilations)
        return outcome

    monkeypatch.setattr(Loop, "_after", count)
    settings = ("eval.every_steps=3", "sample.every_steps=3", "checkpoint.every_steps=3")
    assert train(tmp_path / "run", *settings, "train.accumulation=2", name=name).code == DONE
    steps = [n for n in compilations if "train_step" in n]
    assert len(steps) == 1, compilations
    # from the second evaluation, sample and save on there is nothing left to compile
    assert at[1] == at[2] and at[6] == at[STEPS], compilations[at[1] :]


def test_metrics_are_read_when_the_next_step_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[tuple[str, int]] = []
    compile_, get = GradientLearner.compile, jax.device_get
    of: dict[int, int] = {}  # id of a step's metrics -> the step
    kept: list[Any] = []

    def compiled(*arguments: Any) -> Any:
        step = compile_(*arguments)

        def run(state: Any, frozen: Any, batch: Any) -> Any:
            state, metrics = step(state, frozen, batch)
            kept.append(metrics)
            of[id(metrics)] = len(kept)
            order.append(("dispatch", len(kept)))
            return state, metrics

        return run

    def read(tree: Any) -> Any:
        if id(tree) in of:
            order.append(("read", of[id(tree)]))
        return get(tree)

    monkeypatch.setattr(GradientLearner, "compile", compiled)
    monkeypatch.setattr(jax, "device_get", read)
    assert train(tmp_path / "run", *QUIET).code == DONE
    want = [("dispatch", 1)]
    for step in range(2, STEPS + 1):
        want += [("dispatch", step), ("read", step - 1)]
    assert order == [*want, ("read", STEPS)]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the host reads or waits for in the loop itself, but for `device_get`s of metrics."""
    seen: list[str] = []
    watching, reading = [False], [False]
    array = type(jax.numpy.zeros(()))

    def watched(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if watching[0] and not reading[0]:
                seen.append(name)
            return function(*arguments)

        return call

    def flagged(flag: list[bool], function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            flag[0] = True
            try:
                return function(*arguments)
            finally:
                flag[0] = False

        return call

    value, block = array._value, array.block_until_ready
    monkeypatch.setattr(array, "_value", property(watched("value", value.fget)))
    monkeypatch.setattr(array, "block_until_ready", watched("block", block))
    monkeypatch.setattr(jax, "block_until_ready", watched("block", jax.block_until_ready))
    monkeypatch.setattr(jax, "device_get", flagged(reading, jax.device_get))
    monkeypatch.setattr(Loop, "_train", flagged(watching, Loop._train))
    return seen


def test_the_host_waits_for_nothing_else(tmp_path: Path, waits: list[str]) -> None:
    """No array is read, and nothing waited for, but by the `device_get` of the step before."""
    assert train(tmp_path / "run", *QUIET).code == DONE
    assert waits == []


LOOKS = {"asarray": np.asarray, "float": float, "block": jax.block_until_ready}


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_at_an_array_in_the_loop_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[str], look: str
) -> None:
    """What the test above rests on."""
    read = Loop._read

    def read_more(self: Loop, latest: Any) -> Any:
        if latest is not None:
            LOOKS[look](latest[2]["grad_norm"][0])
        return read(self, latest)

    monkeypatch.setattr(Loop, "_read", read_more)
    assert train(tmp_path / "run", *QUIET, "train.steps=2").code == DONE
    assert waits


def test_a_hidden_transfer_in_the_loop_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transfer guard is on: a number that slips into device code from the host is found."""
    compile_ = GradientLearner.compile

    def compiled(*arguments: Any) -> Any:
        step = compile_(*arguments)

        def run(state: Any, frozen: Any, batch: Any) -> Any:
            jax.numpy.add(batch["tokens"], np.ones(3, np.int32)[0])
            return step(state, frozen, batch)

        return run

    monkeypatch.setattr(GradientLearner, "compile", compiled)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train(tmp_path / "run", *QUIET)
