"""The verbs that prepare a run and look at what it stands on: data, tokenizer, config, doctor."""

from __future__ import annotations

import argparse
from typing import Any

from jaxlm.arguments.options import add_config, add_json, add_verb
from jaxlm.arguments.values import path, whole, workers


def data(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "prepare the data of a config, or look at its rows",
        "`prepare` fetches and tokenises what a config trains on, and prints the manifest.\n"
        "`inspect` prints real rows, decoded, with their documents and the share of padding.",
        ("data prepare configs/quickstart.yaml", "before a long run, or where there is a network"),
        ("data inspect configs/quickstart.yaml --split validation --rows 2", ""),
    )
    verb.add_argument("action", choices=("prepare", "inspect"))
    add_config(verb)
    verb.add_argument("--split", help="inspect: train or validation (default: all)")
    verb.add_argument(
        "--rows", type=whole, default=3, metavar="N", help="inspect: how many (default 3)"
    )
    verb.add_argument(
        "--workers", type=workers, metavar="N", help="processes that tokenise (default: this one)"
    )
    return verb


def tokenizer(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "train the tokenizer of a config and save it",
        "Trains the tokenizer of a config on the training texts of its data, and saves it to a\n"
        "folder. Use it by tokenizer.type=saved tokenizer.path=DIR.",
        ("tokenizer train configs/quickstart.yaml --out my_tokenizer", ""),
        ("tokenizer train configs/quickstart.yaml --out big tokenizer.vocab_size=8192", ""),
    )
    verb.add_argument("action", choices=("train",))
    add_config(verb)
    verb.add_argument("--out", type=path, required=True, metavar="DIR", help="a new folder")
    return verb


def config(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "show a config in full, with meanings and origins",
        "Every setting of a config: its value, where that came from, and what it means.",
        ("config show configs/quickstart.yaml train.steps=50", ""),
        ("config show configs/quickstart.yaml --yaml > mine.yaml", "a file that can be run"),
    )
    verb.add_argument("action", choices=("show",))
    add_config(verb)
    verb.add_argument("--yaml", action="store_true", help="plain YAML that can be run again")
    return verb


def doctor(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "versions, devices, memory and a self-test",
        "Looks at this machine: versions, devices, memory, disk, and a two-second self-test.",
        ("doctor", ""),
    )
    add_json(verb)
    return verb
