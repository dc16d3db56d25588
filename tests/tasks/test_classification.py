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
