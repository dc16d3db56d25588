"""Kills runs repeatedly at random instants, and checks that nothing is lost.

    python tools/chaos.py --all --kills 300
    python tools/chaos.py configs/smoke/transformer.yaml --kills 100 train.steps=200
    python tools/chaos.py --scenario preparation --kills 20
    python tools/chaos.py --second-stage --kills 45

Each scenario is run once undisturbed. Then it is run again and gets SIGKILL at instants spread over
the run: while it starts and compiles, inside steps, inside saves, right after a commit, in a
rollback, in the last evaluation, between result.json and report.html. Each time it is resumed,
until it has ended. The parameters' SHA-256, that of the last checkpoint's bytes, every logged
figure, the result and the ledger of sample ids must be those of the undisturbed run; no file may be
left over.

`--all` does this to every config of configs/smoke, to runs with frozen parameters, to a run of two
processes (one of them is killed, or both), to runs that roll back, to a run whose data worker is
killed, to the preparation of its data, to a run that is killed between its changes of files, one
after the other, and to the second stage: tasks on records, adapters, preferences, distillation,
rollouts, counts. Two scenarios run at the same time. The exit code is 1 where anything is not
equal.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from killing import Verdict
from killing_kinds import KINDS
from killing_scenarios import (
    ENDING,
    PREPARING,
    WORKING,
    Scenario,
    scenarios,
    second_stage,
    write_data,
)
from warm import ROOT, WarmLauncher

PHASES = (*WORKING, "rollback", *ENDING, "worker", *PREPARING, "complete", "write", "end")


def shares(kills: int, chosen: list[Scenario]) -> dict[str, int]:
    """The kills of each scenario: starts with workers are slow, preparations are quick."""
    weight = {"run": 2.0, "worker": 1.0, "preparation": 3.5, "writes": 4.0}
    whole = sum(weight[s.kind] for s in chosen)
    counts = {s.name: max(1, int(kills * weight[s.kind] / whole)) for s in chosen}
    for scenario in chosen[: max(0, kills - sum(counts.values()))]:
        counts[scenario.name] += 1
    return counts


def run_all(
    chosen: list[Scenario],
    options: argparse.Namespace,
    folder: Path,
    warm: WarmLauncher | None = None,
) -> list[Verdict]:
    """Every scenario's verdict, `options.jobs` of them at a time; `warm` starts their processes."""
    # Small programs are cached as well: starts are quicker, and kills hit the cache's writes.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "xla"))
    os.environ.setdefault("JAXLM_CACHE", str(folder / "cache"))
    write_data(folder)
    counts, lock = shares(options.kills, chosen), threading.Lock()
    launcher = None if options.fresh_every == 1 else warm or WarmLauncher()

    def report(line: str) -> None:
        with lock:
            print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    def one(scenario: Scenario) -> Verdict:
        killing = KINDS[scenario.kind](
            scenario,
            folder / scenario.name,
            launcher,
            seed=options.seed,
            fresh_every=options.fresh_every,
            report=report,
        )
        try:
            verdict = killing.run(counts[scenario.name])
        except Exception:
            verdict = killing.verdict
            verdict.problems.append(traceback.format_exc())
        ended = f"{verdict.equal} of {verdict.runs} runs with {len(verdict.kills)} kills are equal"
        report("\n".join([f"{scenario.name}: {ended}", *verdict.problems]))
        return verdict

    sources = newest_source()
    with ThreadPoolExecutor(options.jobs) as pool:
        verdicts = list(pool.map(one, chosen))
    if launcher is not None and launcher is not warm:
        launcher.__exit__()
    for verdict in verdicts:
        if verdict.problems and newest_source() != sources:
            verdict.problems.insert(0, "jaxlm's own code was changed meanwhile: start again")
    return verdicts


def newest_source() -> float:
    """The time of the last change to the code: processes of two versions need not agree to the last
    bit."""
    return max(path.stat().st_mtime for path in (ROOT / "jaxlm").rglob("*.py"))


def table(verdicts: list[Verdict], seconds: float) -> str:
    """A row for each scenario: kills, by the phase they found, runs, equal ones."""
    found = Counter(kill.phase for verdict in verdicts for kill in verdict.kills)
    columns = [phase for phase in PHASES if found[phase]]
    head = ["scenario", "kills", *columns, "runs", "equal", "seconds"]
    rows = [
        [
            v.scenario,
            len(v.kills),
            *(v.phases.get(phase, "") for phase in columns),
            v.runs,
            v.equal,
            f"{v.seconds:.0f}",
        ]
        for v in verdicts
    ]
    totals = [sum(len(v.kills) for v in verdicts), *(found[phase] for phase in columns)]
    totals += [sum(v.runs for v in verdicts), sum(v.equal for v in verdicts)]
    lines = [head, *rows, ["all", *totals, f"{seconds:.0f}"]]
    text = [[str(cell) for cell in line] for line in lines]
    widths = [max(len(line[i]) for line in text) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in text
    )


def main(words: Sequence[str] | None = None, warm: WarmLauncher | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("config", nargs="?")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    parser.add_argument("--all", action="store_true", help="every scenario")
    parser.add_argument("--second-stage", action="store_true", help="those of fine-tuning")
    parser.add_argument("--scenario", action="append", default=[], help="one of them; repeat it")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2, help="scenarios side by side")
    parser.add_argument("--seed", type=int, default=0, help="seed of the instants")
    parser.add_argument(
        "--fresh-every",
        type=int,
        default=12,
        help="every n-th process is a fresh interpreter, the others forks of a warm one; 0: none",
    )
    parser.add_argument(
        "--folder", type=Path, help="where the runs are kept; default: a temporary one"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args(words)
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="jaxlm-chaos-"))).resolve()
    known = scenarios(folder)
    if unknown := set(options.scenario) - known.keys():
        parser.error(f"no scenario {', '.join(unknown)}; known: {', '.join(known)}")
    names = list(known) if options.all else options.scenario
    if options.second_stage:
        names = [scenario.name for scenario in second_stage(folder)]
    if bool(names) == bool(options.config):
        parser.error("give a config, --scenario, --second-stage or --all")
    chosen = [known[name] for name in names]
    if options.config:
        one = Scenario(name="run", config=options.config, settings=tuple(options.overrides))
        chosen = [one]
    folder.mkdir(parents=True, exist_ok=True)
    began = os.times().elapsed
    verdicts = run_all(chosen, options, folder, warm)
    problems = [f"{v.scenario}: {line}" for v in verdicts for line in v.problems]
    if options.json:
        print(json.dumps([{**asdict(v), "phases": v.phases} for v in verdicts], indent=1))
    else:
        print(table(verdicts, os.times().elapsed - began))
        print("\n".join(problems) or "nothing lost: every run is the one that was never killed")
    if options.folder is None and not problems:
        shutil.rmtree(folder)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
