"""The analytic model against published runs: bounds on the errors that the documentation states."""

from __future__ import annotations

from statistics import fmean

import pytest

from tools.validate_plan import predict, read_rows


def test_predictions_of_published_runs():
    found = {row["id"]: float(predict(row)["error_percent"]) for row in read_rows()}
    assert len(found) == 20
    dense = [
        abs(e) for name, e in found.items() if not {"mixtral", "deepseek3"} & set(name.split("-"))
    ]
    assert fmean(map(abs, found.values())) < 8
    assert fmean(dense) < 6 and max(dense) < 20
    assert max(map(abs, found.values())) < 32


@pytest.mark.parametrize(
    "run", ["v6e-8-llama3.1-8b", "v5e-1x256-16b", "tpu7x-256-llama3.1-405b-bf16"]
)
def test_runs_that_ran_are_not_refused(run):
    row = next(row for row in read_rows() if row["id"] == run)
    assert predict(row)["verdict"] == "likely fits"
