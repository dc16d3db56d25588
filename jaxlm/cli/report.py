"""`jaxlm report RUN_DIR`: writes a run's report, or the page of a benchmark's file."""

from __future__ import annotations

from pathlib import Path

from jaxlm.cli.shared import options
from jaxlm.cli.shared.verb import USING, verb


@verb(
    "write report.html of a run",
    section=USING,
    examples=(
        ("report runs/quickstart", ""),
        ("report steps.json", "the page of a benchmark's result"),
    ),
    works=True,
)
@options.run_dir
def command(run_dir: str) -> None:
    """Writes report.html of a run, one file that opens offline, and prints its path.

    A file of JSON that a benchmark of tools/bench wrote becomes a page beside it.
    """
    from jaxlm.report import write_report
    from jaxlm.report.benchmark import write_benchmark
    from jaxlm.run import saved_config

    if run_dir.endswith(".json"):
        print(write_benchmark(Path(run_dir)))
    else:
        print(write_report(saved_config(run_dir).parent))
