"""The code of the guides runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["python"])
def test_the_python_of_a_guide_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXLM_CACHE", tiny.cache_dir())
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / f"docs/{name}.md").read_text(), re.M | re.S
    )
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, f"docs/{name}.md", "exec"), names)
