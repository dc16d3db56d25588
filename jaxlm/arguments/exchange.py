"""The verbs of models from elsewhere and for elsewhere: import, export, presets."""

from __future__ import annotations

import argparse
from typing import Any

from jaxlm.arguments.options import (
    add_json,
    add_overrides,
    add_processes,
    add_run,
    add_step,
    add_verb,
)
from jaxlm.arguments.values import path, size


def import_(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "make a run of a model in Hugging Face's format",
        "Reads config.json, safetensors and the tokenizer of a folder, and makes a run directory\n"
        "that can be used, fine-tuned from and exported. Pickles (.bin, .pt) are never loaded.",
        ("import hf downloads/gpt2 --out runs/gpt2", ""),
        ("import hf downloads/llama --out runs/llama mesh.fsdp=4", "over four devices"),
    )
    verb.add_argument("format", choices=("hf",))
    verb.add_argument("folder", type=path, metavar="DIR", help="the folder with config.json")
    verb.add_argument("--out", type=path, required=True, metavar="RUN_DIR", help="a new folder")
    verb.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        help="dtype of activations and matmuls, short for model.dtype, whatever the files have; "
        "default auto: bfloat16 on accelerators, float32 on a CPU; parameters are float32",
    )
    add_overrides(verb)
    add_processes(verb)
    return verb


def export(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "write a run in Hugging Face's format",
        "Writes config.json, safetensors and the tokenizer, for transformers and others to load.\n"
        "Averaged weights are taken where the run keeps them.",
        ("export hf runs/quickstart --out out/quickstart --family llama", ""),
        ("export hf runs/gpt2 --out out/gpt2 --dtype bfloat16 --max-shard-size 500MB", ""),
    )
    verb.add_argument("format", choices=("hf",))
    add_run(verb)
    verb.add_argument("--out", type=path, required=True, metavar="DIR", help="a new folder")
    add_step(verb)
    verb.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "float64"),
        help="of the tensors (default: that of the import, else float32)",
    )
    verb.add_argument("--family", metavar="NAME", help="whose format (default: model.family)")
    verb.add_argument(
        "--max-shard-size",
        type=size,
        default=5 * 10**9,
        metavar="SIZE",
        help="of a file, such as 500MB (default 5GB)",
    )
    return verb


def presets(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "list the published models that model.preset names",
        "Every preset with its family, parameters and sizes. Use one by `model: {preset: NAME}`\n"
        "in a config, or model.preset=NAME; other fields of model lie over its values.",
        ("presets", ""),
    )
    add_json(verb)
    return verb
