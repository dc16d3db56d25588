"""Measures the checkpoint of a run: `jaxlm eval`, and `Run.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core.config import UserError, parse
from jaxlm.core.measures import Measure
from jaxlm.data.detect import Found, detect, source_of
from jaxlm.data.held_out import found_in, measured_source, own_data, own_settings, own_source
from jaxlm.data.records import RecordData
from jaxlm.data.sources.base import Source
from jaxlm.data.store.prepared import Prepared
from jaxlm.data.store.preparing import check_writable
from jaxlm.evals.evaluators import evaluators_of
from jaxlm.evals.predictions import imported_task, marked
from jaxlm.run import RunConfig, load_saved
from jaxlm.runs.files import read_own
from jaxlm.runs.folder import RunDir
from jaxlm.training.loading import load_trained
from jaxlm.training.records import check_measured_data
from jaxlm.training.references import read_references
from jaxlm.training.session import Session, cache_dir, prepare_data
from jaxlm.training.started import saved_tokenizer


def evaluate_run(
    run_dir: str,
    *,
    overrides: tuple[str, ...] = (),
    step: int | str | None = None,
    files: tuple[str, ...] = (),
    split: str = "validation",
    accept_data: bool = False,
    report: Any = print,
) -> tuple[int, list[Measure]]:
    """(step, measures) of a run's checkpoint over a whole split, or over `files`:
    texts, or a table of labelled texts for a classifier; then of each of its `evaluators` over the
    whole of its own split. Files are measured by those that measure the validation split.

    Raises `UserError` if the split has changed since the run was trained, unless `accept_data` is
    set or an override names other data.
    """
    # first: a wrong file costs no loading
    own = own_source(load_saved(run_dir).config.data) if files else None
    found = detect(files, with_text=False, **own_settings(own)) if files else None
    config, program, params, step = load_trained(
        run_dir, overrides=overrides, step=step, references=True, report=report
    )
    reader = CheckpointReader(RunDir(run_dir).checkpoints, report=report)
    beside, _ = read_references(config, program, reader, step)
    if found is not None:
        prepared = _measured(run_dir, config, found, report)
        kept = {k: e for k, e in config.evaluators.items() if e.split == "validation"}
        config = config.replace(evaluators=kept)
    else:
        prepared = prepare_data(config, report)
        if config.data == load_saved(run_dir).config.data:
            check_measured_data(RunDir(run_dir), prepared, accept_data, report)
    evaluators = evaluators_of(Session(config, prepared, program, beside=beside), split)
    if not evaluators or evaluators[0].name:
        raise UserError(
            f"{run_dir}: its data has no validation split; set data.validation to texts that it "
            "was not trained on (see `jaxlm config show`)"
        )
    figures, tables = [], []
    for evaluator in evaluators:
        (measures,) = evaluator.measuring.after(params, [None])
        figures += evaluator.keyed("eval", measures)
        own_tables = [m for m in measures if m.show == "table"]
        tables += [m.named(evaluator.name) if evaluator.name else m for m in own_tables]
    return step, [*figures, *tables]


def _measured(run_dir: str, config: RunConfig, found: Found, report: Any) -> Prepared:
    """The rows of files that were not part of the run."""
    folder = cache_dir(config)
    check_writable(folder)
    run = RunDir(run_dir)
    tokenizer = saved_tokenizer(run)
    if config.data is None:
        task, seq_len = imported_task(config, run_dir)
        source = parse(Source, source_of(found))
        data = RecordData(source=source, task=marked(task, tokenizer), seq_len=seq_len)
        source = measured_source(found, data)
        report(found_in(source, data.task.columns))
        return data.measured(source, tokenizer, folder, None, report)
    source = measured_source(found, config.data)
    columns = getattr(getattr(own_data(config.data), "task", None), "columns", ("text",))
    report(found_in(source, columns))
    return config.data.measured(source, tokenizer, folder, facts_of(run), report)


def facts_of(run: RunDir) -> Mapping[str, Any]:
    """The facts that a task found in the run's training data, such as its classes."""
    manifest = read_own(run, run.data_manifest)
    # earlier versions kept the classes alone
    return manifest.get("facts") or {k: manifest[k] for k in ("classes",) if k in manifest}
