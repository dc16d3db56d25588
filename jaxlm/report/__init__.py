"""A run in one HTML file: it opens offline, prints, and is under 2 MB whatever the run's length.

    write_report(Path("runs/tiny"))    # runs/tiny/report.html

It is made from the run directory's files (see `jaxlm.report.files`), so a finished, a running or a
killed run can have a report.
"""

from __future__ import annotations

from pathlib import Path

from jaxlm.core.files import write_atomic
from jaxlm.report.files import read_run
from jaxlm.report.page import render
from jaxlm.runs.folder import RunDir


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into the run directory and returns its path.

    Raises UserError if `run_dir` is not a directory. The section of a missing file is left out; a
    damaged file is reported at the top of the page.
    """
    page = render(read_run(Path(run_dir)))
    path = RunDir(run_dir).report
    write_atomic(path, page)
    return path
