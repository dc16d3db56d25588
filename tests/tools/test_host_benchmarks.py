"""The benchmarks of the host's work in a tiny size: they run, and count what they say."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "tools" / "bench"


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def run(name: str) -> list[dict]:
    rows = importlib.import_module(name).main(["--tiny"])
    sys.modules.pop(name)
    return rows


def test_loader() -> None:
    rows = run("loader")
    assert [row["name"] for row in rows] == ["windows", "windows at every document", "packed"]
    assert all(rate > 0 for row in rows for rate in row["per_second"].values())
    for row in rows:  # the slow side makes 3 batches, which count as many
        for side, rate in row["per_second"].items():
            assert rate * row["cpu_seconds"][side] == pytest.approx(row["work"])


def test_tokenise() -> None:
    (row,) = run("tokenise")
    assert row["work"] > 10_000 and len(row["per_second"]) == 5


def test_saves() -> None:
    (row,) = run("saves")
    assert row["cpu_seconds"]["blocked"] > 0 and row["blocked_share"] <= row["lost_share"]


def test_step() -> None:
    config = str(BENCH.parents[1] / "configs/smoke/transformer.yaml")
    module = importlib.import_module("step")
    (row,) = module.main([config, "--tiny"])
    sys.modules.pop("step")
    assert row["seconds"]["jaxlm"] > 0 and row["peak_bytes"] > 2**20 and row["page_faults"] >= 0


def test_optimizer() -> None:
    (row,) = run("optimizer")
    assert row["parameters"] == 9 * 8 + 12 * 8 * 8 and row["cpu_seconds"]["jaxlm"] > 0


def test_steps_against_torch_without_torch() -> None:
    module = importlib.import_module("against_torch")
    (row,) = module.main(["--tiny", "--rows", "gpt"])
    assert row["cpu_seconds"]["jaxlm"] > 0 and set(row["ratio"]) == {"flax"}
    assert row["equal"] and 0 < row["largest_difference"]["flax"] < 1e-5
    assert 0 < row["share_of_peak"]["jaxlm"] < 1
    assert row["peak_bytes"]["jaxlm"] > row["grown_bytes"]["jaxlm"] >= 0


def test_own_steps() -> None:
    rows = run("own_steps")
    assert [row["name"] for row in rows] == ["LoRA", "bfloat16", "evaluation"]
    assert all(len(row["ratio"]) == 1 and row["work"] > 0 for row in rows)


def test_generation_without_torch() -> None:
    module = importlib.import_module("generation")
    (row,) = module.main(["--tiny"])
    assert row["work"] == 2 * module.NEW and row["first_seconds"]["jaxlm"] > 0
    assert row["per_second"]["jaxlm"] * row["cpu_seconds"]["jaxlm"] == pytest.approx(row["work"])


@pytest.mark.parametrize("name", ["lstm", "llama", "bert", "t5"])
def test_a_side_takes_the_steps_of_its_row(name: str, tmp_path: Path) -> None:
    module = importlib.import_module("against_torch")
    row = module.TINY[name]
    side = module.jaxlm_side(row, tmp_path)
    losses = side["steps"](3)
    assert losses == pytest.approx([math.log(row.vocab)] * 3, rel=0.2) and len(set(losses)) == 3
    with np.load(tmp_path / "weights.npz") as file:
        assert sum(file[name].size for name in file.files) == side["parameters"]


def test_a_ratio_above_one_means_that_the_first_side_is_faster(monkeypatch) -> None:
    sides = importlib.import_module("sides")
    clock = iter([0.0, 1.0, 1.0, 4.0, 4.0, 5.0, 5.0, 7.0])  # the first takes 1 s, the other 3 and 2
    monkeypatch.setattr(sides, "cpu_seconds", lambda: next(clock))
    found = sides.compare({"a": lambda: None, "b": lambda: None}, work=10, rounds=2)
    assert found["ratio"] == {"b": 2.5} and found["per_second"] == {"a": 10, "b": 4}


def test_all_benchmarks_leave_files_from_which_the_table_is_made(tmp_path: Path) -> None:
    module = importlib.import_module("run")
    sys.modules.pop("run")
    page = tmp_path / "page.md"
    page.write_text(f"Before\n{module.BEGIN}\nold\n{module.END}\nAfter\n")
    row = {"name": "a", "unit": "steps", "cpu_seconds": {"jaxlm": 2.0, "peer": 3.0}}
    row |= {"per_second": {"jaxlm": 0.5}, "ratio": {"peer": 1.5}, "share_of_peak": {"jaxlm": 0.7}}
    (tmp_path / "one.json").write_text(json.dumps({"name": "one", "rows": [row]}))
    assert module.main([str(tmp_path), "--table", "--page", str(page)]) == 0
    first, *middle, last = page.read_text().splitlines()
    assert (first, last) == ("Before", "After") and "old" not in middle
    assert "| one: a | steps | jaxlm | 2 |  | 70% |  |" in middle
    assert "|  |  | peer | 3 | 1.50 |  |  |" in middle
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="once each"):
        module.main([str(tmp_path), "--table", "--page", str(page)])


def test_every_benchmark_of_one_command_is_run_by_the_table() -> None:
    module = importlib.import_module("run")
    sys.modules.pop("run")
    given = {"run", "sides", "torch_side", "flax_side", "ngrams", "vectors"}  # need files of others
    assert set(module.COMMANDS) == {path.stem for path in BENCH.glob("*.py")} - given
