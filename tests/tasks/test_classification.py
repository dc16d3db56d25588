"""The measures of a classification, by their definitions."""

from __future__ import annotations

import pytest

from jaxlm.tasks.classification import Classification


def test_scores_are_those_of_the_definition() -> None:
    task = Classification(classes=("a", "b", "c"))
    true = [{"text": "t", "label": label} for label in "aaabbc"]
    found = {m.name: m for m in task.score([*"aabbca"], true)}
    assert found["accuracy"].value == pytest.approx(3 / 6)
    f1 = (2 * 2 / (3 + 3) + 2 * 1 / (2 + 2) + 0) / 3
    assert found["macro_f1"].value == pytest.approx(f1) and found["macro_f1"].better == "higher"
    assert task.grade(true[0], " a ") == 1 and task.grade(true[0], "b") == 0


def test_a_split_without_a_class_is_remarked() -> None:
    task = Classification(classes=("a", "b", "c"))
    assert task.remarks({"classes": {"a": 3, "b": 1, "c": 9}}) == []
    (line,) = task.remarks({"classes": {"a": 3, "b": 0, "c": 0}})
    assert line.startswith("no record has the class b, c; ") and "data.split_salt" in line
