"""What verbs share: how one is added, its examples, the options that several have."""

from __future__ import annotations

import argparse
from typing import Any

from jaxlm.arguments.values import count, path, whole
from jaxlm.exit_codes import TABLE


def add_verb(
    verbs: Any, name: str, summary: str, text: str, *examples: tuple[str, str], codes: bool = False
) -> argparse.ArgumentParser:
    """The parser of a verb: a line in the list of all, a text and examples in its own help.

    `codes`: the help also has the table of exit codes.
    """
    epilog = examples_of(*examples) + (f"\n\n{TABLE}" if codes else "")
    return verbs.add_parser(name, help=summary, description=text, epilog=epilog)


def examples_of(*examples: tuple[str, str]) -> str:
    """Commands and why one would give them, as the end of a help."""
    lines = [f"  jaxlm {command}" + (f"    # {why}" if why else "") for command, why in examples]
    return "\n".join(["examples:", *lines])


def add_config(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("config", type=path, metavar="CONFIG", help="a YAML file")
    add_overrides(verb)


def add_run(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "run_dir", type=path, metavar="RUN_DIR", help="the folder that a run is kept in"
    )


def add_overrides(verb: argparse.ArgumentParser) -> None:
    text = "dotted settings over the file's, such as optimizer.learning_rate=1e-3"
    verb.add_argument("overrides", nargs="*", metavar="key.sub=value", help=text)


def add_accept_data(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="use data that has changed since the run was trained on it; the run's log says so",
    )


def add_processes(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("several processes (found by itself on TPU pods and Slurm)")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--num-processes", type=whole, metavar="N", help="how many there are")
    group.add_argument("--process-id", type=count, metavar="I", help="which this is, from 0")


def add_step(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--step", type=count, metavar="N", help="checkpoint to use (default: newest)")


def add_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print JSON, for a program")
