"""The page of what combines with what: it is read as it is written."""

from __future__ import annotations

import itertools
import sys

from tests.commands import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import combinations  # noqa: E402
from combinations import ADAPTERS, METHODS, MODELS, Cell  # noqa: E402


def test_every_product_is_a_cell() -> None:
    cells = combinations.CELLS
    assert len(cells) == len(METHODS) * len(MODELS) * len(ADAPTERS)
    assert set(cells) == {Cell(*names) for names in itertools.product(METHODS, MODELS, ADAPTERS)}


def test_the_page_is_read_as_it_is_written() -> None:
    cells = combinations.CELLS
    found = {cell: "it cannot" if len(str(cell)) % 3 else "" for cell in cells}
    rows = combinations.rows_of(combinations.page(found))
    assert list(rows) == [*METHODS]
    assert all(list(row) == list(MODELS) for row in rows.values())
    assert all(combinations.says_works(cell, rows) == (not found[cell]) for cell in cells)


def test_the_page_has_every_row() -> None:
    text = combinations.PAGE.read_text(encoding="utf-8")
    made = combinations.page(dict.fromkeys(combinations.CELLS, ""))
    assert text.partition("\n| ")[0] == made.partition("\n| ")[0]
    assert list(combinations.rows_of(text)) == [*METHODS]


def test_cells_are_as_the_page_says() -> None:
    assert combinations.check(2, seed=3) == 0
