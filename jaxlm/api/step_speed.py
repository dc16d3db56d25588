"""The time of a train step, measured before a run: how many steps fit into a budget of seconds.

    speed = seconds_per_step(config, seconds=2.0)
    steps = max(1, round(budget / speed))

The step of the config is compiled and taken on its own data, without a run's folder. Waiting for
batches counts, and so do the evaluations that the run makes while it trains (`eval.every_steps`),
spread over the steps. Compiling does not, nor do the first steps.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.evals.evaluators import evaluators_of
from jaxlm.run import RunConfig
from jaxlm.training import restoring
from jaxlm.training.compiler import options_for
from jaxlm.training.feed import Feed, batch_spec
from jaxlm.training.session import Session

WARM = 2  # steps before the clock starts
LEAST = 3  # steps that are measured, however long they take
LONG = 10**6  # the schedule's steps: a rate changes no time


def seconds_per_step(
    config: RunConfig,
    *,
    seconds: float,
    report: Callable[[str], None] = print,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The mean time of a step over about `seconds`, with its share of the evaluations.

    Raises `UserError` for a config that cannot be trained.
    """
    config = config.replace(train=config.train.replace(steps=LONG, epochs=None))
    session = Session.open(config, report)
    learner = session.learner
    assert learner is not None, "a session for training"
    with tempfile.TemporaryDirectory() as empty, jax.set_mesh(learner.mesh):
        state, _ = restoring.find_state(session, CheckpointReader(Path(empty), report=report))
    options = options_for(jax.local_devices()[0].device_kind, config.train.xla)
    spec = batch_spec(session.batch_rows, config.train.batch_size, learner.mesh)
    step = learner.compile(spec, options)
    taken, start, before = 0, 0.0, None
    feed = Feed(session.train_loader(), learner.mesh, 0, ahead=min(2, config.train.prefetch))
    with feed, jax.set_mesh(learner.mesh):
        while taken < WARM + LEAST or clock() - start < seconds:
            if taken == WARM:
                jax.block_until_ready(state)
                start = clock()
            _, batch = next(feed)
            batch = dict(learner.batch(state, learner.frozen, batch))
            state, metrics = step(state, learner.frozen, batch)
            jax.device_get(before)  # as the loop does: the metrics of the step before
            before, taken = metrics, taken + 1
        jax.block_until_ready(state)
        mean = (clock() - start) / (taken - WARM)
        return mean + _evaluations(session, learner.weights(state, learner.frozen), clock)


def _evaluations(session: Session, params: Any, clock: Callable[[], float]) -> float:
    """Seconds of evaluations for each step of training."""
    spent = 0.0
    for evaluator in evaluators_of(session):
        every, most = evaluator.config.every_steps, evaluator.config.max_batches
        if every is None:
            continue
        evaluator.measuring.after(params, [most])  # compiles
        start = clock()
        evaluator.measuring.after(params, [most])
        spent += (clock() - start) / every
    return spent
