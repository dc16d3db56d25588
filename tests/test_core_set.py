"""The list of core tests names tests that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core_set import CORE, names_of

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("line", CORE)
def test_a_line_names_a_test_that_is_there(line: str) -> None:
    _, test, file = names_of(line)
    text = (ROOT / file).read_text()
    assert test == file or f"\ndef {test.partition('::')[2]}(" in text
