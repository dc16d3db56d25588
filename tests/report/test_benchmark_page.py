"""The page of a benchmark: its bars and figures, and files that no benchmark wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxlm.core.config import UserError
from jaxlm.report.benchmark import cells, write_benchmark

ROW = {
    "name": "<gpt>",
    "unit": "steps",
    "cpu_seconds": {"jaxlm": 2.0, "peer": 3.0},
    "per_second": {"jaxlm": 0.5, "peer": 1 / 3},
    "ratio": {"peer": 1.5},
    "peak_bytes": {"jaxlm": 3 * 2**20, "peer": 5 * 2**20},
}


def test_a_page_has_the_figures_and_a_bar_for_each_side(tmp_path: Path) -> None:
    file = tmp_path / "steps.json"
    file.write_text(json.dumps({"name": "against", "rows": [ROW]}))
    page = write_benchmark(file)
    text = page.read_text()
    assert page == tmp_path / "steps.html" and "&lt;gpt&gt;" in text and "<gpt>" not in text
    assert text.count("<meter") == 2 and 'value="1.0000"' in text and 'value="0.6667"' in text
    assert "peak memory" in text and "share of the peak" not in text
    assert cells(ROW)[1] == ["peer", "3", "0.333 steps", "1.50", "", "5 MiB"]


@pytest.mark.parametrize("content", ["", "[]", '{"rows": []}', '{"name": "a", "rows": [1]}'])
def test_other_files_are_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(UserError, match=r"other.json: is not the result of a benchmark"):
        write_benchmark(file)
    with pytest.raises(UserError, match="missing.json: does not exist; give"):
        write_benchmark(tmp_path / "missing.json")
