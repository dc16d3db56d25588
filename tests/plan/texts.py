"""Compiled TPU programs that are kept as text, and the config they were compiled from.

Six layers of 1,024 with ffns of 4,096 and eight heads of 128 (four for keys), rows of 2,048
tokens, sixteen a step, bfloat16, for sixteen v5e chips: by
`jaxlm.training.learner.Learner.compile` with jax 0.10.2 and libtpu 0.0.42, without the bodies of
kernels and what backends keep for themselves. The names of parts were written into the
instructions' names afterwards, from the stack frames that the texts had then.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Any

from jaxlm.core import config as configs
from jaxlm.plan.closed_form.facts import Facts, facts_of
from jaxlm.plan.hlo.count import Counts, count
from jaxlm.plan.hlo.text import Module, parse
from jaxlm.run import RunConfig

FOLDER = Path(__file__).parents[1] / "fixtures" / "plan"
# name -> (mesh, how layers are kept, XLA's own figures of memory in bytes: arguments, temporaries)
TEXTS: dict[str, tuple[dict[str, int], dict[str, Any], tuple[int, int]]] = {
    "v5e_fsdp8_tensor2": ({"fsdp": 8, "tensor": 2}, {"remat": "full"}, (96238592, 248821248)),
    "v5e_fsdp16_offload": (
        {"fsdp": 16, "tensor": 1},
        {"remat": "named", "saved": ["key", "value"], "offloaded": ["query", "attention"]},
        (96197120, 541190144),
    ),
}
# The same as a pipeline of two stages, two micro-batches.
PIPELINES: dict[str, tuple[dict[str, int], dict[str, Any], tuple[int, int]]] = {
    "v5e_stage2_fsdp8": (
        {"stage": 2, "fsdp": 8, "tensor": 1},
        {"remat": "full"},
        (121306112, 580108800),
    ),
}
ALL = TEXTS | PIPELINES


@cache
def text_of(name: str) -> str:
    with gzip.open(FOLDER / f"{name}.hlo.gz", "rt") as file:
        return file.read()


@cache
def module_of(name: str) -> Module:
    return parse(text_of(name))


@cache
def counts_of(name: str) -> Counts:
    return count(text_of(name), mesh=ALL[name][0])


def config_of(name: str) -> RunConfig:
    """The config that a text was compiled from."""
    mesh, how, _ = ALL[name]
    micro = mesh.get("stage", 1)
    values: dict[str, Any] = {
        "tokenizer": None,
        "data": {"type": "text", "source": {"type": "text", "files": "-"}, "seq_len": 2048},
        "objective": {"type": "causal_lm"},
        "optimizer": {"type": "adamw"},
        "mesh": {"data": 1, **mesh},
        "train": {"steps": 10, "batch_size": 16, "accumulation": micro},
        "model": {
            "type": "transformer",
            "vocab_size": 32768,
            "hidden_size": 1024,
            "num_layers": 6,
            "attention": {
                "type": "multi_head",
                "num_heads": 8,
                "num_kv_heads": 4,
                "head_dim": 128,
            },
            "ffn": {"type": "dense", "intermediate_size": 4096},
            **how,
        },
    }
    return configs.parse(RunConfig, values)


@cache
def facts_for(name: str) -> Facts:
    return facts_of(config_of(name))
