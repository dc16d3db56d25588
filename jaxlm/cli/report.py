"""`jaxlm report RUN_DIR`: writes a run's report."""

from __future__ import annotations

from jaxlm.cli.shared import options
from jaxlm.cli.shared.verb import USING, verb


@verb(
    "write report.html of a run",
    section=USING,
    examples=(("report runs/quickstart", ""),),
    works=True,
)
@options.run_dir
def command(run_dir: str) -> None:
    """Writes report.html of a run, one file that opens offline, and prints its path."""
    from jaxlm.report import write_report
    from jaxlm.run import saved_config

    print(write_report(saved_config(run_dir).parent))
