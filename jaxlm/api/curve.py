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

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from jaxlm.api.opening import fit
from jaxlm.core.config import Resolved, UserError
from jaxlm.core.exit_codes import DONE
from jaxlm.core.files import read_json, read_sealed, write_atomic, write_sealed
from jaxlm.core.measures import Measure, from_display
from jaxlm.data.records import RecordData
from jaxlm.evals.paired import bootstrap, needed
from jaxlm.evals.split_records import whole_records
from jaxlm.evals.task import SplitScores, TaskMeasures
from jaxlm.report.curve import PRETRAINED, SCRATCH, STARTS, table, write_page
from jaxlm.run import InitConfig, RunConfig, config_sha256, load_run
from jaxlm.runs.folder import RunDir
from jaxlm.training.loading import load_trained
from jaxlm.training.outcome import Outcome
from jaxlm.training.session import Session, prepare_data

Report = Callable[[str], None]


@dataclass(frozen=True)
class Answers:
    """What a trained run says of each record of the validation split."""

    said: list[Any]
    main: Measure
    records: int  # it was trained on


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

    Raises `UserError` for a config without `init.from`, or whose data has no records and answers.
    """
    base = load_run(config, overrides)
    check(base.config, config)
    labels = sorted({*labels})
    folder = Path(out or f"runs/{Path(config).stem}_curve")
    judge = _Judge(folder)
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
                if answers.records < count:
                    raise UserError(
                        f"--labels: {count} but the training split has {answers.records:,} "
                        "records; ask for at most that"
                    )
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


def variant(
    base: Resolved[RunConfig], start: str, count: int, seed: int, run_dir: Path
) -> Resolved[RunConfig]:
    """The config of one run: from a start, on `count` records that the seed chooses.

    What is trained from scratch is trained whole: an adapter on random weights would learn little.
    """
    config = base.config
    assert isinstance(config.data, RecordData)
    scratch = {"init": InitConfig(), "adapter": None} if start == SCRATCH else {}
    changed = config.replace(
        seed=config.seed + seed,
        run_dir=str(run_dir),
        data=config.data.replace(max_records=count, subset_salt=config.data.subset_salt + seed),
        **scratch,
    )
    return Resolved(changed, base.marks)


class _Judge:
    """Keeps the answers of trained runs, with the task and the records that measure them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "answers"
        self.true: list[Any] = []
        self._task: Any = None

    def stored(self, config: RunConfig) -> Answers | None:
        """The answers of a run of this config, where they are written."""
        path = self._path(config)
        if not path.is_file():
            return None
        values = read_sealed(path, "remove it, and its run is trained again")
        if values["key"] != _key(config):
            return None
        self._prepared(config)
        return Answers(values["said"], from_display(**values["main"]), values["records"])

    def ask(self, config: RunConfig) -> Answers:
        """The answers of a run that is trained; writes them, and removes its checkpoints."""
        run = RunDir(config.run_dir or "")
        trained, program, params, _ = load_trained(str(run), report=lambda _: None)
        prepared = prepare_data(trained, lambda _: None)
        self._prepared(config, prepared)
        scores = TaskMeasures(baseline=False).prepare(Session(trained, prepared, program))
        assert isinstance(scores, SplitScores)
        said, _, _ = scores.answered(params)
        main = self.score(said, self.true)[0]
        answers = Answers(said, main, prepared.splits["train"].counts["rows"])
        self._folder.mkdir(parents=True, exist_ok=True)
        shown = {"name": main.name, "value": main.value, "display": main.display}
        values = {"key": _key(config), "said": said, "main": shown, "records": answers.records}
        write_sealed(self._path(config), values)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        return answers

    def score(self, said: Sequence[Any], true: Sequence[Any]) -> list[Measure]:
        measures: list[Measure] = self._task.score(said, true)
        return measures

    def _prepared(self, config: RunConfig, prepared: Any = None) -> None:
        """The task and the validation records, which are those of all runs."""
        if self._task is not None:
            return
        prepared = prepared or prepare_data(config.replace(run_dir=None), lambda _: None)
        assert prepared.task is not None
        records = getattr(prepared.splits.get("validation"), "rows", None)
        if records is None:
            raise UserError(
                "data: has no validation split; set data.validation_fraction or data.validation"
            )
        self._task = prepared.task
        self.true = whole_records(prepared.task, records.records)

    def _path(self, config: RunConfig) -> Path:
        return self._folder / f"{Path(config.run_dir or '').name}.json"


def _key(config: RunConfig) -> str:
    """What decides a run's answers: its config, and the weights that it starts from."""
    start = config.init.from_
    weights = ""
    if start is not None and RunDir(start).result.is_file():
        final = read_json(RunDir(start).result, "restore it").get("final", {})
        weights = str(final.get("param_sha256", ""))
    return f"{config_sha256(config)} {weights}".strip()


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
