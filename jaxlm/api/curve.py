"""Does pre-training pay? A config trained from scratch and from a run, with few and many labels.

    outcome = curve("configs/finetune/sentiment_en.yaml", ("init.from=runs/quickstart",),
                    labels=(100, 300, 1000), seeds=5, out="runs/curve")

Each number of labels and each seed is a run of its own in `out`, from both starts, on the same
records (`data.max_records`). A run that was interrupted continues, one whose answers are there is
skipped. `curve.json` and `curve.html` hold the result: the mean of both over the seeds, a paired
bootstrap over records and seeds, and how many labels the start is worth. The checkpoints of a run
are removed when its answers are written.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from jaxlm.api.opening import fit
from jaxlm.api.run_inputs import content, inputs
from jaxlm.core.config import Resolved, UserError
from jaxlm.core.exit_codes import DONE
from jaxlm.core.files import read_sealed, write_atomic, write_sealed
from jaxlm.core.measures import Measure, from_display
from jaxlm.data.records import RecordData
from jaxlm.data.store.prepared import Prepared
from jaxlm.evals.paired import bootstrap, needed
from jaxlm.evals.split_records import records_of, whole_records
from jaxlm.evals.task import SplitScores, TaskMeasures
from jaxlm.hf.opened import run_of
from jaxlm.report.curve import PRETRAINED, SCRATCH, STARTS, table, write_page
from jaxlm.run import InitConfig, RunConfig, load_run
from jaxlm.runs.folder import RunDir
from jaxlm.training.loading import load_trained
from jaxlm.training.outcome import Outcome
from jaxlm.training.session import Session, prepare_data

log = logging.getLogger("jaxlm")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Answers:
    """A trained run's answer to each record of the validation split."""

    said: list[Any]
    main: Measure


def curve(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    labels: Sequence[int] = (100, 300, 1000),
    seeds: int = 5,
    out: str | Path | None = None,
    report: Report = print,
) -> Outcome:
    """Trains what is not trained yet, and writes curve.json and curve.html in `out`.

    Raises `UserError` for a config without `init.from`, or whose data has no records and answers,
    or fewer than `labels`.
    """
    base = load_run(config, overrides, run_of)
    check(base.config, config)
    labels = sorted({*labels})
    folder = Path(out or f"runs/{Path(config).stem}_curve")
    prepared = prepare_data(base.config.replace(run_dir=str(folder)), log.info)
    check_labels(prepared, labels[-1])
    judge = _Judge(folder, prepared, report)
    found: dict[tuple[str, int], list[Answers]] = {}
    for count in labels:
        for seed in range(seeds):
            for start in STARTS:
                run = variant(base, start, count, seed, folder / f"{start}-{count}-seed{seed}")
                answers = judge.stored(run.config)
                if answers is None:
                    outcome = fit(run)
                    if outcome.code != DONE:
                        return outcome
                    answers = judge.ask(run.config)
                found.setdefault((start, count), []).append(answers)
                report(
                    f"{count:,} labels, seed {seed}, {start}: {answers.main.title} "
                    f"{answers.main.text}"
                )
    rows = [_row(judge, found, count) for count in labels]
    main = found[SCRATCH, labels[0]][0].main
    _add_worth(rows, main)
    result = {
        "config": str(config),
        "overrides": list(overrides),
        "from": base.config.init.from_,
        "seeds": seeds,
        "records": len(judge.true),
        "measure": {"name": main.name, **main.display},
        "rows": rows,
    }
    write_atomic(folder / "curve.json", json.dumps(result, indent=1) + "\n")
    page = write_page(folder, result)
    return Outcome(DONE, f"{table(result)}\nreport: {page}", result)


def check(config: RunConfig, path: str | Path) -> None:
    """Raises `UserError` for a config that has nothing to compare."""
    if config.init.from_ is None:
        raise UserError(
            f"{path}: names no run to start from, so there is nothing to compare with scratch; add "
            "--from RUN"
        )
    if not isinstance(config.data, RecordData):
        raise UserError(f"{path}: data: has no labelled records; a curve needs data.type: records")
    if config.data.max_records is not None:
        raise UserError("data.max_records: a curve sets it itself; remove it")


def check_labels(prepared: Prepared, most: int) -> None:
    """Raises `UserError` where fewer records can be trained; the windows of a text are one record.

    prepared: of all records.
    """
    assert prepared.task is not None
    firsts = filter(prepared.task.begins, records_of(prepared, "train"))
    size = sum(1 for _ in itertools.islice(firsts, most))
    if size < most:
        raise UserError(
            f"--labels: {most} but the training split has {size:,} records; ask for at most that"
        )


