"""Plans the configs of configs/pretrain for their pods and writes the figures into their comments.

    python tools/plan_configs.py                       # all, each step compiled whole: hours
    python tools/plan_configs.py llama3.1_8b --quick   # compiled without optimizations: a minute
    python tools/plan_configs.py moe_1t --analytic     # not compiled: seconds

Needs libtpu and no TPU. The comment says when a config was planned, how, and what came of it; what
a quick plan says of time is the analytic model's.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import sys
import textwrap
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxlm.plan.devices import Topology
from jaxlm.plan.planning import Plan, plan_run
from jaxlm.plan.shapes import seq_len_of
from jaxlm.run import load_run

CONFIGS = Path(__file__).parents[1] / "configs" / "pretrain"
PLANNED = re.compile(r"# Planned .*?(?=^[^#]|^#$|^#  )", re.M | re.S)


def planned(path: Path, **how: bool) -> Plan:
    config = load_run(path).config
    assert config.mesh.topology is not None and config.train.steps is not None
    tokens = config.train.steps * config.train.batch_size * seq_len_of(config)
    topology = Topology.read(config.mesh.topology)
    return plan_run(config, topology, tokens=float(tokens), report=print, **how)


def summary(plan: Plan, *, quick: bool) -> str:
    """The comment with a plan's figures."""
    memory, speed = plan.memory, plan.speed
    source = "compiled without optimizations" if quick else plan.source
    text = (
        f"Planned {datetime.date.today()} for {plan.topology}, {source}: {memory.verdict}, "
        f"{memory.total / 2**30:.1f} of {memory.limit / 2**30:.1f} GiB a device; a step of "
        f"{speed.step:.2f} s, {speed.tokens_per_second_per_chip:,.0f} tokens/s a chip, MFU "
        f"{speed.mfu_causal:.1%} (with full attention {speed.mfu_full:.1%})"
    )
    if plan.tokens and speed.days is not None:
        days = speed.days
        spent = f"{days:,.0f} days" if days >= 5 else f"{24 * days:,.0f} hours"
        text += f"; {plan.tokens / 1e9:,.0f}B tokens in {spent}"
    if speed.cost is not None:
        cost = f"{speed.cost / 1e6:,.2f}M" if speed.cost >= 1e4 else f"{speed.cost:,.0f}"
        text += f" for {cost} USD at list price"
    return "".join(f"# {line}\n" for line in textwrap.wrap(text + ".", 98))


def write(path: Path, comment: str) -> None:
    """Writes the comment after the config's first comment line; it replaces an older one."""
    text = PLANNED.sub("", path.read_text())
    head = re.match(r"(?:#.*\n)+", text)
    assert head is not None, f"{path} begins with what it is"
    path.write_text(text[: head.end()] + comment + text[head.end() :])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true")
    how.add_argument("--analytic", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.names or sorted(path.stem for path in CONFIGS.glob("*.yaml")):
        path = CONFIGS / f"{name}.yaml"
        plan = planned(path, quick=arguments.quick, analytic=arguments.analytic)
        comment = summary(plan, quick=arguments.quick)
        write(path, comment)
        print(f"{name}\n{comment}", end="", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
