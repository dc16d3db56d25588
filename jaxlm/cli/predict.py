"""`jaxlm predict RUN_DIR`: what a run predicts for the records of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import PATH, RATIO, WHOLE
from jaxlm.cli.shared.verb import USING, verb
from jaxlm.core.errors import UserError

if TYPE_CHECKING:
    from jaxlm.evals.written import Writing


@verb(
    "predict the classes, tags, numbers or answers of a file",
    section=USING,
    works=True,
    examples=(
        ("predict runs/sentiment_en --input new.csv --output classes.jsonl", ""),
        ("predict runs/qa --input questions.jsonl --output answers.jsonl", "and again to continue"),
        ("predict runs/chat --input talks.jsonl --output answers.jsonl --beams 4", ""),
    ),
)
@options.run_dir
@options.overrides
@click.option(
    "--input",
    "given",
    required=True,
    type=PATH,
    metavar="FILE",
    help="records without their answers, in any format (`jaxlm data formats` lists them), or a "
    "text; or a pattern of files, in quotes",
)
@click.option(
    "--output",
    "out",
    required=True,
    type=PATH,
    metavar="FILE",
    help="a line of JSON for each record, in order; a file that a stopped prediction left is "
    "continued",
)
@click.option(
    "--batch-size", type=WHOLE, metavar="N", help="records of one batch (default: eval.batch_size)"
)
@click.option(
    "--beams",
    "num_beams",
    type=WHOLE,
    metavar="N",
    help="write answers by a beam search with N beams (default: greedily)",
)
@click.option(
    "--length-penalty",
    type=RATIO,
    metavar="X",
    help="with --beams: log p is divided by length ** X (default 1)",
)
@click.option(
    "--max-tokens",
    type=WHOLE,
    metavar="N",
    help="most tokens of a written answer (default: the task's, or sample.max_tokens)",
)
@options.step
def command(
    run_dir: str,
    overrides: tuple[str, ...],
    given: str,
    out: str,
    batch_size: int | None,
    num_beams: int | None,
    length_penalty: float | None,
    max_tokens: int | None,
    step: int | str | None,
) -> None:
    """Writes what the run predicts for each record, with its scores; a run that writes answers
    (chat, translation, summaries) writes them, and a reward model rates those that it gets. The
    columns are those of the run's task, under the names of its own data or of the task; of other
    files the format is recognised, and a line says which one. Settings say other names, as
    data.source={type: files, files: FILE, columns: {text: opinion}}.
    """
    from jaxlm.api.prediction_file import predict_file
    from jaxlm.api.run import load

    if length_penalty is not None and (num_beams or 1) == 1:
        raise UserError("--length-penalty: needs a beam search; add --beams 4")
    writing: Writing = {}
    if num_beams is not None:
        writing["num_beams"] = num_beams
    if length_penalty is not None:
        writing["length_penalty"] = length_penalty
    if max_tokens is not None:
        writing["max_tokens"] = max_tokens
    run = load(run_dir, step=step, overrides=overrides)
    count = predict_file(run, given, out, batch_size=batch_size, report=say, **writing)
    say(f"{out}: {count} lines")
