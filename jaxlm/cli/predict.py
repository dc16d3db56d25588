"""`jaxlm predict RUN_DIR`: what a run predicts for the records of a file."""

from __future__ import annotations

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import PATH, WHOLE
from jaxlm.cli.shared.verb import USING, verb


@verb(
    "predict the classes, tags, numbers or answers of a file",
    section=USING,
    works=True,
    examples=(
        ("predict runs/sentiment_en --input new.csv --output classes.jsonl", ""),
        ("predict runs/qa --input questions.jsonl --output answers.jsonl", "and again to continue"),
    ),
)
@options.run_dir
@click.option(
    "--input",
    "given",
    required=True,
    type=PATH,
    metavar="FILE",
    help="records without their answers (CSV, TSV, JSON lines, Parquet), or a text",
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
@options.step
def command(
    run_dir: str, given: str, out: str, batch_size: int | None, step: int | str | None
) -> None:
    """Writes what the run predicts for each record, with its scores. The columns are those of the
    run's task, under the names of its own data or of the task.
    """
    from jaxlm.api.prediction_file import predict_file
    from jaxlm.api.run import load

    count = predict_file(load(run_dir, step=step), given, out, batch_size=batch_size, report=say)
    say(f"{out}: {count} lines")
