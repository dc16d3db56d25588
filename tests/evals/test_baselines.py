"""Baselines: naive Bayes against a slow one, and what a model that does not beat them is told."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxlm.cli.shared.figures import print_figures
from jaxlm.core.files import read_json, write_sealed
from jaxlm.core.measures import Measure, not_beaten
from jaxlm.evals.baselines.base import EVERY, Baseline
from jaxlm.evals.baselines.naive_bayes import Counts, NaiveBayes, grams
from jaxlm.evals.baselines.nearest import Nearest
from jaxlm.evals.beside_baselines import BesideBaselines, measured_baselines
from jaxlm.evals.split_records import records_of
from jaxlm.report import write_report
from jaxlm.tasks.chat import Chat
from jaxlm.tasks.classification import Classification
from jaxlm.tasks.kto import KTO
from jaxlm.tasks.pair import Pair
from jaxlm.tasks.preference import Preference
from jaxlm.tasks.prompt_completion import PromptCompletion
from jaxlm.tasks.regression import Regression
from jaxlm.tasks.translation import Translation
from tests import tiny
from tests.fake_run import make_run


def split(records: list[dict[str, Any]]) -> Any:
    class Listed(list[Any]):
        def column(self, name: str) -> Any:
            return (record[name] for record in self)

    return SimpleNamespace(rows=SimpleNamespace(records=Listed(records)))


def session(task: Any, train: list[dict[str, Any]], validation: list[dict[str, Any]]) -> Any:
    splits = {"train": split(train), "validation": split(validation)}
    return SimpleNamespace(prepared=SimpleNamespace(task=task, splits=splits))


def slow_bayes(train: list[tuple[str, list[Any]]], text: list[Any]) -> str:
    """From the definition, with a count for each class and n-gram."""
    vocabulary = {gram for _, each in train for gram in each}
    best = {}
    for name in sorted({label for label, _ in train}):
        own = [each for label, each in train if label == name]
        counts = Counter(gram for each in own for gram in each)
        total = counts.total() + len(vocabulary)
        known = [gram for gram in text if gram in vocabulary]
        best[name] = math.log(len(own) / len(train)) + sum(
            math.log((counts[gram] + 1) / total) for gram in known
        )
    return max(best, key=lambda name: best[name])


def test_naive_bayes_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    words = {"a": "good fine film new plot", "b": "bad film dull plot", "c": "film old fine"}
    draw = lambda c: " ".join(rng.choice(words[c].split(), rng.integers(1, 6)))  # noqa: E731
    train = [(c, grams([draw(c)])) for c in rng.choice([*"aabc"], 60)]
    model = Counts([c for c, _ in train], [text for _, text in train])
    asked = [grams([draw(c)]) for c in rng.choice([*"abc"], 60)] + [grams(["unseen"]), []]
    assert [model(text) for text in asked] == [slow_bayes(train, text) for text in asked]
    assert len({model(text) for text in asked}) == 3


def test_words_are_runs_of_letters_and_chinese_characters() -> None:
    assert grams(["It's 很好"]) == [
        ("it",),
        ("'",),
        ("it", "'"),
        ("s",),
        ("'", "s"),
        ("很",),
        ("s", "很"),
        ("好",),
        ("很", "好"),
    ]
    assert grams(["a", "a"]) == [("a",), ("1", "a")]  # of the second text: another n-gram


def test_the_rarest_grams_are_left_out_of_a_large_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxlm.evals.baselines.naive_bayes.MAX_CELLS", 4)
    model = Counts(["x", "y"], [[("a",), ("a",), ("z",)], [("b",), ("b",)]])
    assert model([("a",)]) == "x" and model([("b",)]) == "y"
    assert model([("z",), ("b",)]) == "y"  # "z" is not in the table


class Model:
    """What measures a model that is right by chance."""

    def __init__(self, **values: float) -> None:
        self.values = values

    def after(self, params: Any, counts: Any, **_: Any) -> list[list[Measure]]:
        return [[Measure(n, v, better="higher", format=".1%") for n, v in self.values.items()]
                for _ in counts]  # fmt: skip

    def extent(self, count: int | None) -> None:
        return None


TRAIN = [{"text": t, "label": c} for t, c in [("good", "x"), ("good film", "x"), ("bad", "y"),
         ("fine good", "x"), ("bad film", "y")]]  # fmt: skip
TEST = [{"text": t, "label": c} for t, c in [("good", "x"), ("bad bad", "y"), ("so bad", "y")]]


def test_a_model_that_does_not_beat_a_baseline_is_told_so(capsys: Any) -> None:
    task = Classification(classes=("x", "y"))
    beside = BesideBaselines(Model(accuracy=0.5), session(task, TRAIN, TEST), "validation")
    part, whole = beside.after(None, [1, None])
    assert [m.name for m in part] == ["accuracy"]
    found = {m.name: m.value for m in whole}
    assert found["baseline/accuracy"] == pytest.approx(1 / 3)  # all are of the largest class
    assert found["naive_bayes/accuracy"] == 1 and found["naive_bayes/seconds"] > 0
    assert "baseline/macro_f1" not in found  # the model has no such figure
    print_figures(m.under("eval") for m in whole)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].strip() == (
        "the model does not beat its baseline: naive Bayes has accuracy 100.0%, the model 50.0%"
    )
    assert sum("does not beat" in line for line in lines) == 1  # the largest class is beaten


def test_a_baseline_that_gets_nothing_right_is_not_compared() -> None:
    figures = [
        Measure("accuracy", 0.0, better="higher"),
        Measure("naive_bayes/accuracy", 0.0, better="higher", baseline="naive Bayes"),
    ]
    assert not_beaten(figures) == []
    figures[1] = dataclasses.replace(figures[1], value=0.1)
    assert len(not_beaten(figures)) == 1
    figures[0] = dataclasses.replace(figures[0], value=0.1)
    assert not_beaten(figures) == [
        "the model is as good as its baseline: it has accuracy 0.1000, as naive Bayes has"
    ]


def measured(task: Any, train: Any, test: Any, **model: float) -> dict[str, Measure]:
    beside = BesideBaselines(Model(**model), session(task, train, test), "validation")
    return {m.name: m for m in beside.after(None, [None])[0]}


def test_written_answers_are_compared_with_the_nearest_and_the_most_frequent_one() -> None:
    train = [
        {"prompt": "what is your name", "completion": "Bo"},
        {"prompt": "where do you live", "completion": "in Rome"},
        {"prompt": "where are you now", "completion": "in Rome"},
    ]
    test = [
        {"prompt": "your name?", "completion": "Bo"},
        {"prompt": "age", "completion": "in Oslo"},
    ]
    found = measured(PromptCompletion(), train, test, exact_match=0.0, word_f1=0.0)
    assert found["nearest/exact_match"].value == 0.5  # the name
    assert found["nearest/exact_match"].baseline == "answer to the nearest prompt"
    assert found["baseline/exact_match"].value == 0  # "in Rome"
    assert found["baseline/word_f1"].value == pytest.approx(0.25)  # one of two words, once
    assert found["baseline/exact_match"].baseline == "most frequent answer"

    said = lambda *texts: {  # noqa: E731
        "messages": [
            {"role": role, "content": text}
            for role, text in zip(("user", "assistant"), texts, strict=True)
        ]
    }
    found = measured(Chat(), [said("hi there", "hello"), said("name?", "Bo")],
                     [said("hi", "hello")], exact_match=0.0)  # fmt: skip
    assert found["nearest/exact_match"].value == 1


def test_baselines_without_a_measure_of_the_model_are_not_fitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fit(*_: Any) -> None:
        raise AssertionError("nothing of it would be shown")

    monkeypatch.setattr(Nearest, "fit", fit)
    records = [{"prompt": "a", "completion": "b"}]
    assert measured(PromptCompletion(), records, records, loss=1.0).keys() == {"loss"}


def test_pairs_are_compared_with_the_longer_answer() -> None:
    pairs = [
        {"prompt": "p", "chosen": chosen, "rejected": rejected}
        for chosen, rejected in [("long", "a"), ("b", "longer"), ("ab", "cd"), ("abc", "x")]
    ]
    found = measured(Preference(), pairs, pairs, accuracy=0.5)
    assert found["longer_answer/accuracy"].value == pytest.approx(2.5 / 4)


def test_labelled_answers_are_compared_with_the_majority() -> None:
    labelled = lambda labels: [  # noqa: E731
        {"prompt": "p", "completion": str(n), "label": label} for n, label in enumerate(labels)
    ]
    train, test = labelled([True, False, False]), labelled([True, False, False, False])
    found = measured(KTO(), train, test, accuracy=0.5)
    assert found["majority_label/accuracy"].value == 0.75


def test_baselines_report_progress_while_they_answer() -> None:
    """A long split must not look like a hang."""
    task, beats = Classification(classes=("x", "y")), []
    beside = BesideBaselines(Model(accuracy=0.5), session(task, TRAIN, TEST * 50), "validation")
    first = beside.after(None, [None], on_batch=lambda: beats.append(0))
    assert len(beats) > 2 * 150 / EVERY  # naive Bayes, and the largest class
    beats.clear()
    assert beside.after(None, [None], on_batch=lambda: beats.append(0)) == first
    assert not beats  # they are measured once


def test_the_nearest_source_is_looked_up_for_a_part_of_a_long_split(monkeypatch: Any) -> None:
    texts = ["save the file", "open a window", "close the door", "read the mail"]
    train = [{"source": text, "target": str(n)} for n, text in enumerate(texts)]
    asked = [{"source": texts[n % 2], "target": str(n % 2)} for n in range(40)]
    data, nearest = session(Translation(), train, asked), Nearest()
    assert nearest.title(data, "validation") == "target of the nearest source"
    monkeypatch.setattr("jaxlm.evals.baselines.nearest.TEXTS", 2)  # numbers 0 and 3
    said = nearest.fit(Translation(), records_of(data.prepared, "train"))
    assert said is not None and said(train[3]) == "3" and said(train[1]) in ("0", "3")
    seen: list[Any] = []
    monkeypatch.setattr(Translation, "score", lambda _, said, true: seen.extend(true))
    monkeypatch.setattr(Nearest, "most", 3)
    nearest.measures(data, "validation")
    assert seen == [asked[0], asked[19], asked[39]]
    assert nearest.title(data, "validation") == "target of the nearest source, of 3 records"


def test_naive_bayes_is_of_classes_alone() -> None:
    pair = [{"text": "a b", "text_b": t, "label": c} for t, c in [("yes", "x"), ("no", "y")] * 3]
    measures = NaiveBayes().measures(session(Pair(), pair, pair), "validation")
    assert measures is not None and measures[0].value == 1
    numbers = [{"text": "a", "label": 1.0}]
    assert NaiveBayes().measures(session(Regression(), numbers, numbers), "validation") is None
    without_task = SimpleNamespace(prepared=SimpleNamespace(task=None, splits={}))
    assert NaiveBayes().measures(without_task, "validation") is None


def test_a_baseline_that_fails_is_left_out(caplog: Any) -> None:
    broken = [{"text": None, "label": "x"}]
    data = session(Classification(classes=("x", "y")), broken, TEST)
    with caplog.at_level(logging.WARNING, "jaxlm"):
        ((whole,),) = [BesideBaselines(Model(accuracy=0.5), data, "validation").after(None, [None])]
    assert {m.name for m in whole} >= {"baseline/accuracy"}
    assert "baseline naive_bayes is left out: TypeError" in caplog.text
    assert Baseline.kind.group == "jaxlm.baselines"


def test_a_run_of_records_leaves_none_out(tmp_path: Path, caplog: Any) -> None:
    """Whether it has a training split or, as with other data, none."""
    rows = [{"text": f"{w} film {n}", "label": w} for n in range(10) for w in ("good", "bad")]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"{{type: records, source: {{type: jsonl, files: {tmp_path}/r.jsonl}}, seq_len: 24, "
    data += "task: {type: classification}, validation_fraction: 0.3}"
    settings = (f"data={data}", "objective={type: classification}", "sample.prompts=[]")
    config, prepared = tiny.prepared(tiny.load("transformer", *settings).config)
    alone = dataclasses.replace(prepared, splits={"validation": prepared.splits["validation"]})
    with caplog.at_level(logging.WARNING, "jaxlm"):
        for given, keys in ((prepared, {"baseline", "naive_bayes"}), (alone, set())):
            measured: Any = SimpleNamespace(config=config, prepared=given)
            assert {key for key, *_ in measured_baselines(measured, "validation")} >= keys
    assert not caplog.records


def test_the_report_shows_the_model_beside_its_baselines(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", classification=True)
    result = read_json(run / "result.json", "")
    result["final"] |= {"eval/naive_bayes/accuracy": 0.95, "eval/naive_bayes/seconds": 0.25}
    write_sealed(run / "result.json", result)
    own = {"baseline": "naive Bayes", "better": "higher"}
    displays = {"eval/accuracy": {"better": "higher", "format": ".1%"}}
    displays |= {f"eval/naive_bayes/{key}": own for key in ("accuracy", "seconds")}
    write_sealed(run / "measures.json", displays)
    page = write_report(run).read_text()
    section = page[page.index("Baselines") :]
    assert "naive Bayes" in section and "95.0%" in section and "the model" in section
    assert "The model does not beat its baseline: naive Bayes has accuracy 95.0%" in section
