"""Tells the watchdog of each step, and writes the ids of its rows to the ledger."""

from __future__ import annotations

from jaxlm.core.callback import Hook, Taken
from jaxlm.training.context import Context


class Beat(Hook):
    """Each step that is dispatched beats."""

    def on_dispatch(self, run: Context, taken: Taken) -> None:
        run.watchdog.beat(taken.step)


class Ledger(Hook):
    """Each process writes the ids of its own rows, where `train.ledger` asks for it."""

    def on_dispatch(self, run: Context, taken: Taken) -> None:
        run.records.write_ids(taken.step, taken.ids)
