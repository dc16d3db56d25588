"""`jaxlm eval RUN_DIR`: measures a run on its whole validation split, or on other files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple, TypedDict, Unpack

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import COUNT, PATH, WHOLE
from jaxlm.cli.shared.verb import USING, verb
from jaxlm.core.errors import UserError

if TYPE_CHECKING:
    from jaxlm.core.measures import Measure


class Asked(TypedDict):
    """The options that say what is measured, by their names."""

    overrides: tuple[str, ...]
    files: tuple[str, ...]
    split: str | None
    shots: int | None
    task: str | None
    seed: int | None
    tasks: str | None
    include_path: str | None
    chat: bool
    limit: int | None
    accept_changed_data: bool


class Measured(NamedTuple):
    """The measures, their step, and the data they were measured on, for people."""

    step: int | str
    measures: list[Measure]
    on: str


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
    help="measure on this file instead: a text, or for a task records with their answers, in any "
    "format (`jaxlm data formats` lists them); may be repeated",
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
def command(run_dir: str, step: int | str | None, as_json: bool, **asked: Unpack[Asked]) -> None:
    """Prints the measures of the run's objective, such as loss and bits per byte, or accuracy and
    the confusion table of a classifier; then those of each evaluator of the config (`evaluators`),
    on the whole of its own split. With --data no text of the run's own data is read, and only
    evaluators of the validation split measure the files. A folder in Hugging Face's format is
    imported into the cache once, and used from there.

    With --shots K a language model that was not trained on a task answers its records: it chooses
    the likeliest class, or writes the answer, after K examples. --lm-eval needs the extra `eval`.
    """
    _check_modes(asked)
    _check_unused(asked)
    if asked["tasks"] is not None:
        found = _of_harness(run_dir, step, asked, asked["tasks"])
    elif asked["shots"] is not None:
        found = _with_examples(run_dir, step, asked, asked["shots"])
    else:
        found = _of_split(run_dir, step, asked)
    _print(found, as_json)


def _of_harness(run_dir: str, step: int | str | None, asked: Asked, tasks: str) -> Measured:
    """Tasks of lm-evaluation-harness."""
    from jaxlm.api import load
    from jaxlm.evals.harness import evaluate_harness

    if not (names := [name.strip() for name in tasks.split(",") if name.strip()]):
        raise UserError("--lm-eval: names no task; give some, separated by commas")
    run = load(run_dir, step=step)
    measures = evaluate_harness(
        run,
        names,
        include_path=asked["include_path"],
        shots=asked["shots"],
        limit=asked["limit"],
        chat=asked["chat"],
    )
    return Measured(run.step, measures, ", ".join(names))


def _with_examples(run_dir: str, step: int | str | None, asked: Asked, shots: int) -> Measured:
    """Records of a task, each asked after `shots` examples."""
    from jaxlm.cli.shared.folders import run_folder
    from jaxlm.evals.shots import evaluate_shots

    split = asked["split"] or "validation"
    step, measures = evaluate_shots(
        run_folder(run_dir),
        shots,
        task=asked["task"],
        seed=asked["seed"] or 0,
        limit=asked["limit"],
        split=split,
        overrides=asked["overrides"],
        step=step,
        report=say,
    )
    named = [measure.under("eval") for measure in measures]
    return Measured(step, named, f"{split} split, {shots} examples")


def _of_split(run_dir: str, step: int | str | None, asked: Asked) -> Measured:
    """A split of the run's data, or files."""
    from jaxlm.cli.shared.folders import run_folder
    from jaxlm.evals.run import evaluate_run

    files, split = asked["files"], asked["split"]
    if files and split:
        raise UserError("--split: --data names files of no split; leave one of the two out")
    split = split or "validation"
    step, measures = evaluate_run(
        run_folder(run_dir),
        overrides=asked["overrides"],
        step=step,
        files=files,
        split=split,
        accept_data=asked["accept_changed_data"],
        report=say,
    )
    return Measured(step, measures, ", ".join(files) or f"whole {split} split")


def _print(found: Measured, as_json: bool) -> None:
    from jaxlm.cli.shared.figures import print_figures
    from jaxlm.core.measures import notes_of, tables_of, values_of

    measures = found.measures
    if as_json:
        notes = {"notes": said} if (said := notes_of(measures)) else {}
        values = {"step": found.step, "final": values_of(measures), **notes, **tables_of(measures)}
        print(json.dumps(values))
    else:
        print(f"step {found.step}, {found.on}")
        print_figures(measures)


def _check_modes(asked: Asked) -> None:
    """Raises `UserError` for options that have no effect together."""
    shots, tasks = asked["shots"], asked["tasks"]
    if asked["files"] and (shots is not None or tasks is not None):
        raise UserError("--data: --shots and --lm-eval measure records of a task; leave it out")
    if tasks is not None and (asked["split"] or asked["task"]):
        raise UserError("--lm-eval: its tasks name their own data; leave --split and --task out")
    if asked["task"] is not None and shots is None:
        raise UserError("--task: is asked with examples; add --shots K, 0 for none")
    if tasks is None and (asked["include_path"] is not None or asked["chat"]):
        raise UserError("--include-path, --chat: are of --lm-eval TASKS; name some")
    if asked["limit"] is not None and shots is None and tasks is None:
        raise UserError("--limit: is of --shots and --lm-eval; add one of them")


def _check_unused(asked: Asked) -> None:
    """Raises `UserError` for what --shots or --lm-eval do not use."""
    shots, tasks = asked["shots"], asked["tasks"]
    if tasks is not None and (asked["overrides"] or asked["accept_changed_data"]):
        raise UserError(
            "--lm-eval: measures the run as it is, on other data; leave settings and "
            "--accept-changed-data out"
        )
    if asked["seed"] is not None and (shots is None or tasks is not None):
        raise UserError("--seed: draws the examples of --shots without --lm-eval; leave it out")
    if asked["accept_changed_data"] and shots is not None:
        raise UserError("--accept-changed-data: --shots does not compare the data; leave it out")
