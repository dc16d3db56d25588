"""The options of generating text: each that is given overrides `sample:` of the run.

@sampling_options
def command(run_dir: str, sampling: SamplingOptions) -> None: ...
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from jaxlm.cli.shared.values import COUNT, NUMBER, POSITIVE, RATIO, SHARE, WHOLE
from jaxlm.core.errors import UserError

if TYPE_CHECKING:
    from jaxlm.core.sampling import SamplingOptions

RUN = "default: the run's sample.{}"
# option, kind of value, its name, help; the parameter is the name of a field of `Sampling`
OPTIONS: tuple[tuple[str, click.ParamType, str, str], ...] = (
    ("max-tokens", WHOLE, "N", "length of a text"),
    ("temperature", RATIO, "X", "0 is greedy"),
    ("top-k", WHOLE, "K", "sample from the K likeliest tokens"),
    ("top-p", SHARE, "P", "sample from the likeliest tokens of total probability P"),
    ("min-p", SHARE, "P", "sample from tokens of at least P times the likeliest's probability"),
    ("repetition-penalty", POSITIVE, "X", "above 1: tokens of prompt and text get less likely"),
    ("presence-penalty", NUMBER, "X", "taken from the logits of tokens of the new text"),
    ("frequency-penalty", NUMBER, "X", "the same, for each time that it has the token"),
    ("no-repeat-ngram-size", COUNT, "N", "no N tokens in a row come twice"),
    ("min-tokens", COUNT, "N", "tokens before the end of text"),
    ("length-penalty", RATIO, "X", "with --beams: log p is divided by length ** X"),
)


def sampling_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the command gets those that are given, as `sampling`."""

    @functools.wraps(function)
    def command(*, stop: tuple[str, ...], num_beams: int | None, **others: Any) -> Any:
        names = [name.replace("-", "_") for name, *_ in OPTIONS]
        given = {name: others.pop(name) for name in names} | {"num_beams": num_beams}
        given = {name: value for name, value in given.items() if value is not None}
        if stop:
            given["stop"] = stop
        return function(sampling=given, **others)

    decorators = [
        click.option(
            f"--{name}", type=kind, metavar=value, help=f"{about} ({RUN.format(_field(name))})"
        )
        for name, kind, value, about in OPTIONS
    ]
    decorators += [
        click.option(
            "--stop", multiple=True, metavar="TEXT", help="a text ends before TEXT; repeatable"
        ),
        click.option(
            "--beams",
            "num_beams",
            type=WHOLE,
            metavar="N",
            help="beam search with N beams, without sampling",
        ),
    ]
    wrapped: Any = command
    for decorate in reversed(decorators):
        wrapped = decorate(wrapped)
    return wrapped


def check_together(sampling: SamplingOptions, draft: str | None, num_drafts: int | None) -> None:
    """Raises `UserError` where options exclude each other."""
    from jaxlm.core.sampling import DRAWING

    beams = sampling.get("num_beams", 1)
    if beams > 1 and (drawn := [name for name in DRAWING if name in sampling]):
        words = ", ".join("--" + name.replace("_", "-") for name in drawn)
        raise UserError(f"--beams: a beam search does not sample; leave {words} out")
    if beams > 1 and draft is not None:
        raise UserError("--draft: does not work with a beam search; leave --beams out")
    if num_drafts is not None and draft is None:
        raise UserError("--num-drafts: needs a draft model; add --draft RUN_DIR")


def _field(option: str) -> str:
    return option.replace("-", "_")
