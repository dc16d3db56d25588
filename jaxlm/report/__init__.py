"""A run in one HTML file: it opens offline, prints, and is under 2 MB whatever the run's length.

    write_report(Path("runs/tiny"))    # runs/tiny/report.html

Everything comes from the run directory's files (`jaxlm.report.files` lists them), so a report can
be written of a finished run, of one that is still running, and of one that was killed.
"""

from __future__ import annotations

from pathlib import Path

from jaxlm.files import write_atomic
from jaxlm.report.files import read_run
from jaxlm.report.page import render
from jaxlm.train.run_dir import RunDir


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into the run directory and returns its path.

    Raises UserError where `run_dir` is no directory. A file that is missing leaves its section out;
    one that cannot be read is named at the top of the page.
    """
    page = render(read_run(Path(run_dir)))
    path = RunDir(run_dir).report
    write_atomic(path, page)
    return path
