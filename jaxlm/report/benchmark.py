"""The page of a benchmark: what each side takes, beside the first one.

    write_benchmark(Path("steps.json"))    # steps.html

The file is JSON: {"name", "rows": [{"name", "unit", "cpu_seconds": {...}, "ratio": {...}}]}, by
side.
`cpu_seconds` are those of one unit or of all the work; `ratio` is how much longer a side takes than
the first one. `share_of_peak` and `peak_bytes` by side are shown where a row has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxlm
from jaxlm.core.config import UserError
from jaxlm.core.files import write_atomic
from jaxlm.core.numbers import human
from jaxlm.report.html import fill, page
from jaxlm.report.tables import table

HEAD = ("side", "CPU-seconds", "a CPU-second", "time / first", "share of the peak", "peak memory")
NOTE = (
    "Sides run in turn; figures are medians. The bar is the time of a side beside that of the "
    "first: longer than the first one's is slower."
)


def write_benchmark(path: Path) -> Path:
    """Writes the page beside the file and returns its path.

    Raises UserError for a file that is not the result of a benchmark.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        name, rows = found["name"], found["rows"]
        sections = [(row["name"] or name, _section(row)) for row in rows]
    except FileNotFoundError:
        raise UserError(
            f"{path}: does not exist; give the folder of a run, or a benchmark's file"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: is not the result of a benchmark; bring a file that its option --json wrote"
        ) from None
    text = page(
        path.stem,
        kind="benchmark",
        heading=name,
        status="",
        notes=[NOTE],
        figures=[],
        texts=[],
        sections=sections,
        footer=f"Written by jaxlm {jaxlm.__version__}; the values are in {path.name}.",
    )
    page_path = path.with_suffix(".html")
    write_atomic(page_path, text)
    return page_path


def cells(row: Mapping[str, Any]) -> list[list[str]]:
    """A row of texts for each side: see `HEAD`."""
    peaks = row.get("peak_bytes", {})
    shares, peaks = row.get("share_of_peak", {}), peaks if isinstance(peaks, Mapping) else {}
    found = []
    for side, seconds in row["cpu_seconds"].items():
        rate, ratio = row.get("per_second", {}).get(side), row["ratio"].get(side)
        found.append(
            [
                side,
                f"{seconds:.4g}",
                "" if rate is None else f"{_rate(rate)} {row['unit']}",
                "" if ratio is None else f"{ratio:.2f}",
                f"{shares[side]:.0%}" if side in shares else "",
                f"{peaks[side] / 2**20:,.0f} MiB" if side in peaks else "",
            ]
        )
    return found


def _rate(value: float) -> str:
    return human(value) if value >= 1000 else f"{value:.3g}"


def _section(row: Mapping[str, Any]) -> Any:
    """The bars of a row and its figures; columns that are empty are left out."""
    first = next(iter(row["cpu_seconds"]))
    times = {first: 1.0, **{side: float(ratio) for side, ratio in row["ratio"].items()}}
    most = max(times.values())
    bars = [(side, f"{times[side] / most:.4f}", f"{times[side]:.2f}") for side in times]
    texts = cells(row)
    shown = [n for n in range(len(HEAD)) if any(line[n] for line in texts)]
    figures = table(
        [HEAD[n] for n in shown], [[line[n] for n in shown] for line in texts], right=HEAD[1:]
    )
    return fill(
        "{% for side, share, text in bars %}<p>{{ side }}<br>"
        '<meter min="0" max="1" value="{{ share }}" style="width:70%">{{ text }}</meter> '
        "{{ text }}</p>"
        "{% endfor %}{{ figures }}",
        bars=bars,
        figures=figures,
    )