def variant(
    base: Resolved[RunConfig], start: str, count: int, seed: int, run_dir: Path
) -> Resolved[RunConfig]:
    """The config of one run: from a start, on `count` records that the seed chooses.

    What is trained from scratch is trained whole, all layers from the first step and at one rate:
    an adapter on random weights, or frozen random layers, would learn little.
    """
    config = base.config
    assert isinstance(config.data, RecordData)
    scratch: dict[str, Any] = {}
    if start == SCRATCH:
        scratch = {"init": InitConfig(), "adapter": None}
        if config.optimizer is not None:
            scratch["optimizer"] = config.optimizer.replace(unfreeze=None, layer_decay=1.0)
    changed = config.replace(
        seed=config.seed + seed,
        run_dir=str(run_dir),
        data=config.data.replace(max_records=count, subset_salt=config.data.subset_salt + seed),
        **scratch,
    )
    return Resolved(changed, base.marks)


class _Judge:
    """Keeps the answers of trained runs, with the task and the records that measure them."""

    def __init__(self, folder: Path, prepared: Prepared, report: Report) -> None:
        """prepared: of all records; its validation split is that of all runs."""
        if "validation" not in prepared.splits:
            raise UserError(
                "data: has no validation split; set data.validation_fraction or data.validation"
            )
        self._folder, self._report = folder / "answers", report
        self._task: Any = prepared.task
        self._data = content(prepared)
        self.true = whole_records(prepared.task, records_of(prepared, "validation"))

    def stored(self, config: RunConfig) -> Answers | None:
        """The answers of a run of this config, where they are written.

        A run whose answers are those of another config, or of other data, is removed.
        """
        path, run = self._path(config), RunDir(config.run_dir or "")
        if not path.is_file():
            return None
        values = read_sealed(path, f"remove it and {run}, and that run is trained again")
        if values["key"] == self._key(config):
            return Answers(values["said"], from_display(**values["main"]))
        self._report(f"{run}: is of another config or other data, so it is trained again")
        shutil.rmtree(run.path, ignore_errors=True)
        path.unlink()
        return None

    def ask(self, config: RunConfig) -> Answers:
        """The answers of a run that is trained; writes them, and removes its checkpoints."""
        run = RunDir(config.run_dir or "")
        trained, program, params, _ = load_trained(str(run), report=lambda _: None)
        prepared = prepare_data(trained, lambda _: None)
        scores = TaskMeasures(baseline=False).prepare(Session(trained, prepared, program))
        assert isinstance(scores, SplitScores)
        said, _, _ = scores.answered(params)
        main = self.score(said, self.true)[0]
        answers = Answers(said, main)
        self._folder.mkdir(parents=True, exist_ok=True)
        shown = {"name": main.name, "value": main.value, "display": main.display}
        values = {"key": self._key(config), "said": said, "main": shown}
        write_sealed(self._path(config), values)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        return answers

    def score(self, said: Sequence[Any], true: Sequence[Any]) -> list[Measure]:
        measures: list[Measure] = self._task.score(said, true)
        return measures

    def _path(self, config: RunConfig) -> Path:
        return self._folder / f"{Path(config.run_dir or '').name}.json"

    def _key(self, config: RunConfig) -> str:
        return inputs(config, self._data)


def _row(judge: _Judge, found: dict[tuple[str, int], list[Answers]], count: int) -> dict[str, Any]:
    row: dict[str, Any] = {"labels": count}
    for start in STARTS:
        values = [answers.main.value for answers in found[start, count]]
        spread = stdev(values) if len(values) > 1 else None
        row[start] = {"values": values, "mean": fmean(values), "std": spread}
    first, second = ([a.said for a in found[start, count]] for start in STARTS)
    row["p"], row["draws"] = bootstrap(judge.score, first, second, judge.true)
    return row


def _add_worth(rows: Sequence[dict[str, Any]], main: Measure) -> None:
    """To each row, the labels that training from scratch needs for the same value; None: more than
    were tried.
    """
    labels = [row["labels"] for row in rows]
    values = [row[SCRATCH]["mean"] for row in rows]
    for row in rows:
        row["needed"] = needed(labels, values, row[PRETRAINED]["mean"], main.better or "higher")
