"""`jaxlm ladder CONFIG`: models from unigrams to Transformers, at budgets of training time."""

from __future__ import annotations

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.values import PATH, Value
from jaxlm.cli.shared.verb import TRAINING, verb
from jaxlm.core.errors import UserError, shown


def _names(text: str) -> tuple[str, ...]:
    """The names of "10s,1min"."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise UserError(f"{shown(text)} is not a list of names; write one, such as 10s,1min")
    return parts


@verb(
    "compare models at budgets of training time",
    section=TRAINING,
    examples=(
        ("ladder configs/ladder/shakespeare.yaml", ""),
        ("ladder configs/ladder/shakespeare.yaml --budgets 10s,1min --rungs LSTM,GRU", ""),
    ),
    works=True,
    exit_codes=True,
)
@options.config
@click.option(
    "--budgets",
    type=Value("names", _names),
    metavar="NAME,NAME,...",
    help="budgets of the file, such as 10s,1min (default: all that are not optional)",
)
@click.option(
    "--rungs",
    type=Value("names", _names),
    metavar="NAME,NAME,...",
    help="models of the file, by their names (default: all)",
)
@click.option(
    "--out", type=PATH, metavar="DIR", help="folder of the runs (default: runs/ladder/CONFIG)"
)
def command(
    config: str,
    overrides: tuple[str, ...],
    budgets: tuple[str, ...] | None,
    rungs: tuple[str, ...] | None,
    out: str | None,
) -> int:
    """Trains each model of the file for each budget, and writes ladder.json and ladder.html: a
    measure against seconds, FLOPs and parameters. The same command continues after an interruption
    and skips what is there.
    """
    from jaxlm.api.ladder import ladder
    from jaxlm.cli.shared.training import say

    outcome = ladder(config, overrides, budgets=budgets, rungs=rungs, out=out, report=say)
    print(outcome.message)
    return outcome.code
