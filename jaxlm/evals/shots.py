"""A language model is asked without being trained: its prompt begins with some answered examples.

    step, measures = evaluate_shots("runs/quickstart", 4, task="configs/finetune/sentiment_en.yaml")

The examples are records of the training split that a seed draws, the same ones for every record,
without the record itself and its duplicates. A prompt that is longer than the model's positions
loses its beginning, and one line says how many do. Of a task with few answers (the classes of a
text) the model chooses the one with the largest log p(answer | prompt); `by_length/...` are the
measures where that is divided by the answer's bytes, which long names of classes need. Of other
tasks it writes the answer, greedily, and the task's own measures compare it.
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
from jaxlm.data.prompts import Ends, encode_prompt, ends_of, ids_of
from jaxlm.data.store.prepared import DataConfig, Prepared
from jaxlm.evals.likelihood import Likelihood, split_ids
from jaxlm.evals.split_records import records_of, whole_records
from jaxlm.generate.writing import writer_of
from jaxlm.run import RunConfig
from jaxlm.runs.files import read_own
from jaxlm.runs.folder import RunDir
from jaxlm.tasks.base import Asked, Record, Records, Task
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
    ends = own_ends(prepared.tokenizer, form)
    few = FewShot(prepared, config, program, params, ends, likelihood, report)
    return step, few(shots, split, seed=seed, limit=limit)


def _data_of(path: str) -> DataConfig:
    layer = read_yaml(Path(path))
    if not isinstance(layer.values.get("data"), dict):
        raise UserError(f"{path}: has no `data`; name a config with the records of a task")
    return parse(DataConfig, layer.values["data"], layer.marks)


def _ends(config: RunConfig, run: RunDir) -> Callable[[Tokenizer, Any], Ends]:
    """The beginning of a text as in training, with the prompt format of the task that is asked."""
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
    report: Report = print

    def __call__(
        self, shots: int, split: str, *, seed: int = 0, limit: int | None = None
    ) -> list[Measure]:
        """The measures of the answers to the records of `split`. Raises `UserError` where the
        training split has fewer examples, or the model has no room for an answer.
        """
        task = self.prepared.task
        assert task is not None
        records = whole_records(task, records_of(self.prepared, split))
        if limit is not None and limit < len(records):
            chosen = np.linspace(0, len(records) - 1, limit).round().astype(int)
            records = [records[i] for i in chosen]
        examples = self._examples(task, shots, seed)
        try:
            asked = [task.shots(examples(record, shots), record) for record in records]
        except NotImplementedError:
            raise UserError(
                f"--shots: task {type_name(type(task))} has no prompt and answer in text"
            ) from None
        if not task.choices:
            return task.score(self._written(asked), records)
        plain, by_length = self._chosen(task, asked)
        measures = task.score(plain, records)
        return [*measures, *(m.named("by_length") for m in task.score(by_length, records))]

    def _examples(self, task: Task, shots: int, seed: int) -> Callable[[Record, int], list[Record]]:
        if shots == 0:
            return lambda record, count: []
        if "train" not in self.prepared.splits:
            raise UserError("--shots: the data has no training split, which has the examples")
        return Examples(task, records_of(self.prepared, "train"), seed)

    def _chosen(self, task: Task, asked: Sequence[Asked]) -> tuple[list[str], list[str]]:
        """The likeliest answer to each prompt, and the likeliest for its bytes."""
        tokenizer, choices = self.prepared.tokenizer, task.choices
        pairs = [
            split_ids(tokenizer, each.prompt, choice, self.ends.bos)
            for each in asked
            for choice in choices
        ]
        cut = np.array([self.likelihood.is_cut(pair) for pair in pairs])
        self._report_cut(int(cut.reshape(-1, len(choices)).any(1).sum()), len(asked))
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
        model = self.program.model
        encoded = [encode_prompt(tokenizer, each.prompt, model, self.ends) for each in asked]
        if self.likelihood.longest is not None:
            room = self.likelihood.longest - sampling.max_tokens
            if room < 1:
                raise UserError(
                    f"sample.max_tokens: {sampling.max_tokens} but the model has "
                    f"{self.likelihood.longest} positions; lower it"
                )
            self._report_cut(sum(len(each) > room for each in encoded), len(asked))
            encoded = [each[-room:] for each in encoded]
        order = sorted(range(len(asked)), key=lambda n: len(encoded[n]))
        found = [""] * len(asked)
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            written = writer.continued(self.params, [encoded[n] for n in chosen])
            for n, each in zip(chosen, written, strict=True):
                found[n] = each.text.strip()
        return found

    def _report_cut(self, cut: int, total: int) -> None:
        if cut:
            self.report(
                f"--shots: {cut:,} of {total:,} prompts lose their beginning: with the answer they "
                f"are longer than the model's {self.likelihood.longest} positions; ask with fewer"
            )


class Examples:
    """The examples for each record: records of `train` in the order that a seed draws, each read
    when it is needed.
    """

    def __init__(self, task: Task, train: Records, seed: int):
        self._task, self._train = task, train
        self._order = iter(np.random.RandomState(seed).permutation(len(train)).tolist())
        self._read: list[tuple[str, Record]] = []  # with their identities

    def __call__(self, record: Record, count: int) -> list[Record]:
        """The first `count` that are not the record itself, or equal to it. Raises `UserError`
        where there are fewer.
        """
        own, number = self._task.identity(record), 0
        found: list[Record] = []
        while len(found) < count:
            if number == len(self._read) and not self._read_another():
                raise UserError(
                    f"--shots: {count} but the training split has {len(found)} records that are "
                    "not the one that is asked; ask with fewer"
                )
            identity, example = self._read[number]
            number += 1
            if identity != own:
                found.append(example)
        return found

    def _read_another(self) -> bool:
        task, train = self._task, self._train
        for number in self._order:
            if task.begins(train[number]):
                last = number + 1
                while last < len(train) and not task.begins(train[last]):
                    last += 1
                example = task.whole([train[n] for n in range(number, last)])
                self._read.append((task.identity(example), example))
                return True
        return False
