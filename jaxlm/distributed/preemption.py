"""All processes of a run stop after the same step, although only one may receive the signal.

    stop = Preemption(signals)          # before the first step
    while step < total and not stop.reached():
        step += 1
        ...

jax's preemption sync does the work (`jax.experimental.multihost_utils`): a notice in the store of
the distributed runtime reaches a thread in each process, the processes exchange how often each has
asked, and all of them stop at the largest of these counts plus one. Nothing is added to the step or
its batch; a question takes about 10 microseconds and does not use the network.

jax itself gives notice at SIGTERM only, from a handler that the one of `Signals` replaces. So a
process gives notice here, for any signal, and in milliseconds instead of up to a second. Counts are
those of this process, not numbers of steps: jax compares for equality, and a notice that arrives
before the first step of a resumed run would set a step that is already in the past.
"""

from __future__ import annotations

from datetime import UTC, datetime

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

from jaxlm.distributed.consensus import store
from jaxlm.distributed.signals import Signals

NOTICE = "RECEIVED_PREEMPTION_NOTICE"  # the key that XLA's PreemptionSyncManager waits for


class Preemption:
    """Whether the run stops. Every process asks equally often: once a turn of the same loop."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._several = jax.process_count() > 1
        self._noticed = self._reached = False
        self._count = 0

    def reached(self) -> bool:
        """Whether to stop now: the same answer in every process, and True from then on.

        Alone, a process stops as soon as it has received a signal.
        """
        if not self._several:
            return self._signals.asked
        if self._reached:
            return True
        if self._signals.asked and not self._noticed:
            self._noticed = True
            now = datetime.now(UTC).isoformat(timespec="seconds")
            store().key_value_set(NOTICE, now, allow_overwrite=True)
        self._count += 1
        self._reached = reached_preemption_sync_point(self._count)
        return self._reached
