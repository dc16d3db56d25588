"""The cases of tests/models/golden_families.py as programs that generate."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp

from jaxlm.core.tree import flatten, unflatten
from jaxlm.generate import Generator, Sampling
from jaxlm.mesh import MeshConfig
from jaxlm.models.families import families, family_of_architecture
from jaxlm.models.families.shared.table import locate, read_params
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.training.program import Program, make_program
from tests.models.golden_families import CASES, Case, load_case

ONE = MeshConfig(data=1, num_devices=1)


@functools.cache
def case_of(name: str) -> Case:
    return load_case(name)


def cases_with(key: str) -> list[str]:
    """Cases of known families that have such an array."""
    known = {name for family in families() for name in family.architectures}
    cases = [case_of(name) for name in CASES]
    return [c.name for c in cases if key in c.arrays and c.config["architectures"][0] in known]


@functools.cache
def program_of(name: str) -> tuple[Program, Any]:
    """A case as a program on one device, and its parameters, in float32."""
    case = case_of(name)
    family = family_of_architecture(case.config["architectures"][0])
    config = family.completed(family.from_hf(case.config), case.tensors).replace(dtype="float32")
    if config.is_encoder_decoder:
        config = config.replace(encoder=config.encoder.replace(dtype="float32"))
    program = make_program(mesh=ONE.build(), model=config, objective=CausalLM())
    shapes = {path: leaf.shape for path, leaf in flatten(program.abstract_params).items()}
    arrays = read_params(locate(family.tensors(config), shapes), shapes, case.weights().__getitem__)
    return program, unflatten({path: jnp.asarray(array) for path, array in arrays.items()})


def prompts_of(case: Case) -> list[list[int]]:
    """The two texts that were continued, or answered."""
    a = case.arrays
    if "encoder_tokens" in a:
        rows, lengths = a["encoder_tokens"][:2], a["encoder_mask"][:2].sum(1)
    else:
        rows, lengths = a["prompts"], a["prompt_lengths"]
    return [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]


def generator_of(name: str, **sampling: Any) -> Generator:
    return Generator(program_of(name)[0], Sampling(**sampling), eos_id=None, pad_id=0)
