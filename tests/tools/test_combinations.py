"""The page of combinations is what trying its cells gives."""

from __future__ import annotations

import sys

import pytest

from tests.commands import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import combinations  # noqa: E402


def test_two_cells_are_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    code = combinations.check(2, seed=3)
    out, err = capsys.readouterr()
    assert code == 0, err
    assert len(out.splitlines()) == 2


def test_the_page_has_a_row_for_each_method() -> None:
    lines = combinations.PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line.split(" | ")[0].strip("| ") for line in lines if line.startswith("| ")]
    assert rows[1:] == list(combinations.METHODS)
