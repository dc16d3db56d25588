"""The command `jaxlm plan`: plans or searches, prints, and writes the files of --out.

Without --search:  STEM.tsv, STEM.html
With --search:     STEM.yaml, the winner as a config for `jaxlm train`; the others have the table
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxlm.core.config import UserError, to_yaml, where
from jaxlm.core.files import write_atomic
from jaxlm.plan import page, text
from jaxlm.plan.devices import Topology
from jaxlm.plan.memory import ROOM
from jaxlm.plan.planning import Plan, plan_run, search_plans
from jaxlm.plan.shapes import config_file, seq_len_of, with_vocabulary
from jaxlm.run import load_run

NO_ROOM = 1  # exit code of a plan that does not fit, is tight, or is unknown


def run(
    path: str,
    overrides: Sequence[str],
    *,
    topology: str | None,
    slices: int,
    search: bool,
    compile_best: int | None,
    tokens: float | None,
    price: float | None,
    analytic: bool,
    quick: bool,
    out: str | None,
    save: str | None,
    as_json: bool,
    report: Callable[[str], None],
) -> int:
    """Returns 0 if the plan, or the winner of a search, fits or likely fits; otherwise 1."""
    if save and (search or analytic or quick):
        raise UserError(
            "--save: keeps the optimized step of one plan; leave out --search, --analytic, --quick"
        )
    if compile_best is not None and not search:
        raise UserError("--compile-best: needs a search; add --search")
    if quick and (search or analytic):
        raise UserError("--quick: is for one compiled plan; leave out --search and --analytic")
    file = config_file(Path(path))
    resolved = load_run(file, overrides)
    config = with_vocabulary(resolved.config, file)
    named, place = topology, "--topology"
    if named is None:
        named = config.mesh.topology
        place = f"{where('mesh.topology', resolved.marks)}mesh.topology"
    if named is None:
        raise UserError(
            "--topology: neither it nor mesh.topology names a pod; add one, such as "
            "--topology v5p:4x4x8"
        )
    pod = Topology.read(named, slices, place)
    if tokens is None and config.train.steps:
        tokens = float(config.train.steps * config.train.batch_size * seq_len_of(config))
    if save and config.train.steps is None:
        raise UserError("--save: the step knows its schedule's length; set train.steps, not epochs")
    options: dict[str, Any] = {
        "tokens": tokens,
        "price": price,
        "analytic": analytic,
        "report": report,
    }
    if search:
        count = compile_best or 3
        found, plans = search_plans(config, pod, compile_best=count, **options)
        table = text.search_table(found, plans)
        plan = plans[0]
        stem = out or f"{Path(path).stem}-{pod.chip.name}"
        _write_winner(plan, Path(f"{stem}.yaml"), config.run_dir, report)
    else:
        plan, table, stem = plan_run(config, pod, quick=quick, **options), "", out or ""
    if stem:
        _write_tables(plan, stem, table, report)
    if save:
        _save(plan, Path(save), report)
    if as_json:
        print(json.dumps(figures(plan), indent=1))
    else:
        if table:
            print_table(table)
            print()
        print(text.render(plan))
    return 0 if plan.memory.verdict in ROOM else NO_ROOM


def figures(plan: Plan) -> dict[str, Any]:
    """Every figure of a plan, by section."""
    found: dict[str, Any] = {}
    for section, name, value, unit in text.rows(plan):
        shown: Any = value
        if unit or section in ("work", "time", "speed", "factor"):
            try:
                shown = float(value)
            except ValueError:
                shown = value
        found.setdefault(section, {})[f"{name}, {unit}" if unit else name] = shown
    found["notes"] = list(plan.notes)
    found["advice"] = [
        {"overrides": list(p.overrides), "bytes": p.memory, "step_s": p.step} for p in plan.advice
    ]
    return found


def print_table(table: str) -> None:
    """A search's table with aligned columns; the setting, which is long, comes last."""
    cells = _cells(table)
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]) - 1)]
    for row in cells:
        lead = "  ".join(c.ljust(w) for c, w in zip(row[:-1], widths, strict=True))
        print(f"{lead}  {row[-1]}")


def _write_tables(plan: Plan, stem: str, table: str, report: Callable[[str], None]) -> None:
    _write(Path(f"{stem}.tsv"), table or text.tsv(plan))
    _write(Path(f"{stem}.html"), page.render(plan, _cells(table) if table else ()))
    report(f"wrote {stem}.tsv and {stem}.html")


def _write_winner(
    plan: Plan, path: Path, run_dir: str | None, report: Callable[[str], None]
) -> None:
    if plan.memory.verdict not in ROOM:
        report(f"no setting has room on {plan.topology}: {path} was not written")
        return
    config = plan.config.replace(run_dir=run_dir)
    head = f"# {text.setting_text(plan)}: the best that a search found for {plan.topology};\n"
    head += f"# {plan.memory.verdict}, {plan.source}\n"
    _write(path, head + to_yaml(config))
    report(f"wrote {path}: train it with `jaxlm train {path}`")


def _write(path: Path, content: str) -> None:
    try:
        write_atomic(path, content)
    except OSError as error:
        raise UserError(
            f"--out: {path}: {error.strerror}; name a place that can be written"
        ) from None


def _cells(table: str) -> list[Sequence[str]]:
    return [row for row in csv.reader(io.StringIO(table), delimiter="\t") if row]


def _save(plan: Plan, path: Path, report: Callable[[str], None]) -> None:
    from jaxlm.training.saved_step import save

    if plan.compiled is None:
        raise UserError(f"--save: there is no compiled step to keep ({plan.source})")
    c = plan.compiled
    save(c.executable, plan.config, c.learner, c.batch_spec, c.options, path)
    report(f"kept the compiled step in {path}: train with train.compiled={path}")
