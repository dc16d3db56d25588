"""The analytic model of `jaxlm plan` against published training runs.

    python tools/validate_plan.py [--tsv FILE]

Each row of published_runs.tsv becomes a config of ours with the same shapes, mesh, batch and remat,
and is predicted from the config alone. The constants of `jaxlm.plan.devices` are the same for every
row. Prints published and predicted tokens/s a chip, and the error.

The share of its peak that a chip's products attain was set with these runs in view, one figure for
a generation, not for a run: for v4 and tpu7x, of which there are one and two, the error tests
little but the rest of the model. Where it is wrong, and what is the likely cause:

    deepseek3 on v5p      +29%  256 small experts: the sort of tokens, uneven groups and the latent
                                attention's many narrow products cost more than one factor says
    gemma3 on 4 slices    +17%  the run lost 13% from one slice to four, far more than the bytes of
                                its gradients over the slow network explain
    mixtral on v5p        -17%  the same factor for experts is too low for 8 wide ones; which
                                settings the published figure belongs to is presumed
    gpt3 on v6e           +15%  heads of 128 with as many for keys, and a fused map of queries, keys
                                and values that ours splits; rows of 2,048 leave small blocks
    llama2-70b on v6e      +9%  blocks of 1,024 in attention are slower than those of 2,048

One run that ran is said to have no room, tpu7x 70b: MaxText tiles the head's loss over the
vocabulary, and keeps the attention's output once where our kernel has it twice. Mixtral on v6e
drops tokens, with a capacity of 1.25, which is counted as if none were dropped. What is offloaded
is that of our names for the same tensors.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from jaxlm import config as configs
from jaxlm.plan.analytic import Work, analyse
from jaxlm.plan.devices import Topology
from jaxlm.plan.facts import Facts, facts_of
from jaxlm.plan.roofline import Roofline, roofline
from jaxlm.plan.setting import setting_of
from jaxlm.plan.shapes import planned
from jaxlm.run import RunConfig

TABLE = Path(__file__).parent / "published_runs.tsv"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--tsv", metavar="FILE", help="also write the table here")
    options = arguments.parse_args()
    found = [predict(row) for row in read_rows()]
    lines = ["\t".join(found[0])] + ["\t".join(map(str, row.values())) for row in found]
    if options.tsv:
        Path(options.tsv).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for row in found:
        print(
            f"{row['run']:30} published {row['published']:>9}  predicted {row['predicted']:>9}"
            f"  error {row['error_percent']:>6}%  {row['bound']:12} {row['verdict']}"
        )
    errors = [abs(float(row["error_percent"])) for row in found]
    print(f"{len(errors)} rows: mean error {fmean(errors):.1f}%, worst {max(errors):.1f}%")


def read_rows() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def predict(row: dict[str, str]) -> dict[str, Any]:
    """Published and predicted figures of one run."""
    topology, facts, work, line = model(row)
    rate = work.tokens_per_step / line.step / topology.num_chips
    published = float(row["tokens_per_s_per_chip"])
    if row["measured_as"].startswith("TFLOP/s"):
        published *= 1e12 / (3 * facts.forward_flops[0])
    return {
        "run": row["id"],
        "published": f"{published:.1f}",
        "predicted": f"{rate:.1f}",
        "error_percent": f"{100 * (rate / published - 1):+.1f}",
        "bound": line.bound,
        "verdict": work.memory.verdict,
        "memory_GiB": f"{work.memory.total / 2**30:.1f}",
        "step": f"{line.step:.2f}",
        "compute": f"{line.compute:.2f}",
        "hbm": f"{line.hbm:.2f}",
        "ici": f"{sum(line.ici.values()):.2f}",
        "dcn": f"{sum(line.dcn.values()):.2f}",
        "host": f"{line.host:.2f}",
    }


def model(row: dict[str, str]) -> tuple[Topology, Facts, Work, Roofline]:
    """The analytic model of one published run."""
    topology = Topology.read(row["topology"], int(row["slices"]))
    config = planned(config_of(row))
    facts = facts_of(config)
    mesh = config.mesh.shape(topology.num_devices)
    setting = replace(
        setting_of(facts, mesh, topology),
        offload_input=row["offloads_input"] == "1",
        block=int(row["attention_block"]),
    )
    work = analyse(facts, setting, topology)
    return topology, facts, work, roofline(work.load, topology)


def config_of(row: dict[str, str]) -> RunConfig:
    """A config of ours with the shapes of a published run."""
    how = {
        "remat": row["remat"],
        "saved": row["saved"].split(),
        "offloaded": row["offloaded"].split(),
    }
    mesh = {name: int(size) for name, _, size in (m.partition("=") for m in row["mesh"].split())}
    values: dict[str, Any] = {
        "run_dir": None,
        "tokenizer": None,
        "data": {"type": "text", "source": {"type": "text", "files": "-"}},
        "objective": {"type": "causal_lm"},
        "optimizer": {"type": "adamw"},
        "mesh": {"data": 1, **mesh},
        "train": {"steps": 1, "batch_size": int(row["global_batch"])},
        "model": {"type": "transformer"},
    }
    values["data"]["seq_len"] = int(row["seq_len"])
    if row["preset"]:
        from jaxlm.models.families import preset

        values["model"] = configs.to_dict(preset(row["preset"]))
    else:
        values["model"] |= {
            "vocab_size": int(row["vocab"]),
            "hidden_size": int(row["hidden"]),
            "num_layers": int(row["layers"]),
            "attention": {
                "type": "multi_head",
                "num_heads": int(row["heads"]),
                "head_dim": int(row["head_dim"]),
            },
            "ffn": {
                "type": "dense",
                "intermediate_size": int(row["ffn"]),
                "activation": row["activation"],
            },
        }
    values["model"] |= how
    return configs.parse(RunConfig, values)


if __name__ == "__main__":
    sys.exit(main())
