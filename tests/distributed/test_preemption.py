"""Two processes, one of which receives a signal, stop after the same step."""

from __future__ import annotations

import signal

import pytest

from jaxlm.distributed.preemption import Preemption
from jaxlm.distributed.signals import Signals
from tests.several import in_two

# Each step is a sum over both processes, and as in training the step before has ended when the next
# one is dispatched: XLA's threads for CPUs can block each other when dozens of programs are queued.
PROGRAM = """
import os, signal, sys
from jaxlm.distributed.processes import init_processes
from jaxlm.distributed.preemption import Preemption
from jaxlm.distributed.signals import Signals

number, at, start = map(int, sys.argv[1:])
init_processes()
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
mesh = jax.make_mesh((jax.device_count(),), ("data",))
sharding = NamedSharding(mesh, PartitionSpec("data"))
x = jax.device_put(np.ones(jax.device_count(), np.float32), sharding)
add = jax.jit(lambda x: x + x.sum(), out_shardings=sharding)
with Signals() as signals, signals.waiting():
    stop, step = Preemption(signals), start
    x = add(x)
    if at == start and jax.process_index() == 1:
        os.kill(os.getpid(), number)
    while step < start + 2000 and not stop.reached():
        before, x = x, add(x * 0)
        before.block_until_ready()
        step += 1
        if step == at and jax.process_index() == 1:
            os.kill(os.getpid(), number)
    assert stop.reached()
    print("asked", signals.asked, flush=True)
print("stopped", step, flush=True)
"""


@pytest.mark.parametrize(
    ("number", "at", "start"),
    [
        (signal.SIGTERM, 130, 100),
        (signal.SIGINT, 100, 100),  # before the first step of a run that resumes
    ],
)
def test_both_stop_after_the_same_step(number: int, at: int, start: int) -> None:
    code, outputs = in_two(PROGRAM, str(number), str(at), str(start))
    assert code == 0, outputs
    steps = [int(text.split("stopped ")[1].split()[0]) for text in outputs]
    assert steps[0] == steps[1] and at <= steps[0] <= at + 20, outputs
    assert ["asked True" in text for text in outputs] == [False, True], outputs


def test_a_process_alone_stops_as_soon_as_it_is_asked() -> None:
    with Signals() as signals, signals.waiting():
        stop = Preemption(signals)
        assert not stop.reached()
        signal.raise_signal(signal.SIGINT)
        assert stop.reached() and stop.reached()
