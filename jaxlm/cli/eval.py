"""`jaxlm eval RUN_DIR`: measures a run on its whole validation split, or on other files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import COUNT, PATH, WHOLE
from jaxlm.cli.shared.verb import USING, verb
from jaxlm.core.errors import UserError

if TYPE_CHECKING:
    from jaxlm.core.measures import Measure


@verb(
    "measure a run on its whole validation split, or on another file",
    section=USING,
    examples=(
        ("eval runs/quickstart", ""),
        ("eval runs/quickstart --data other.txt", "on another text; a table for a classifier"),
        ("eval runs/quickstart --split train", "on what it was trained on"),
        ("eval runs/quickstart --shots 4 --task configs/finetune/sentiment_en.yaml", ""),
        ("eval runs/quickstart --lm-eval my_task --include-path tasks", ""),
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
@click.option(
    "--shots",
    type=COUNT,
    metavar="K",
    help="ask a language model with K examples of the training split before each question",
)
@click.option(
    "--task",
    type=PATH,
    metavar="CONFIG",
    help="with --shots: ask the records of this config's data (default: the run's own)",
)
@click.option("--seed", type=COUNT, metavar="N", help="with --shots: which examples (default: 0)")
@click.option(
    "--lm-eval",
    "tasks",
    metavar="TASKS",
    help="measure tasks of lm-evaluation-harness instead, separated by commas",
)
@click.option(
    "--include-path", type=PATH, metavar="DIR", help="with --lm-eval: folder of local tasks"
)
@click.option("--chat", is_flag=True, help="with --lm-eval: ask by the run's chat template")
@click.option(
    "--limit", type=WHOLE, metavar="N", help="with --shots, --lm-eval: records of a task, at most"
)
@options.accept_changed_data
@options.step
@options.json
def command(
    run_dir: str,
    overrides: tuple[str, ...],
    files: tuple[str, ...],
    split: str | None,
    shots: int | None,
    task: str | None,
    seed: int | None,
    tasks: str | None,
    include_path: str | None,
    chat: bool,
    limit: int | None,
    accept_changed_data: bool,
    step: int | str | None,
    as_json: bool,
) -> None:
    """Prints the measures of the run's objective, such as loss and bits per byte, or accuracy and
    the confusion table of a classifier; then those of each evaluator of the config (`evaluators`),
    on the whole of its own split. With --data no text of the run's own data is read, and only
    evaluators of the validation split measure the files. A folder in Hugging Face's format is
    imported into the cache once, and used from there.

    With --shots K a language model that was not trained on a task answers its records: it chooses
    the likeliest class, or writes the answer, after K examples. --lm-eval needs the extra `eval`.
    """
    from jaxlm.cli.shared.folders import run_folder
    from jaxlm.evals.run import evaluate_run

    _check(files, split, shots, task, tasks, include_path, chat, limit)
    _check_run(overrides, accept_changed_data, shots, seed, tasks)
    if tasks is not None:
        from jaxlm.api import load
        from jaxlm.evals.harness import evaluate_harness

        if not (names := [name.strip() for name in tasks.split(",") if name.strip()]):
            raise UserError("--lm-eval: names no task; give some, separated by commas")
        run = load(run_dir, step=step)
        found = evaluate_harness(
            run, names, include_path=include_path, shots=shots, limit=limit, chat=chat
        )
        _print(run.step, found, ", ".join(names), as_json)
        return
    if shots is not None:
        from jaxlm.evals.shots import evaluate_shots

        step, measures = evaluate_shots(
            run_folder(run_dir),
            shots,
            task=task,
            seed=seed or 0,
            limit=limit,
            split=split or "validation",
            overrides=overrides,
            step=step,
            report=say,
        )
        named = [measure.under("eval") for measure in measures]
        _print(step, named, f"{split or 'validation'} split, {shots} examples", as_json)
        return
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
    measured = ", ".join(files) or f"whole {split or 'validation'} split"
    _print(step, measures, measured, as_json)


def _print(step: int | str, measures: list[Measure], measured: str, as_json: bool) -> None:
    from jaxlm.cli.shared.figures import print_figures
    from jaxlm.core.measures import notes_of, tables_of, values_of

    if as_json:
        notes = {"notes": found} if (found := notes_of(measures)) else {}
        values = {"step": step, "final": values_of(measures), **notes, **tables_of(measures)}
        print(json.dumps(values))
    else:
        print(f"step {step}, {measured}")
        print_figures(measures)


def _check(
    files: tuple[str, ...],
    split: str | None,
    shots: int | None,
    task: str | None,
    tasks: str | None,
    include_path: str | None,
    chat: bool,
    limit: int | None,
) -> None:
    """Raises `UserError` for options that have no effect together."""
    if files and (shots is not None or tasks is not None):
        raise UserError("--data: --shots and --lm-eval measure records of a task; leave it out")
    if tasks is not None and (split or task):
        raise UserError("--lm-eval: its tasks name their own data; leave --split and --task out")
    if task is not None and shots is None:
        raise UserError("--task: is asked with examples; add --shots K, 0 for none")
    if tasks is None and (include_path is not None or chat):
        raise UserError("--include-path, --chat: are of --lm-eval TASKS; name some")
    if limit is not None and shots is None and tasks is None:
        raise UserError("--limit: is of --shots and --lm-eval; add one of them")


def _check_run(
    overrides: tuple[str, ...],
    accept_changed_data: bool,
    shots: int | None,
    seed: int | None,
    tasks: str | None,
) -> None:
    """Raises `UserError` for what --shots or --lm-eval do not use."""
    if tasks is not None and (overrides or accept_changed_data):
        raise UserError(
            "--lm-eval: measures the run as it is, on other data; leave settings and "
            "--accept-changed-data out"
        )
    if seed is not None and (shots is None or tasks is not None):
        raise UserError("--seed: draws the examples of --shots without --lm-eval; leave it out")
    if accept_changed_data and shots is not None:
        raise UserError("--accept-changed-data: --shots does not compare the data; leave it out")
