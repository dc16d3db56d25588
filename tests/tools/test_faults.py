"""Damage of a run folder is named or changes nothing; a fault that nobody sees is found.

`python tools/faults.py --faults 500` does the same at length.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import faults  # noqa: E402
from verbs import warm_programs  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("faults")
    with warm_programs():
        kept = "checkpoint={every_steps: 4, keep_last: 2}"
        faults.make_runs(folder, (*faults.SETTINGS, "mesh.num_devices=1", kept))
        yield folder


def numbers(folder: Path, kinds: tuple[str, ...], count: int) -> list[int]:
    """The first faults of some kinds of file."""
    named = ((n, faults.fault_of(folder, 0, n)[1]) for n in range(2000))
    found = (n for n, fault in named if fault.kind in kinds and fault.what != "digit")
    return list(islice(found, count))


def test_a_dozen_faults_are_named_or_harmless(folder: Path) -> None:
    cases = numbers(folder, ("run/metrics.jsonl", "run/samples.jsonl", "run/marks.json"), 4)
    cases += numbers(folder, ("run/result.json", "run/records.json", "run/data_manifest.json"), 4)
    cases += numbers(folder, ("run/checkpoints/STEP/", "run/identity.json"), 4)
    found = [faults.trial(folder, 0, number, folder / "work") for number in cases]
    assert [f for f in found if f.verdict not in ("named", "harmless")] == []
    assert sum(f.verdict == "named" for f in found) >= 6


@pytest.mark.parametrize("reason", ["a check is missing", "a reader falls over"])
def test_a_planted_fault_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    from jaxlm.runs import files as run_files
    from jaxlm.runs import lines

    def fail(*_: object) -> None:
        raise KeyError("a")

    if reason == "a check is missing":
        monkeypatch.setattr(lines, "digest", lambda before, body: "0" * 12)
        monkeypatch.setattr(run_files, "damage", lambda path, last=None: None)
    else:
        monkeypatch.setattr(run_files, "damage", fail)
    cases = numbers(folder, ("run/metrics.jsonl",), 4)
    found = (faults.trial(folder, 0, number, folder / "work").verdict for number in cases)
    assert ("other" if reason == "a check is missing" else "traceback") in found


def test_the_seed_says_which_faults(folder: Path) -> None:
    first, again, other = (
        [faults.fault_of(folder, seed, n)[1].what for n in range(60)] for seed in (1, 1, 2)
    )
    assert first == again != other
