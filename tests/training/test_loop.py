"""The loop's promises: one compiled step, metrics read one step late, nothing moved in secret."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxlm import api
from jaxlm.core.callback import Hook, Taken
from jaxlm.core.exit_codes import DONE
from jaxlm.training.learner import GradientLearner
from jaxlm.training.outcome import Outcome
from tests import tiny

pytestmark = pytest.mark.usefixtures("shared_programs")

STEPS = 12
QUIET = (
    "eval.every_steps=null",
    "eval.at_end=false",
    "sample.prompts=[]",
    "checkpoint.every_steps=null",
    "logging.tensorboard=false",
    "train.ledger=false",
)


def train(
    run: Path, *settings: str, name: str = "transformer", hooks: Sequence[Hook] = ()
) -> Outcome:
    own = (f"train.steps={STEPS}", f"run_dir={run}", "mesh.num_devices=2")
    return api.fit(tiny.load(name, *own, *settings), hooks=hooks)


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
    tmp_path: Path, compilations: list[str], name: str
) -> None:
    """Steps, evaluations, samples and saves: each has its program, made at its first use."""
    at: dict[int, int] = {}

    class Count(Hook):
        def on_dispatch(self, run: Any, taken: Taken) -> None:
            at[taken.step] = len(compilations)

    settings = ("eval.every_steps=3", "sample.every_steps=3", "checkpoint.every_steps=3")
    settings += ("train.accumulation=2",)
    assert train(tmp_path / "run", *settings, name=name, hooks=[Count()]).code == DONE
    steps = [n for n in compilations if "train_step" in n]
    assert len(steps) == 1, compilations
    # from the second evaluation, sample and save on there is nothing left to compile
    assert at[2] == at[3] and at[7] == at[STEPS], compilations[at[2] :]


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


class Watch(Hook):
    """Notes what the host reads or waits for in the loop, except for `device_get`s of metrics."""

    READS = ("__array__", "__float__", "__int__", "__bool__", "__index__", "block_until_ready")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self._watching = self._reading = False
        array, get = type(jax.numpy.zeros(())), jax.device_get
        for name in self.READS:
            monkeypatch.setattr(array, name, self._noted(name, getattr(array, name)))
        monkeypatch.setattr(jax, "block_until_ready", self._noted("block", jax.block_until_ready))

        def read(tree: Any) -> Any:
            self._reading = True
            try:
                return get(tree)
            finally:
                self._reading = False

        monkeypatch.setattr(jax, "device_get", read)

    def _noted(self, name: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if self._watching and not self._reading:
                self.seen.append(name)
            return function(*arguments, **named)

        return call

    def on_start(self, run: Any) -> None:
        self._watching = True

    def on_metrics(self, run: Any, taken: Taken) -> None:
        self._watching = taken.step < run.total


def test_the_host_waits_for_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No array is read, and nothing waited for, but by the `device_get` of the step before."""
    watch = Watch(monkeypatch)
    assert train(tmp_path / "run", *QUIET, hooks=[watch]).code == DONE
    assert watch.seen == []


LOOKS = {"asarray": np.asarray, "float": float, "block": jax.block_until_ready}


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_at_an_array_in_the_loop_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    """The test above depends on it."""

    class Look(Hook):
        def on_dispatch(self, run: Any, taken: Taken) -> None:
            LOOKS[look](taken.metrics["grad_norm"][0])

    watch = Watch(monkeypatch)
    assert train(tmp_path / "run", *QUIET, hooks=[watch, Look()]).code == DONE
    assert watch.seen


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
