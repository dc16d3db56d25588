"""The paired bootstrap against exact cases, and what a curve is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from jaxlm.core.measures import Measure
from jaxlm.evals import paired
from jaxlm.tasks.classification import Classification
from jaxlm.tasks.multi_label import MultiLabel

TRUE = [{"text": str(n), "label": "xy"[n % 2]} for n in range(40)]
RIGHT = [r["label"] for r in TRUE]
SCORE = Classification(classes=("x", "y")).score


def wrong_at(*places: int) -> list[str]:
    return ["yx"[n % 2] if n in places else RIGHT[n] for n in range(40)]


def test_p_is_small_where_one_is_better_and_even_where_both_are_equal() -> None:
    p, draws = paired.bootstrap(SCORE, [wrong_at(*range(20))] * 3, [RIGHT] * 3, TRUE)
    assert draws == 10_000 and p == 1 / 10_001
    assert paired.bootstrap(SCORE, [RIGHT], [RIGHT], TRUE)[0] == 1  # never better
    back, _ = paired.bootstrap(SCORE, [RIGHT], [wrong_at(1, 2)], TRUE)
    assert back > 0.99


def test_p_is_that_of_the_binomial() -> None:
    """One record of 40 differs: a draw is not better where it does not have that record."""
    p, draws = paired.bootstrap(SCORE, [wrong_at(7)], [RIGHT], TRUE)
    assert p == pytest.approx((1 - 1 / 40) ** 40, abs=4 / np.sqrt(draws))


def test_the_records_are_paired() -> None:
    """Both are wrong at many records, the second at one less: independent draws see no gain."""
    many = range(0, 20)
    p, _ = paired.bootstrap(SCORE, [wrong_at(*many, 21, 22, 23)], [wrong_at(*many)], TRUE)
    assert p == pytest.approx((1 - 3 / 40) ** 40, abs=0.02)


def test_a_measure_of_the_corpus_is_drawn_as_a_whole() -> None:
    true = [{"text": "t", "label": [["a"], ["a", "b"], []][n % 3]} for n in range(30)]
    task = MultiLabel(classes=("a", "b"))
    right, half = [r["label"] for r in true], [["a"] for _ in true]
    assert paired.per_record(task.score, half, true) is None  # micro F1 is not a mean
    p, draws = paired.bootstrap(task.score, [half] * 2, [right] * 2, true)
    assert draws == 300 and p == 1 / 301


def test_a_measure_of_the_corpus_compares_means_of_as_many_seeds() -> None:
    """As of a measure that is a mean over records; gains of single seeds spread more."""

    def whole(said: Sequence[Any], true: Sequence[Any]) -> list[Measure]:
        return [Measure("m", SCORE(said, true)[0].value * (len(true) > 1), better="higher")]

    first = [wrong_at(*range(size)) for size in (9, 3, 7, 4, 8)]
    second = [wrong_at(*range(size)) for size in (3, 5, 4, 3, 4)]
    assert paired.per_record(whole, first[0], TRUE) is None
    p, draws = paired.bootstrap(whole, first, second, TRUE)
    assert draws == 300
    assert p == pytest.approx(paired.bootstrap(SCORE, first, second, TRUE)[0], abs=0.03)


def test_many_records_are_drawn_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "CELLS", 40 * 7)
    p, draws = paired.bootstrap(SCORE, [wrong_at(7)], [RIGHT], TRUE)
    assert draws == 10_000 and p == pytest.approx((1 - 1 / 40) ** 40, abs=0.02)


def test_lower_may_be_better() -> None:
    def score(said: Sequence[Any], true: Sequence[Any]) -> list[Measure]:
        errors = [abs(a - b) for a, b in zip(said, true, strict=True)]
        return [Measure("mae", float(np.mean(errors)), better="lower")]

    true = [float(n) for n in range(20)]
    assert paired.bootstrap(score, [[t + 1 for t in true]], [true], true)[0] < 0.001


def test_labels_that_a_curve_needs() -> None:
    labels, values = [100, 1000], [0.6, 0.8]
    assert paired.needed(labels, values, 0.7) == pytest.approx(np.sqrt(1e5))  # halfway in the log
    assert paired.needed(labels, values, 0.8) == pytest.approx(1000)
    assert paired.needed(labels, values, 0.5) == 100 and paired.needed(labels, values, 0.81) is None
    assert paired.needed(labels, [0.8, 0.6], 0.7, "lower") == pytest.approx(np.sqrt(1e5))
    assert paired.needed([1, 10, 100], [0.5, 0.4, 0.7], 0.6) == pytest.approx(10**1.5)
