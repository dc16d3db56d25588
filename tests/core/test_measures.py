"""Measures: names, texts and how they are kept."""

import math

import pytest

from jaxlm.core.measures import Measure, from_display, is_better, ratios, tables_of, values_of
from jaxlm.runs.folder import RunDir
from jaxlm.runs.measures import final_measures
from jaxlm.runs.records import Records

LOSS = Measure("loss", better="lower", show="headline", format=".3f")


def test_texts():
    assert LOSS.of(1.8341).text == "1.834"
    assert Measure("rate", 12_345.0, format="count", unit="tok/s").text == "12.3k tok/s"
    assert Measure("n", 12, format="count").text == "12"
    assert Measure("digest", "ab12").text == "ab12"
    assert Measure("steps", 7).text == "7"
    assert Measure("macro_f1").title == "macro f1"


def test_a_prefix_keeps_the_title():
    measure = Measure("loss", 1.0, label="validation loss").under("eval/web")
    assert (measure.name, measure.title) == ("eval/web/loss", "validation loss")
    assert LOSS.under("eval").title == "loss"
    web = LOSS.named("web").under("eval")
    assert (web.name, web.title) == ("eval/web/loss", "web loss")


def test_a_display_gives_the_measure_again():
    measure = LOSS.of(2.0).under("eval")
    assert from_display(measure.name, 2.0, {**measure.display, "later": 1}) == measure
    assert from_display("x", 1.0) == Measure("x", 1.0)


def test_ratios_have_the_known_ones_first():
    found = ratios({"accuracy": (3, 4), "loss": (1.0, 2.0)}, [LOSS])
    assert [(m.name, m.value, m.show) for m in found] == [
        ("loss", 0.5, "headline"),
        ("accuracy", 0.75, "figure"),
    ]


@pytest.mark.parametrize(
    ("better", "value", "best", "delta", "improved"),
    [
        ("lower", 1.0, 1.5, 0.0, True),
        ("lower", 1.0, 1.5, 0.5, False),
        ("higher", 1.0, 1.5, 0.0, False),
        ("higher", 2.0, 1.5, 0.0, True),
        ("lower", math.nan, 1.0, 0.0, False),
        ("higher", 1.0, math.nan, 0.0, True),
    ],
)
def test_improvements(better, value, best, delta, improved):
    assert is_better(better, value, best, delta) is improved


def test_a_run_keeps_how_its_measures_are_shown(tmp_path):
    run = RunDir(tmp_path)
    table = {"classes": ["a", "b"], "table": [[1, 0], [0, 2]]}
    measures = [LOSS.of(2.0).under("eval"), Measure("confusion", table, show="table")]
    Records(run, 0, keep_ledger=False).write_displays(measures)
    again = Records(run, 0, keep_ledger=False)
    again.write_displays([Measure("train/loss", 1.0, show="headline")])
    result = {"final": values_of(measures), **tables_of(measures), "evaluated": {"of": 3}}
    assert final_measures(run, result) == measures
    assert [m.show for m in final_measures(RunDir(tmp_path / "old"), result)] == ["figure", "table"]
