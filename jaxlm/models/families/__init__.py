"""The families: each a file of presets, a map of its Hugging Face config, and a table of tensors.

    family = family_of("llama")
    config = family.from_hf(json.loads(Path("config.json").read_text()))
    config = preset("llama-3.1-8b")

A new family is one file here; define a `Family` (base.py) with `name="..."` in it. No list has
the files, and shared code knows no family's name.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import cache

from jaxlm.core.config import UserError, suggest
from jaxlm.core.errors import shown
from jaxlm.core.kinds import files
from jaxlm.core.types import ModelConfig
from jaxlm.models.families.base import Family

FOLDER = "jaxlm.models.families"


@cache
def family_of(name: str) -> Family:
    """The family called `name`; raises `UserError` with the nearest one. Only files that may hold
    it are imported.
    """
    said = f'name="{name}"'
    modules = [m for m, path in files(FOLDER).items() if said in path.read_text(encoding="utf-8")]
    found = _defined(modules)
    if name not in found:
        raise UserError(
            f"family {shown(name)}: not known; {suggest(name, _defined(files(FOLDER)))}"
        )
    return found[name]


@cache
def families() -> tuple[Family, ...]:
    """All families, in the order of their files' names."""
    return tuple(_defined(files(FOLDER)).values())


def _defined(modules: Iterable[str]) -> dict[str, Family]:
    """{name: family} of all that these files define."""
    found: dict[str, Family] = {}
    for module in modules:
        for value in vars(importlib.import_module(module)).values():
            if isinstance(value, Family):
                assert found.setdefault(value.name, value) is value, f"two families: {value.name}"
    return found


def family_of_architecture(architecture: str) -> Family:
    """The family of a class of Hugging Face transformers ("LlamaForCausalLM")."""
    for family in families():
        if architecture in family.classes:
            return family
        if architecture in family.refused:
            raise UserError(f"config.json: {architecture} {family.refused[architecture]}")
    known = sorted(name for family in families() for name in family.classes)
    raise UserError(
        f"config.json: architecture {shown(architecture)} is of no known family; "
        f"{suggest(architecture, known)}"
    )


def preset(name: str) -> ModelConfig:
    """The config of a published model ("gpt2", "llama-3.1-8b"); raises `UserError`."""
    found = {key: family for family in families() for key in family.presets}
    if name not in found:
        raise UserError(f"model.preset: there is no {shown(name)}; {suggest(name, found)}")
    return found[name].presets[name]
