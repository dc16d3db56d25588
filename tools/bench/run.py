"""Runs the benchmarks, each in a process of its own, and writes the table of docs/performance.md.

    python tools/bench/run.py results --torch PYTHON            # an hour
    python tools/bench/run.py results --only loader tokenise
    python tools/bench/run.py results --tiny                    # a minute, to see that they work
    python tools/bench/run.py results --table                   # only the table, of the files there

Each benchmark leaves results/NAME.json, which `jaxlm report results/NAME.json` draws. A benchmark
that fails is named, and the others go on. The table has every row of every file, oldest first;
between the marks of docs/performance.md it replaces the one before (--page FILE for another page).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- table: tools/bench/run.py -->", "<!-- end of the table -->"
SMOKE = str(ROOT / "configs/smoke/transformer.yaml")

# name -> words of its command line; those of QUICK are of a tiny size
COMMANDS: dict[str, list[str]] = {
    "loader": [],
    "tokenise": [],
    "saves": [],
    "starts": ["--config", SMOKE],
    "step": [str(ROOT / "configs/quickstart.yaml")],
    "optimizer": [],
    "against_torch": [],
    "generation": [],
    "own_steps": [],
}
QUICK = {"step": [SMOKE], "against_torch": ["--rows", "gpt"]}
TORCH = ("optimizer", "against_torch", "generation")
HEAD = ("what", "unit", "side", "CPU-seconds", "time / jaxlm's", "share of the peak", "peak memory")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="for the JSON files")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--torch", help="the Python that has torch; none: no side of it")
    parser.add_argument("--tiny", action="store_true", help="seconds each, to see them work")
    parser.add_argument("--table", action="store_true", help="runs nothing")
    parser.add_argument("--page", type=Path, help="the page; default docs/performance.md")
    options = parser.parse_args(words)
    options.folder.mkdir(parents=True, exist_ok=True)
    failed = [] if options.table else [n for n in options.only if not run(n, options)]
    lines = table(options.folder)
    print("\n".join(lines))
    page = options.page or (None if options.tiny else PAGE)  # tiny sizes are not for the page
    if page is not None:
        page.write_text(with_table(page.read_text(), lines))
    for name in failed:
        print(f"{name}: failed; its message is above", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, options: argparse.Namespace) -> bool:
    """Runs a benchmark; whether it succeeded."""
    words = QUICK.get(name, COMMANDS[name]) if options.tiny else COMMANDS[name]
    command = [sys.executable, str(HERE / f"{name}.py"), *words]
    command += ["--json", str(options.folder / f"{name}.json")]
    command += ["--tiny"] if options.tiny else []
    command += ["--torch", options.torch] if options.torch and name in TORCH else []
    print(f"$ {' '.join(command[1:])}", flush=True)
    return subprocess.run(command, cwd=ROOT).returncode == 0


def table(folder: Path) -> list[str]:
    """The lines of a Markdown table with the rows of all files of a folder."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for path in sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime):
        found = json.loads(path.read_text())
        for row in found["rows"]:
            lines += [f"| {' | '.join(cells)} |" for cells in _cells(found["name"], row)]
    return lines


def _cells(name: str, row: Mapping[str, Any]) -> list[list[str]]:
    from jaxlm.report.benchmark import cells

    title = name if row["name"] in ("", name) else f"{name}: {row['name']}"
    found = []
    for n, (side, seconds, _, ratio, share, peak) in enumerate(cells(row)):
        what, unit = (title, row["unit"]) if n == 0 else ("", "")
        found.append([what, unit, side, seconds, ratio, share, peak])
    return found


def with_table(text: str, lines: Sequence[str]) -> str:
    """The text of a page with the lines between its two marks."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(
            f"the page needs the lines {BEGIN!r} and {END!r}, once each, in this order"
        )
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    return "\n".join([before + BEGIN, *lines, after])


if __name__ == "__main__":
    raise SystemExit(main())
