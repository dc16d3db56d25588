"""The page of what combines with what: it is read as it is written."""

from __future__ import annotations

import sys

from tests.commands import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import combinations  # noqa: E402
from combinations import ADAPTERS, FULL, METHODS, MODELS, WIDELY, Cell  # noqa: E402


def test_the_page_is_read_as_it_is_written() -> None:
    cells = combinations.CELLS
    found = {cell: "it cannot" if len(str(cell)) % 3 else "" for cell in cells}
    rows = combinations.rows_of(combinations.page(found))
    assert list(rows) == [*METHODS, *(adapter for adapter in ADAPTERS if adapter != FULL)]
    assert all(list(row) == list(MODELS) for row in rows.values())
    assert all(combinations.says_works(cell, rows) == (not found[cell]) for cell in cells)
    whole = {Cell(method, model, FULL) for method in METHODS for model in MODELS}
    adapted = {Cell(method, m, a) for method in WIDELY for m in MODELS for a in ADAPTERS}
    assert set(cells) == whole | adapted and len(cells) == len(set(cells))


def test_the_page_has_every_row_and_says_what_is_tried_with_what() -> None:
    text = combinations.PAGE.read_text(encoding="utf-8")
    assert text.startswith(combinations.HEAD)
    assert combinations.OTHERS.format(methods=", ".join(WIDELY)) in text
    rows = combinations.rows_of(text)
    assert list(rows) == [*METHODS, *(adapter for adapter in ADAPTERS if adapter != FULL)]


def test_cells_are_as_the_page_says() -> None:
    assert combinations.check(2, seed=3) == 0
