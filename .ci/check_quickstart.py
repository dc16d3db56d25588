"""Fails where a run ended over so many bits per character, or its report is missing or too big.

python check_quickstart.py RUN_DIR MAX_BITS_PER_CHAR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

NAME = "final/bits_per_char"  # over the whole validation split, after the last step


def main(run_dir: Path, most: float) -> str | None:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    found = [line[NAME] for line in lines if NAME in line]
    if not found:
        return f"{run_dir}: no {NAME} in metrics.jsonl"
    seconds = lines[-1]["time"] - lines[0]["time"]
    print(f"{run_dir}: {found[-1]:.3f} bits per character, {seconds:.0f} s from first line to last")
    if not found[-1] <= most:
        return f"{run_dir}: {found[-1]:.3f} bits per character is over {most}"
    report = run_dir / "report.html"
    if not report.is_file() or not 0 < report.stat().st_size < 2_000_000:
        return f"{report}: missing, empty, or over 2 MB"
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
