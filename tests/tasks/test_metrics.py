"""The metrics of tasks against other programs and against figures counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxlm.tasks import cmrc, squad
from jaxlm.tasks.entities import entities, entity_scores, is_of_entities
from jaxlm.tasks.multi_label import MultiLabel
from jaxlm.tasks.question_answering import QuestionAnswering
from jaxlm.tasks.regression import Regression, correlation, ranks

SPAN = {"answer_start": [0]}
CHINESE = [{"answers": {"text": ["曹雪芹写的"], **SPAN}}, {"answers": {"text": [], **SPAN}}]
ENGLISH = [{"answers": {"text": ["Cao Xueqin wrote 红楼梦"], **SPAN}}]
CASES = json.loads((Path(__file__).parents[1] / "fixtures" / "entities.json").read_text())


@pytest.mark.parametrize("number", range(len(CASES)))
def test_entities_and_their_scores_are_those_of_seqeval(number: int) -> None:
    """Random tags, many of which break the rules of their scheme (tools/make_golden_entities.py)"""
    case = CASES[number]
    assert [[list(e) for e in entities(tags)] for tags in case["said"]] == case["entities"]
    for mode in ("default", "strict"):
        found = entity_scores(case["said"], case["true"], strict=mode == "strict")
        assert found == pytest.approx(case[mode]), mode


def test_tags_of_parts_of_speech_are_not_those_of_entities() -> None:
    assert is_of_entities(["O", "B-PER", "I-PER"]) and is_of_entities(["O", "B", "I"])
    assert not is_of_entities(["NN", "VB", "IN"]) and not is_of_entities(["O"])


@pytest.mark.parametrize(
    ("said", "answer", "exact", "f1"),
    [
        ("The Denver Broncos!", "denver broncos", 1, 1),
        ("the Denver Broncos", "Carolina Panthers", 0, 0),
        ("in the city of Paris", "Paris", 0, 2 * (1 / 4) * 1 / (1 / 4 + 1)),
        ("a b b c", "b b d", 0, 2 * (2 / 3) * (2 / 3) / (4 / 3)),  # "a" is an article
        ("", "", 1, 1),
        ("", "Paris", 0, 0),
        ("the", "", 1, 1),
        ("10,000", "10000", 1, 1),
    ],
)
def test_exact_match_and_f1_are_those_of_squad(
    said: str, answer: str, exact: float, f1: float
) -> None:
    assert squad.exact_match(said, answer) == exact
    assert squad.f1(said, answer) == pytest.approx(f1)


class Rows(list):
    """Records of a split."""

    def column(self, name: str):
        return (record[name] for record in self)


def test_answers_are_compared_by_the_rules_of_their_language() -> None:
    """One character of five is wrong: a fifth of the units of CMRC, the only word of SQuAD."""
    task, said = QuestionAnswering(), ["曹雪芹写了", ""]
    assert task.resolve(Rows(ENGLISH)) == {"no_answer": False, "metric": "squad"}
    assert task.resolve(Rows(CHINESE)) == {"no_answer": True, "metric": "cmrc"}
    found = task.given(task.resolve(Rows(CHINESE)))
    for each in (found, task):
        assert [m.value for m in each.score(said, CHINESE)] == pytest.approx([0.5, 0.9])
    named = task.replace(metric="squad")
    assert named.given(named.resolve(Rows(CHINESE))).metric == "squad"
    for each in (named, named.given({"metric": "cmrc"}), task.given({"metric": "squad"})):
        assert [m.value for m in each.score(said, CHINESE)] == [0.5, 0.5]


def test_the_best_of_several_answers_counts() -> None:
    answers = ["Saint Bernadette Soubirous", "Bernadette"]
    assert squad.best(squad.exact_match, "bernadette", answers) == 1
    assert squad.best(squad.f1, "Saint Bernadette", answers) == pytest.approx(0.8)
    assert squad.best(squad.f1, "", []) == 1 and squad.best(squad.f1, "x", []) == 0


def test_a_chinese_answer_is_compared_by_its_longest_run_of_characters() -> None:
    assert cmrc.units("《红楼梦》 2018 年") == ["红", "楼", "梦", "2018", "年"]
    assert cmrc.exact_match("红楼梦。", "《红楼梦》") == 1
    # 曹雪芹 is the longest common run, of 3; bags of characters have 4 in common
    assert cmrc.f1("曹雪芹写的书", "书是曹雪芹的") == pytest.approx(2 * 3 / (6 + 6))
    assert cmrc.f1("", "红") == 0


def test_ranks_average_ties_and_correlations_are_those_of_numpy() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1, 3.5, 2]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50))
    assert correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert correlation(x, np.ones(50)) == 0
    # Spearman without ties: 1 - 6 sum d^2 / (n (n^2 - 1))
    d = np.argsort(np.argsort(x)) - np.argsort(np.argsort(y))
    records = [{"label": v} for v in y]
    found = {m.name: m.value for m in Regression().score(x.tolist(), records)}
    assert found["spearman"] == pytest.approx(1 - 6 * (d @ d) / (50 * (50**2 - 1)))
    assert found["mse"] == pytest.approx(np.mean((x - y) ** 2))


def test_the_measures_of_several_labels_are_counted_over_classes() -> None:
    task = MultiLabel(classes=("a", "b", "c"))
    records = [{"label": ["a", "b"]}, {"label": ["b"]}, {"label": []}]
    found = {m.name: m.value for m in task.score([["a"], ["b", "c"], []], records)}
    assert found["micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["exact_match"] == pytest.approx(1 / 3)
