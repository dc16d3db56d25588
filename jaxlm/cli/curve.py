"""`jaxlm curve CONFIG --from RUN`: whether pre-training pays, with few and with many labels."""

from __future__ import annotations

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.values import PATH, WHOLE, Value
from jaxlm.cli.shared.verb import TRAINING, verb
from jaxlm.core.errors import UserError, shown


def _counts(text: str) -> tuple[int, ...]:
    """The numbers of "100,300,1000"."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
        raise UserError(f"{shown(text)} is not a list of numbers; write one, such as 100,300,1000")
    return tuple(int(part) for part in parts)


@verb(
    "measure what pre-training is worth, at several numbers of labels",
    section=TRAINING,
    examples=(
        ("curve configs/finetune/sentiment_en.yaml --from runs/quickstart", ""),
        ("curve my.yaml --from runs/quickstart --labels 50,200 --seeds 3 train.epochs=10", ""),
    ),
    works=True,
    exit_codes=True,
)
@options.config
@click.option(
    "--labels",
    type=Value("numbers", _counts),
    default="100,300,1000",
    show_default=True,
    metavar="N,N,...",
    help="numbers of training records",
)
@click.option(
    "--seeds",
    type=WHOLE,
    default=5,
    show_default=True,
    metavar="N",
    help="runs of each: other weights, another order, other records",
)
@click.option(
    "--from", "start", type=PATH, metavar="RUN", help="the run to start from (default: init.from)"
)
@click.option(
    "--out", type=PATH, metavar="DIR", help="folder of the runs (default: runs/CONFIG_curve)"
)
def command(
    config: str,
    overrides: tuple[str, ...],
    labels: tuple[int, ...],
    seeds: int,
    start: str | None,
    out: str | None,
) -> int:
    """Trains the config from scratch and from a run, on the same records, and compares both by a
    paired bootstrap. Writes curve.json and curve.html. The same command continues after an
    interruption and skips what is there.
    """
    from jaxlm.api.curve import curve
    from jaxlm.cli.shared.training import say

    given = (*overrides, f"init.from={start}") if start else overrides
    outcome = curve(config, given, labels=labels, seeds=seeds, out=out, report=say)
    print(outcome.message)
    return outcome.code
