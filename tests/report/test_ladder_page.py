"""Crossings against a search by small steps; the page and the table of a ladder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlm.report.crossings import Series, crossings
from jaxlm.report.ladder import best, series_of, table, write_page
from jaxlm.report.log_chart import log_chart


def searched(a: Series, b: Series, better: str) -> list[tuple[float, str]]:
    """Where the better one changes, by looking at many places."""
    top = 1e4
    low, high = max(a.xs[0], b.xs[0]), min(*(top if s.lasts else s.xs[-1] for s in (a, b)))
    if low >= high:
        return []

    def value(s: Series, x: float) -> float:
        return float(np.interp(math.log(x), np.log(s.xs), s.ys))

    found, winner = [], ""
    for x in np.geomspace(low, high, 40_001):
        ours, theirs = value(a, x), value(b, x)
        if abs(ours - theirs) < 1e-12:
            continue
        now = a.name if (ours < theirs) == (better == "lower") else b.name
        if winner and now != winner:
            found.append((x, now))
        winner = now
    return found


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_crossings_are_where_the_better_one_changes(better: Any) -> None:
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(12):
        pair = []
        for name in "ab":
            count = int(rng.integers(1, 5))
            xs = tuple(np.sort(rng.uniform(1, 300, count)))
            pair.append(Series(name, xs, tuple(rng.uniform(1, 3, count)), bool(rng.integers(2))))
        got, want = crossings(pair, better), searched(*pair, better)
        assert [c.winner for c in got] == [name for _, name in want]
        np.testing.assert_allclose([c.x for c in got], [x for x, _ in want], rtol=1e-3)
        for c in got:
            np.testing.assert_allclose([s.at(c.x) for s in pair], c.y)
        seen += len(got)
    assert seen > 4


def test_lines_that_only_touch_do_not_cross() -> None:
    flat = Series("flat", (1.0,), (2.0,), lasts=True)
    touching = Series("touching", (1.0, 10.0, 100.0), (3.0, 2.0, 3.0))
    assert crossings([flat, touching], "lower") == []
    (one,) = crossings([flat, Series("falls", (1.0, 10.0, 100.0), (3.0, 2.0, 1.0))], "lower")
    assert one.winner == "falls" and one.x == pytest.approx(10, rel=1e-6)
    # before its first point nothing is known of a model
    assert crossings([flat, Series("late", (50.0, 60.0), (1.0, 0.5))], "lower") == []


def point(rung: str, budget: str | None, value: float, training: float, **more: Any) -> Any:
    measure = {"name": "eval/x", "better": "lower", "format": ".3f", "label": "bits per character"}
    return {
        "rung": rung, "budget": budget, "value": value, "training": training, "start": 5.0,
        "whole": training + 9, "steps": 1200, "tokens": 10, "flops": training * 1e9,
        "parameters": 1_500_000, "device": "cpu", "devices": 1, "cores": 2, "note": "", "run": "r",
        "measure": measure, **more,
    }  # fmt: skip


RESULT: dict[str, Any] = {
    "title": "Models <of> Shakespeare",
    "rungs": ["trigram", "LSTM"],
    "measure": point("", None, 0, 0)["measure"],
    "points": [
        point("trigram", None, 2.97, 4.0, flops=0.0, note="It is counted."),
        point("LSTM", "10 s", 3.4, 10.2),
        point("LSTM", "1 min", 2.4, 61.0),
    ],
}


def test_the_page_marks_the_crossing_and_says_it(tmp_path: Path) -> None:
    text = write_page(tmp_path, RESULT).read_text()
    assert "Models &lt;of&gt; Shakespeare" in text and "measured on 2 CPU cores" in text
    # 3.4 - (3.4 - 2.97) in a line of logarithms from 10.2 to 61
    at = 10.2 * (61 / 10.2) ** 0.43
    said = f"LSTM passes trigram at {at:.0f} s, with bits per character 2.970"
    assert said in text and said in table(RESULT)
    assert text.count('class="ring"') == 3  # over training, over both, over FLOPs
    assert "trigram: It is counted." in text
    assert [(name, p["rung"]) for name, p in best(RESULT)] == [
        ("10 s", "trigram"),
        ("1 min", "LSTM"),
    ]
    assert text.count("<figure") == 4 and "It has" not in text
    assert "Bits per character by FLOPs of training" in text


def test_a_counted_model_is_a_level_over_flops() -> None:
    counted, trained = series_of(RESULT, "flops")
    assert counted.lasts and not trained.lasts
    assert counted.xs == (trained.xs[0],) == (10.2e9,)
    assert [s.xs[0] for s in series_of(RESULT, "both")] == [9.0, 15.2]
    only = {**RESULT, "rungs": ["trigram"], "points": RESULT["points"][:1]}
    assert series_of(only, "flops") == []
    assert [(p["rung"]) for _, p in best(only)] == ["trigram"]


def test_a_table_of_points_of_two_machines_warns() -> None:
    other = {**RESULT["points"][1], "cores": 1}
    both = {**RESULT, "points": [RESULT["points"][0], other]}
    assert "on 2 CPU cores and on 1 CPU core; compare only points of one machine" in table(both)


def test_a_run_without_a_finite_value_is_in_the_table_alone(tmp_path: Path) -> None:
    wild = point("wild", "10 s", None, 10.0)  # type: ignore[arg-type]
    result = {**RESULT, "rungs": [*RESULT["rungs"], "wild"], "points": [*RESULT["points"], wild]}
    text = write_page(tmp_path, result).read_text()
    assert "not finite" in text and "not finite" in table(result)
    assert ">wild</span>" not in text and best(result) == best(RESULT)
    alone = {**result, "rungs": ["wild"], "points": [wild]}
    text = write_page(tmp_path, alone).read_text()
    assert "not finite" in text and "<figure" not in text


def test_a_ladder_of_counted_models_has_no_empty_section(tmp_path: Path) -> None:
    only = {**RESULT, "rungs": ["trigram"], "points": RESULT["points"][:1]}
    text = write_page(tmp_path, only).read_text()
    assert "FLOPs of training" not in text and text.count("<figure") == 3


@pytest.mark.parametrize("x", [1.0, 2.2, 3.1, 4.4, 5.6, 6.9, 9.4, 547.0])
def test_a_narrow_axis_has_labels(x: float) -> None:
    chart = str(log_chart("T", [Series("a", (x,), (1.0,))], label="{:.0f} s".format))
    assert chart.split('class="xs"')[1].count("<span") >= 2


def test_an_axis_of_powers() -> None:
    chart = str(log_chart("T", [Series("a", (0.5, 2000.0), (1.0, 2.0))]))
    for label in (">1<", ">10<", ">100<", ">1.00k<"):
        assert label in chart
    assert "a: 2.000 at 2.00k" in chart
    assert log_chart("T", []) == ""
