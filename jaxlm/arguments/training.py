"""The verbs that train a run of a config, or tell of one: train, finetune, resume, launch, plan."""

from __future__ import annotations

import argparse
from typing import Any

from jaxlm.arguments.options import (
    add_accept_data,
    add_config,
    add_json,
    add_overrides,
    add_processes,
    add_run,
    add_verb,
)
from jaxlm.arguments.values import path, ratio, tokens, whole


def train(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "train the run of a config; goes on where it was stopped",
        "Trains the run of a config, from the start or from its newest checkpoint. A folder that\n"
        "holds another config's run is never written to.",
        ("train configs/quickstart.yaml", "keeps the run in runs/quickstart"),
        ("train configs/quickstart.yaml run_dir=/data/a optimizer.learning_rate=3e-4", ""),
        ("train configs/quickstart.yaml mesh.fsdp=4 mesh.tensor=2", "on eight devices"),
        codes=True,
    )
    add_config(verb)
    add_accept_data(verb)
    add_processes(verb)
    return verb


def finetune(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "start a second stage from the weights of a run (init.from=RUN_DIR)",
        "Starts a run with the weights, model and tokenizer of another run; data, objective and\n"
        "optimizer are the config's.",
        ("finetune configs/finetune/sentiment_en.yaml init.from=runs/quickstart", ""),
        codes=True,
    )
    add_config(verb)
    add_accept_data(verb)
    add_processes(verb)
    return verb


def resume(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "go on with a run, on any mesh",
        "Goes on from a run's newest good checkpoint, with the config that the run keeps. The\n"
        "mesh may be another than before.",
        ("resume runs/quickstart", ""),
        ("resume runs/quickstart mesh.fsdp=2", "on another mesh"),
        codes=True,
    )
    add_run(verb)
    add_overrides(verb)
    add_accept_data(verb)
    add_processes(verb)
    return verb


def launch(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "start a run on a TPU pod, GKE, Slurm, SkyPilot, GPUs or in local processes",
        "Starts the machines that a launch file names, trains the config on all of them, shows\n"
        "the log, starts again from the last checkpoint what was preempted or failed, and removes\n"
        "the machines when the run has ended. With --action it does one part of that alone.",
        ("launch launch/tpu_vm.yaml configs/quickstart.yaml --dry-run", "prints every command"),
        ("launch launch/slurm.yaml configs/quickstart.yaml train.steps=500", "other settings"),
        ("launch launch/gke.yaml configs/quickstart.yaml --action logs", "follows a run"),
        ("launch local configs/quickstart.yaml --set processes=4 --set devices=2", "here"),
        codes=True,
    )
    verb.add_argument(
        "target", type=path, metavar="TARGET", help="a launch file, or local or gpu_host"
    )
    add_config(verb)
    verb.add_argument(
        "--action",
        choices=("create", "queue", "run", "logs", "status", "delete"),
        help="one part alone: make the machines, ask for them without waiting, train, follow the "
        "log, say how it stands, remove them",
    )
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="a setting over the launch file's, such as zone=us-east5-b; may be given again",
    )
    verb.add_argument("--dry-run", action="store_true", help="print what would be run, run nothing")
    return verb


def plan(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "tell of a run on chips that are not here: room, time, cost, what to change",
        "Compiles the train step of a config for a TPU topology (needs libtpu, no TPU) and tells\n"
        "whether it fits, what holds the memory, how long a step takes and what bounds it. For\n"
        "GPUs, and with --analytic, a model in closed form answers, and says so. No data is read.",
        ("plan CONFIG --topology v5p:4x4x8", "one slice"),
        ("plan CONFIG --topology v6e:16x16 --slices 2 --tokens 1T", "with days and cost"),
        ("plan CONFIG --topology v5e:16x16 --search --out best", "best.yaml, .tsv and .html"),
        ("plan CONFIG --topology h100:16x8", "16 nodes of 8 GPUs"),
    )
    add_config(verb)
    verb.add_argument(
        "--topology",
        metavar="CHIP:SHAPE",
        help="such as v5p:4x4x8 or h100:16x8 (default: the config's mesh.topology)",
    )
    verb.add_argument(
        "--slices", type=whole, default=1, metavar="N", help="of that shape each (default 1)"
    )
    verb.add_argument("--search", action="store_true", help="look for a better setting")
    verb.add_argument(
        "--compile-best", type=whole, metavar="N", help="of a search, how many to compile (3)"
    )
    verb.add_argument(
        "--tokens",
        type=tokens,
        metavar="N",
        help="budget for days and cost, such as 300B (default: those of train.steps)",
    )
    verb.add_argument("--price", type=ratio, metavar="USD", help="of a chip-hour (default: list)")
    verb.add_argument("--analytic", action="store_true", help="compile nothing")
    verb.add_argument(
        "--quick", action="store_true", help="compile sooner, without optimizations: a guide"
    )
    verb.add_argument("--out", type=path, metavar="STEM", help="write STEM.tsv and STEM.html")
    verb.add_argument(
        "--save", type=path, metavar="FILE", help="keep the compiled step for train.compiled"
    )
    add_json(verb)
    return verb
