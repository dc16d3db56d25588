"""The analytic model against published runs: bounds on the errors that the documentation states,
and each run's own error, so that a change of the model is seen where it tells.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import fmean

import pytest

from tools.validate_plan import (
    derive_matmul,
    left_out_errors,
    log_error,
    model,
    predict,
    read_rows,
)

# Per cent, as `python tools/validate_plan.py` prints them.
RECORDED = {
    "v6e-8-llama3.1-8b": -0.6,
    "v6e-256-llama3.1-8b": -0.3,
    "v6e-64-llama3.1-70b": 1.1,
    "v6e-256-llama3.1-70b": -5.8,
    "v6e-256-llama2-70b": 8.5,
    "v6e-256-gpt3-175b-bf16": 13.7,
    "v6e-1x256-gemma3-12b": 2.3,
    "v6e-4x256-gemma3-12b": 17.2,
    "v6e-256-mixtral-8x7b": -7.5,
    "v5p-1024-llama3.1-405b": -6.2,
    "v5p-1024-deepseek3": 24.6,
    "v5p-128-mixtral-8x7b": -19.4,
    "v5p-512-llama2-70b": 8.4,
    "v5e-1x256-16b": 0.7,
    "v5e-1x256-32b": -6.7,
    "v5e-8x256-32b": -1.8,
    "v5e-1x256-64b": 2.5,
    "v5e-1x256-128b": 3.9,
    "v5p-1x128-32b": 2.4,
    "v5p-1x256-128b": 4.6,
    "v4-1x128-22b": 1.3,
    "tpu7x-256-llama3.1-405b-bf16": -3.4,
    "tpu7x-64-llama3.1-70b-bf16": 3.1,
}


@cache
def runs():
    return {row["id"]: model(row) for row in read_rows()}


@pytest.mark.parametrize("row", read_rows(), ids=lambda row: row["id"])
def test_each_error_is_the_recorded_one(row):
    found = float(predict(row, runs()[row["id"]])["error_percent"])
    assert found == pytest.approx(RECORDED[row["id"]], abs=2)


def test_predictions_of_published_runs():
    found = {
        row["id"]: float(predict(row, runs()[row["id"]])["error_percent"]) for row in read_rows()
    }
    assert found.keys() == RECORDED.keys()
    dense = [
        abs(e) for name, e in found.items() if not {"mixtral", "deepseek3"} & set(name.split("-"))
    ]
    assert fmean(map(abs, found.values())) < 8
    assert fmean(dense) < 6 and max(dense) < 20
    assert max(map(abs, found.values())) < 32


def test_a_row_that_is_left_out_has_no_part_in_its_matmul():
    rows = [row for row in read_rows() if row["topology"].startswith("v5e")]
    changed = [dict(row) for row in rows]
    changed[0]["tokens_per_s_per_chip"] = str(2 * float(rows[0]["tokens_per_s_per_chip"]))
    before, after = (left_out_errors(r, runs())[0] for r in (rows, changed))
    name = rows[0]["id"]
    assert 100 + after[name] == pytest.approx((100 + before[name]) / 2)  # the prediction stays
    assert all(after[r["id"]] > before[r["id"]] + 5 for r in rows[1:])  # the others' do not


def test_the_derived_matmul_meets_its_runs_on_average():
    pairs = [(row, runs()[row["id"]]) for row in read_rows() if row["topology"].startswith("v6e")]
    matmul = derive_matmul(pairs)
    assert fmean(log_error(row, run, matmul) for row, run in pairs) == pytest.approx(0, abs=1e-6)
    own = runs()["v6e-8-llama3.1-8b"].topology.chip.matmul
    row = pairs[0][0]
    told = float(predict(row, runs()[row["id"]])["error_percent"])
    assert 100 * math.expm1(log_error(row, runs()[row["id"]], own)) == pytest.approx(told, abs=0.05)


def test_single_rows_are_told_apart():
    left_out, alone = left_out_errors(read_rows(), runs())
    assert set(alone) == {"v4-1x128-22b"}
    assert left_out.keys() | alone.keys() == RECORDED.keys()
    assert fmean(map(abs, left_out.values())) < 8.5 and max(map(abs, left_out.values())) < 34


def test_both_figures_of_mfu_are_by_the_same_count():
    for row in read_rows():
        found = predict(row, runs()[row["id"]])
        if not row["mfu_percent"]:
            assert found["mfu_predicted"] == ""
            continue
        ratio = float(found["mfu_predicted"]) / float(row["mfu_percent"]) - 1
        # of rates that were rounded when published
        assert 100 * ratio == pytest.approx(float(found["error_percent"]), abs=0.6)


@pytest.mark.parametrize(
    "run", ["v6e-8-llama3.1-8b", "v5e-1x256-16b", "tpu7x-256-llama3.1-405b-bf16"]
)
def test_runs_that_ran_are_not_refused(run):
    row = next(row for row in read_rows() if row["id"] == run)
    assert predict(row, runs()[run])["verdict"] == "likely fits"
