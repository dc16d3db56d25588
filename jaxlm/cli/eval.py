"""`jaxlm eval RUN_DIR`: measures a run on its whole validation split, or on other files."""

from __future__ import annotations

import json

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import PATH
from jaxlm.cli.shared.verb import USING, verb
from jaxlm.core.errors import UserError


@verb(
    "measure a run on its whole validation split, or on another file",
    section=USING,
    examples=(
        ("eval runs/quickstart", ""),
        ("eval runs/quickstart --data other.txt", "on another text; a table for a classifier"),
        ("eval runs/quickstart --split train", "on what it was trained on"),
        ("eval runs/quickstart --step 200 --json", "an earlier checkpoint, as JSON"),
    ),
)
@options.run_dir
@options.overrides
@click.option(
    "--data",
    "files",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="measure on this file instead: a text, or a table of labelled texts (CSV, TSV, JSON "
    "lines, Parquet) for a classifier; may be repeated",
)
@click.option(
    "--split", metavar="NAME", help="split of the run's data to measure (default: validation)"
)
@options.accept_changed_data
@options.step
@options.json
def command(
    run_dir: str,
    overrides: tuple[str, ...],
    files: tuple[str, ...],
    split: str | None,
    accept_changed_data: bool,
    step: int | str | None,
    as_json: bool,
) -> None:
    """Prints the measures of the run's objective, such as loss and bits per byte, or accuracy and
    the confusion table of a classifier; then those of each evaluator of the config (`evaluators`),
    on the whole of its own split. With --data no text of the run's own data is read, and only
    evaluators of the validation split measure the files. A folder in Hugging Face's format is
    imported into the cache once, and used from there.
    """
    from jaxlm.cli.shared.figures import print_figures
    from jaxlm.cli.shared.folders import run_folder
    from jaxlm.core.measures import tables_of, values_of
    from jaxlm.evals.run import evaluate_run

    if files and split:
        raise UserError("--split: --data names files of no split; leave one of the two out")
    step, measures = evaluate_run(
        run_folder(run_dir),
        overrides=overrides,
        step=step,
        files=files,
        split=split or "validation",
        accept_data=accept_changed_data,
        report=say,
    )
    if as_json:
        print(json.dumps({"step": step, "final": values_of(measures), **tables_of(measures)}))
    else:
        measured = ", ".join(files) or f"whole {split or 'validation'} split"
        print(f"step {step}, {measured}")
        print_figures(measures)
