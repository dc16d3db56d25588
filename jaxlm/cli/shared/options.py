"""The arguments and options that several verbs have, as decorators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from jaxlm.cli.shared.values import COUNT, PATH, STEP, WHOLE, Choice
from jaxlm.cli.shared.verb import Argument, Option

F = TypeVar("F", bound=Callable[..., Any])
PROCESSES = "Several processes (found automatically on TPU pods and Slurm)"


def argument(name: str, about: str, **settings: Any) -> Callable[[F], F]:
    """An argument with a help text."""
    return click.argument(name, cls=Argument, about=about, **settings)


def action(choices: Sequence[str], about: str) -> Callable[[F], F]:
    """The action of the verb, as its first word: `data prepare`."""
    name = "|".join(choices)
    return argument("action", about, type=Choice(choices), metavar=name)


def overrides(function: F) -> F:
    about = "settings that override the file, such as optimizer.learning_rate=1e-3"
    return argument("overrides", about, nargs=-1, metavar="[key.sub=value]")(function)


def config(function: F) -> F:
    """A config file and what overrides its settings."""
    first = argument("config", "a YAML file", type=PATH, metavar="CONFIG")
    return first(overrides(function))


def run_dir(function: F) -> F:
    about = "the folder of a run"
    return argument("run_dir", about, type=PATH, metavar="RUN_DIR")(function)


def accept_changed_data(function: F) -> F:
    return click.option(
        "--accept-changed-data",
        is_flag=True,
        help="use data that has changed since the run was trained on it; the run's log says so",
    )(function)


def processes(function: F) -> F:
    """The options of one process of several."""
    group: dict[str, Any] = {"cls": Option, "group": PROCESSES}
    for decorate in (
        click.option(
            "--process-id", type=COUNT, metavar="I", help="number of this process, from 0", **group
        ),
        click.option(
            "--num-processes", type=WHOLE, metavar="N", help="number of processes", **group
        ),
        click.option("--coordinator", metavar="HOST:PORT", help="address of process 0", **group),
    ):
        function = decorate(function)
    return function


def step(function: F) -> F:
    about = "checkpoint to use: a number, or best (default: newest)"
    return click.option("--step", type=STEP, metavar="N", help=about)(function)


def weights(function: F) -> F:
    return click.option(
        "--weights",
        type=click.Choice(["int8", "nf4"]),
        help="store kernels in 8 or 4 bits (default: as the run has them)",
    )(function)


def json(function: F) -> F:
    about = "print JSON"
    return click.option("--json", "as_json", is_flag=True, help=about)(function)
