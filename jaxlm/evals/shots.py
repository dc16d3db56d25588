"""A language model is asked without being trained: its prompt begins with some answered examples.

    step, measures = evaluate_shots("runs/quickstart", 4, task="configs/finetune/sentiment_en.yaml")

The examples are records of the training split that a seed draws, the same ones for every record,
without the record itself. Of a task with few answers (the classes of a text) the model chooses the
one with the largest log p(answer | prompt); `by_length/...` are the measures where that is divided
by the answer's bytes, which long names of classes need. Of other tasks it writes the answer,
greedily, and the task's own measures compare it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.core.config import UserError, parse, read_yaml, type_name
from jaxlm.core.measures import Measure
from jaxlm.core.sampling import Sampling
from jaxlm.core.types import Tokenizer
from jaxlm.data.prompts import Ends, ends_of, ids_of
from jaxlm.data.store.prepared import DataConfig, Prepared
from jaxlm.evals.likelihood import Likelihood, split_ids
from jaxlm.evals.split_records import records_of, whole_records
from jaxlm.generate.writing import writer_of
from jaxlm.run import RunConfig
from jaxlm.runs.files import read_own
from jaxlm.runs.folder import RunDir
from jaxlm.tasks.base import Asked, Record, Task
from jaxlm.training.loading import load_trained
from jaxlm.training.program import Program
from jaxlm.training.session import prepare_data

Report = Callable[[str], None]
BATCH = 16  # prompts that are answered together


def evaluate_shots(
    run_dir: str,
    shots: int,
    *,
    task: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    split: str = "validation",
    overrides: tuple[str, ...] = (),
    step: int | str | None = None,
    report: Report = print,
) -> tuple[int, list[Measure]]:
    """(step, measures) of a run that is asked with `shots` examples.

    task: a config file whose `data` has the records; None: the run's own. limit: records that are
    asked, evenly chosen; None: all of the split. Raises `UserError` for a run that writes no text,
    and for a task that cannot be asked in text.
    """
    data = None if task is None else _data_of(task)
    config, program, params, step = load_trained(
        run_dir, overrides=overrides, step=step, report=report
    )
    likelihood = Likelihood(program, params)
    run = RunDir(run_dir)
    own_ends = _ends(config, run)
    changed = config if data is None else config.replace(data=data)
    prepared = prepare_data(changed, report)
    if prepared.task is None:
        raise UserError(
            f"{run_dir}: is trained on running text, so there are no questions; name a config with "
            "records by --task CONFIG"
        )
    if split not in prepared.splits:
        raise UserError(f"--split: the data has no {split!r} split")
    form = ends_of(changed.data, prepared.manifest, prepared.tokenizer).format
    few = FewShot(prepared, config, program, params, own_ends(prepared.tokenizer, form), likelihood)
    return step, few(shots, split, seed=seed, limit=limit)


def _data_of(path: str) -> DataConfig:
    layer = read_yaml(Path(path))
    if not isinstance(layer.values.get("data"), dict):
        raise UserError(f"{path}: has no `data`; name a config with the records of a task")
    return parse(DataConfig, layer.values["data"], layer.marks)


def _ends(config: RunConfig, run: RunDir) -> Callable[[Tokenizer, Any], Ends]:
    """How a text begins as in training, with the prompt format of the task that is asked."""
    manifest = read_own(run, run.data_manifest) if run.data_manifest.is_file() else {}

    def ends(tokenizer: Tokenizer, form: Any) -> Ends:
        return ends_of(config.data, manifest, tokenizer)._replace(format=form)

    return ends


@dataclass(frozen=True)
class FewShot:
    """Asks a model the records of a split."""

    prepared: Prepared
    config: RunConfig
    program: Program
    params: Any
    ends: Ends
    likelihood: Likelihood

    def __call__(
        self, shots: int, split: str, *, seed: int = 0, limit: int | None = None
    ) -> list[Measure]:
        task = self.prepared.task
        assert task is not None
        records = whole_records(task, records_of(self.prepared, split))
        if limit is not None and limit < len(records):
            chosen = np.linspace(0, len(records) - 1, limit).round().astype(int)
            records = [records[i] for i in chosen]
        examples = self._examples(task, shots, seed)
        try:
            asked = [task.shots(without(task, examples, r, shots), r) for r in records]
        except NotImplementedError:
            raise UserError(
                f"--shots: task {type_name(type(task))} has no prompt and answer in text"
            ) from None
        if not task.choices:
            return task.score(self._written(asked), records)
        plain, by_length = self._chosen(task, asked)
        measures = task.score(plain, records)
        return [*measures, *(m.named("by_length") for m in task.score(by_length, records))]

    def _examples(self, task: Task, shots: int, seed: int) -> list[Record]:
        """One more than are shown, for the record that is an example itself."""
        if shots == 0:
            return []
        if "train" not in self.prepared.splits:
            raise UserError("--shots: the data has no training split, which has the examples")
        train = records_of(self.prepared, "train")
        if len(train) <= shots:
            raise UserError(f"--shots: {shots} but the training split has {len(train)} records")
        order = np.random.RandomState(seed).permutation(len(train))
        found: list[Record] = []
        for number in map(int, order):
            if len(found) <= shots and task.begins(train[number]):
                last = number + 1
                while last < len(train) and not task.begins(train[last]):
                    last += 1
                found.append(task.whole([train[n] for n in range(number, last)]))
        return found

    def _chosen(self, task: Task, asked: Sequence[Asked]) -> tuple[list[str], list[str]]:
        """The likeliest answer to each prompt, and the likeliest for its bytes."""
        tokenizer, choices = self.prepared.tokenizer, task.choices
        pairs = [
            split_ids(tokenizer, each.prompt, choice, self.ends.bos)
            for each in asked
            for choice in choices
        ]
        scores = np.array([s.logprob for s in self.likelihood(pairs)]).reshape(-1, len(choices))
        sizes = np.array([len(choice.encode()) for choice in choices])
        return tuple(  # type: ignore[return-value]
            [choices[i] for i in table.argmax(1)] for table in (scores, scores / sizes)
        )

    def _written(self, asked: Sequence[Asked]) -> list[str]:
        tokenizer, config = self.prepared.tokenizer, self.config
        stops = {each.stop for each in asked} - {""}
        sampling = Sampling(
            max_tokens=config.sample.max_tokens, temperature=0.0, stop=tuple(sorted(stops))
        )
        trained = config.data is not None
        ids = ids_of(tokenizer, config.sample.eos_ids, trained=trained, ends=self.ends)
        writer = writer_of(self.program, sampling, tokenizer, ids, self.ends)
        order = sorted(range(len(asked)), key=lambda n: len(asked[n].prompt))
        found = [""] * len(asked)
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            texts = writer(self.params, [asked[n].prompt for n in chosen])
            for n, text in zip(chosen, texts, strict=True):
                found[n] = text.strip()
        return found


def without(task: Task, examples: Sequence[Record], record: Record, count: int) -> list[Record]:
    """The first `count` examples that are not the record itself."""
    own = task.identity(record)
    return [each for each in examples if task.identity(each) != own][:count]
