"""`jaxlm plan CONFIG`: memory, time and cost of a run on chips that this machine does not have."""

from __future__ import annotations

import os
from typing import TypedDict, Unpack

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import PATH, RATIO, TOKENS, WHOLE
from jaxlm.cli.shared.verb import TRAINING, verb


class Options(TypedDict):
    """The options of `jaxlm.plan.command.run`, by their names."""

    topology: str | None
    slices: int
    search: bool
    compile_best: int | None
    tokens: float | None
    price: float | None
    analytic: bool
    quick: bool
    out: str | None
    save: str | None
    as_json: bool


@verb(
    "plan a run on chips that you do not have: memory, time, cost, what to change",
    section=TRAINING,
    examples=(
        ("plan CONFIG --topology v5p:4x4x8", "one slice"),
        ("plan CONFIG --topology v6e:16x16 --slices 2 --tokens 1T", "with days and cost"),
        ("plan CONFIG --topology v5e:16x16 --search --out best", "best.yaml, .tsv and .html"),
        ("plan CONFIG --topology h100:16x8", "16 nodes of 8 GPUs"),
    ),
    works=True,
)
@options.config
@click.option(
    "--topology",
    metavar="CHIP:SHAPE",
    help="such as v5p:4x4x8 or h100:16x8 (default: the config's mesh.topology)",
)
@click.option("--slices", type=WHOLE, default=1, metavar="N", help="number of slices (default 1)")
@click.option("--search", is_flag=True, help="search for better settings")
@click.option(
    "--compile-best", type=WHOLE, metavar="N", help="with --search: how many to compile (default 3)"
)
@click.option(
    "--tokens",
    type=TOKENS,
    metavar="N",
    help="tokens to train, for days and cost, such as 300B (default: from train.steps)",
)
@click.option(
    "--price", type=RATIO, metavar="USD", help="price of a chip-hour (default: list price)"
)
@click.option("--analytic", is_flag=True, help="compile nothing")
@click.option("--quick", is_flag=True, help="compile faster, without optimizations: an estimate")
@click.option("--out", type=PATH, metavar="STEM", help="write STEM.tsv and STEM.html")
@click.option(
    "--save", type=PATH, metavar="FILE", help="save the compiled step, for train.compiled"
)
@options.json
def command(config: str, overrides: tuple[str, ...], **asked: Unpack[Options]) -> int:
    """Compiles the train step of a config for a TPU topology (needs libtpu, no TPU) and reports
    whether it fits, what uses the memory, how long a step takes and what limits it. For GPUs, and
    with --analytic, a closed-form model is used, and the output says so. No data is read.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"  # a plan does not use an accelerator
    from jaxlm.plan.command import run

    return run(config, overrides, report=say, **asked)
