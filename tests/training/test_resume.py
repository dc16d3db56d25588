"""A chain of resumes over epoch borders: every sample once an epoch, whatever feeds the batches."""

from __future__ import annotations

import dataclasses
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxlm import api
from jaxlm.core.exit_codes import DONE, INTERRUPTED
from jaxlm.training.outcome import Outcome
from tests.commands import records
from tests.hooks import At, terminate
from tests.tiny import load, prepared

pytestmark = pytest.mark.usefixtures("shared_programs")

STEPS, BATCH = 36, 8
STOPS = (9, 17, 33)  # an epoch ends after 16 and a half steps, and again after 33
SETTINGS = (
    "data.source.num_documents=16",
    f"train.steps={STEPS}",
    f"train.batch_size={BATCH}",
    "mesh.num_devices=1",
    "checkpoint.every_steps=null",
    "eval.every_steps=null",
    "eval.at_end=false",
    "sample.prompts=[]",
    "logging.tensorboard=false",
)


@pytest.fixture(autouse=True, scope="module")
def cache_of_small_programs() -> Iterator[None]:
    """Resumed runs need not compile again what took less than a second."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    yield
    jax.config.update(name, before)


def train(run: Path, model: str, settings: tuple[str, ...], stop: int | None = None) -> Outcome:
    """stop: the step after which the process receives SIGTERM."""
    resolved = load(model, *SETTINGS, f"run_dir={run}", *settings)
    return api.fit(resolved, hooks=[At({} if stop is None else {stop: terminate})])


def ledger(run: Path) -> Iterator[tuple[int, list[int]]]:
    for line in (run / "ledger.jsonl").read_text().splitlines():
        record = json.loads(line)
        yield record["step"], record["ids"]


def feeding(prefetch: int, workers: int = 0) -> tuple[str, ...]:
    return f"train.prefetch={prefetch}", f"train.data_workers={workers}"


@pytest.mark.parametrize(
    ("model", "accumulation", "feeds"),
    [
        # one stop, after a border inside a batch
        pytest.param("transformer", 1, [feeding(0), feeding(8)], marks=pytest.mark.slow),
        # each process in its own way; the recurrent state continues where it was
        ("lstm", 4, [feeding(0), feeding(8), feeding(8, workers=1), feeding(0)]),
    ],
)
def test_three_resumes_over_epoch_borders(
    tmp_path: Path, model: str, accumulation: int, feeds: list[tuple[str, ...]]
) -> None:
    accumulate = f"train.accumulation={accumulation}"
    run = tmp_path / "chain"
    stops = (*STOPS, None) if len(feeds) > len(STOPS) else (STOPS[1], None)
    for feed, stop in zip(feeds, stops, strict=True):
        outcome = train(run, model, (accumulate, *feed), stop)
        assert outcome.code == (DONE if stop is None else INTERRUPTED), outcome.message
        reached = STEPS if stop is None else stop
        assert f"step {reached} of {STEPS}" in outcome.message

    steps, ids = zip(*ledger(run), strict=True)
    assert steps == tuple(range(1, STEPS + 1))
    drawn = np.concatenate(ids).tolist()
    config, data = prepared(load(model, *SETTINGS, accumulate).config)
    rows = data.rows("train", batch_size=BATCH, seed=config.seed)
    assert drawn == [int(rows[i]["id"]) for i in range(STEPS * BATCH)]

    per_epoch = rows.rows_per_epoch
    assert STOPS[0] < per_epoch / BATCH < 2 * per_epoch / BATCH < STEPS
    if model == "transformer":  # a stream fills its lanes up, so its epochs are whole batches
        assert per_epoch % BATCH, "a border inside a batch"
        for start in (0, per_epoch):
            assert sorted(drawn[start : start + per_epoch]) == list(range(per_epoch))

    if model == "transformer":  # killed ones are compared in test_chaos
        return
    undisturbed = train(tmp_path / "straight", model, (accumulate, *feeding(2)))
    assert outcome.result["final"]["param_sha256"] == undisturbed.result["final"]["param_sha256"]


def test_lines_of_steps_that_run_again_are_taken_back(tmp_path: Path) -> None:
    """Lines of steps after the checkpoint, and a torn one, as SIGKILL leaves them."""
    settings = ("sample.prompts=['a']", "sample.every_steps=3", "sample.max_tokens=2")
    run = tmp_path / "run"
    assert train(run, "transformer", settings, STOPS[0]).code == INTERRUPTED
    before = {name: (run / name).read_text() for name in ("metrics.jsonl", "samples.jsonl")}
    extra = {"metrics.jsonl": "train/loss", "ledger.jsonl": "ids", "samples.jsonl": "samples"}
    for name, key in extra.items():
        with (run / name).open("a") as file:
            for step in (STOPS[0] + 1, STOPS[0] + 2):
                file.write(json.dumps({"step": step, "time": 0, key: "stale"}) + "\n")
            file.write('{"step": 10, "torn')
    assert train(run, "transformer", settings).code == DONE
    for name in extra:
        text = (run / name).read_text()
        assert "stale" not in text and "torn" not in text
        assert text.startswith(before.get(name, ""))
        told = [r["step"] for r in map(json.loads, text.splitlines()) if "event" not in r]
        assert told == sorted(set(told)) and told[-1] == STEPS


def test_the_same_seed_gives_the_same_weights_and_so_does_a_run_whose_save_fails(
    tmp_path: Path,
) -> None:
    """A limit on the size of files takes the place of a full disk for one save in the middle."""
    whole = resource.getrlimit(resource.RLIMIT_FSIZE)
    settings = ("train.steps=12", "checkpoint.every_steps=3", "checkpoint.async_save=false")

    def limit(size: int) -> Callable[[object], None]:
        return lambda run: resource.setrlimit(resource.RLIMIT_FSIZE, (size, whole[1]))

    acts = {"one": {}, "twin": {}, "failing": {5: limit(50_000), 8: limit(whole[0])}}
    weights = {}
    for name, own in acts.items():
        resolved = load("transformer", *SETTINGS, *settings, f"run_dir={tmp_path / name}")
        try:
            outcome = api.fit(resolved, hooks=[At(own)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, whole)
        assert outcome.code == DONE, outcome.message
        weights[name] = outcome.result["final"]["param_sha256"]
    assert weights["twin"] == weights["failing"] == weights["one"]
    for file in ("metrics.jsonl", "ledger.jsonl"):
        one, *others = (records(tmp_path / name / file) for name in acts)
        assert len(one) >= 12 and all(other == one for other in others)
    failed = [
        "checkpoint 6: not saved, file too large" in (tmp_path / name / "log.txt").read_text()
        for name in acts
    ]
    assert failed == [False, False, True]


def test_a_config_of_the_same_run_may_change_how_it_is_fed() -> None:
    """What `feeds` above changes does not change the run; the seed does."""
    from jaxlm.run import trajectory

    plain = load("transformer", *SETTINGS).config
    fed = load("transformer", *SETTINGS, *feeding(0, workers=1)).config
    assert trajectory(plain) == trajectory(fed)
    assert trajectory(plain) != trajectory(dataclasses.replace(plain, seed=9))
