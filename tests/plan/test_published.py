"""The analytic model against published runs: bounds on the errors that the documentation states,
and each run's own error, so that a change of the model is seen where it tells.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import median

import pytest

from tools.validate_plan import (
    derive_matmul,
    kinds,
    left_out_errors,
    log_error,
    model,
    percentile,
    predict,
    read_rows,
)

# Per cent, as `python tools/validate_plan.py` prints them.
RECORDED = {
    "v6e-8-llama3.1-8b": -2.0,
    "v6e-256-llama3.1-8b": -1.9,
    "v6e-64-llama3.1-70b": -0.4,
    "v6e-256-llama3.1-70b": -7.3,
    "v6e-256-llama2-70b": 6.8,
    "v6e-256-gpt3-175b-bf16": 12.0,
    "v6e-1x256-gemma3-12b": 0.7,
    "v6e-4x256-gemma3-12b": 11.7,
    "v6e-256-mixtral-8x7b": 7.8,
    "v5p-1024-llama3.1-405b": -11.4,
    "v5p-1024-deepseek3": 2.1,
    "v5p-128-mixtral-8x7b": -8.9,
    "v5p-512-llama2-70b": 1.6,
    "v5e-1x256-16b": 3.1,
    "v5e-1x256-32b": -4.4,
    "v5e-8x256-32b": -5.7,
    "v5e-1x256-64b": 4.9,
    "v5e-1x256-128b": 5.8,
    "v5p-1x128-32b": -2.9,
    "v5p-1x256-128b": -0.7,
    "v4-1x128-22b": -0.1,
    "tpu7x-256-llama3.1-405b-bf16": -0.2,
    "tpu7x-64-llama3.1-70b-bf16": 6.5,
    "v5e-16x256-32b": -5.4,
    "v5e-32x256-64b": 11.1,
    "v5e-4x256-128b": -12.5,
    "v5p-2x512-128b": 9.2,
    "v5p-2x2048-1024b": 8.9,
    "v4-8x128-22b": 0.6,
    "v6e-2x256-gemma3-12b": 5.4,
    "tpu7x-64-gpt-oss-120b": 75.9,
    "v5p-256-llama4-maverick": 20.2,
    "v6e-256-mixtral-8x22b": -6.2,
    "tpu7x-256-qwen3-235b-bf16": -8.0,
    "tpu7x-256-deepseek3-bf16": 4.4,
    "tpu7x-256-llama3.1-405b-fp8": -1.7,
    "tpu7x-64-llama3.1-70b-fp8": 1.4,
    "v6e-256-gpt3-175b-int8": 43.0,
    "tpu7x-256-deepseek3-fp8": -7.1,
    "tpu7x-256-llama3.1-70b-128k-bf16": 8.2,
    "v6e-4x256-custom-700b": -1.0,
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
    errors = {name: abs(error) for name, error in found.items()}
    groups = {name: [errors[run] for run in own] for name, own in kinds(runs()).items()}
    assert median(errors.values()) < 6 and percentile(list(errors.values()), 90) < 13
    assert median(groups["mixtures of experts"]) < 10 and median(groups["8 bits"]) < 10
    assert median(groups["several slices"]) < 10 and median(groups["dense, one slice"]) < 5
    assert max(groups["dense, one slice"]) < 15


def faster(row):
    return dict(row) | {"tokens_per_s_per_chip": str(2 * float(row["tokens_per_s_per_chip"]))}


def test_a_row_that_is_left_out_has_no_part_in_its_matmul():
    first, *others = (row for row in read_rows() if row["topology"].startswith("v5e"))
    name = first["id"]
    tables = [first, *others], [faster(first), *others], [first, *map(faster, others)]
    before, own, of_others = (left_out_errors(rows, runs())[0][name] for rows in tables)
    assert 100 + own == pytest.approx((100 + before) / 2)  # the prediction stays
    assert of_others > before + 40  # it follows the others


def test_the_derived_matmul_meets_the_median_of_its_runs():
    pairs = [(row, runs()[row["id"]]) for row in read_rows() if row["topology"].startswith("v6e")]
    matmul = derive_matmul(pairs)
    assert median(log_error(row, run, matmul) for row, run in pairs) == pytest.approx(0, abs=1e-6)
    own = runs()["v6e-8-llama3.1-8b"].topology.chip.matmul
    assert own == pytest.approx(matmul, abs=0.02)
    row = pairs[0][0]
    told = float(predict(row, runs()[row["id"]])["error_percent"])
    assert 100 * math.expm1(log_error(row, runs()[row["id"]], own)) == pytest.approx(told, abs=0.05)


def test_single_rows_are_told_apart():
    one_of_v4 = [row for row in read_rows() if row["id"] != "v4-8x128-22b"]
    left_out, alone = left_out_errors(one_of_v4, runs())
    assert set(alone) == {"v4-1x128-22b"}
    left_out, alone = left_out_errors(read_rows(), runs())
    assert left_out.keys() == RECORDED.keys() and not alone
    errors = [abs(error) for error in left_out.values()]
    assert median(errors) < 8 and percentile(errors, 90) < 17


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
