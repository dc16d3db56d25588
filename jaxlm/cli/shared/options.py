"""The arguments and options that several verbs have, as decorators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from jaxlm.cli.shared.values import COUNT, PATH, WHOLE, Choice
from jaxlm.cli.shared.verb import Argument, Option

F = TypeVar("F", bound=Callable[..., Any])
PROCESSES = "Several processes (found automatically on TPU pods and Slurm)"


def argument(name: str, about: str, **settings: Any) -> Callable[[F], F]:
    """An argument with a help text."""
    return click.argument(name, cls=Argument, about=about, **settings)


def action(choices: Sequence[str], about: str) -> Callable[[F], F]:
    """What the verb does, as its first word: `data prepare`."""
    name = "|".join(choices)
    return argument("action", about, type=Choice(choices), metavar=name)


def overrides(function: F) -> F:
    about = "dotted settings that override the file's, such as optimizer.learning_rate=1e-3"
    return argument("overrides", about, nargs=-1, metavar="[key.sub=value]")(function)


def config(function: F) -> F:
    """A config file and what overrides its settings."""
    first = argument("config", "a YAML file", type=PATH, metavar="CONFIG")
    return first(overrides(function))


def run_dir(function: F) -> F:
    about = "the folder that a run is kept in"
    return argument("run_dir", about, type=PATH, metavar="RUN_DIR")(function)


def accept_changed_data(function: F) -> F:
    return click.option(
        "--accept-changed-data",
        is_flag=True,
        help="use data that has changed since the run was trained on it; the run's log says so",
    )(function)


def processes(function: F) -> F:
    """Which process this is, where several train one run."""
    group: dict[str, Any] = {"cls": Option, "group": PROCESSES}
    for decorate in (
        click.option(
            "--process-id", type=COUNT, metavar="I", help="which this is, from 0", **group
        ),
        click.option("--num-processes", type=WHOLE, metavar="N", help="number of them", **group),
        click.option("--coordinator", metavar="HOST:PORT", help="where process 0 listens", **group),
    ):
        function = decorate(function)
    return function


def step(function: F) -> F:
    about = "checkpoint to use (default: newest)"
    return click.option("--step", type=COUNT, metavar="N", help=about)(function)


def json(function: F) -> F:
    about = "print JSON, for a program"
    return click.option("--json", "as_json", is_flag=True, help=about)(function)
