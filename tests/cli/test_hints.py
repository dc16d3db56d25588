"""Hints name keys of the config: every dotted key in the code's texts is one."""

from __future__ import annotations

import ast
import dataclasses
import re
import types
import typing
from pathlib import Path

import pytest

from jaxlm.core import registry
from jaxlm.core.config import Config, ConfigError, UserError, key_of
from jaxlm.core.other_names import OTHER_NAMES, OTHER_TYPES
from jaxlm.core.renames import RENAMES
from jaxlm.data.augment.base import Augment
from jaxlm.run import RunConfig, load_run

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "jaxlm"
SECTIONS = [key_of(spec) for spec in dataclasses.fields(RunConfig)]
DOTTED = re.compile(
    rf"(?<![\w./<{{-])(?:{'|'.join(SECTIONS)})(?:\.[a-z][a-z0-9_]*)+(?![\w/(])"
)  # a call is not a key
# what looks like a key and is another thing
FILES = ("json", "model", "bin", "yaml", "html", "txt", "py", "gz", "npz", "tsv", "safetensors")
OTHERS = ("model.preset", "model.embed_tokens", "model.layers", "model.norm", "model.encoder.")


def configs_of(hint: object) -> set[type[Config]]:
    """The config classes that a value of a type may hold, directly or as an element."""
    if isinstance(hint, type) and issubclass(hint, Config):
        if not registry.is_base(hint):
            return {hint}
        return {registry.find(hint, name) for name in registry.names(hint)}
    if typing.get_origin(hint) in (typing.Union, types.UnionType, tuple, dict):
        return set().union(*(configs_of(part) for part in typing.get_args(hint)))
    return set()


def exists(key: str) -> bool:
    """Whether a dotted key is one of the config tree, for some choice of types."""
    classes: set[type[Config]] = {RunConfig}
    for part in key.split("."):
        hints = [
            typing.get_type_hints(cls)[spec.name]
            for cls in classes
            for spec in dataclasses.fields(cls)
            if key_of(spec) == part
        ]
        polymorphic = part == "type"
        if not hints and not polymorphic:
            return False
        classes = set().union(*(configs_of(hint) for hint in hints)) if hints else set()
    return True


def texts(path: Path) -> list[str]:
    """The strings of a module's code, with those of f-strings, less its docstrings."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [c.value for c in constants if isinstance(c.value, str) and id(c) not in docs]


def keys_of(text: str) -> list[str]:
    found = DOTTED.findall(text)
    return [k for k in found if k.rsplit(".")[-1] not in FILES and not k.startswith(OTHERS)]


@pytest.mark.parametrize("key", ["model.max_seq_len", "train.step", "data.source.a", "seed.a"])
def test_a_key_that_is_not_there_is_found_out(key):
    assert keys_of(f"; raise {key}") == [key] and not exists(key)


def test_every_key_in_the_codes_texts_exists():
    found = {
        (key, str(path.relative_to(PACKAGE)))
        for path in PACKAGE.rglob("*.py")
        for text in texts(path)
        for key in keys_of(text)
    }
    assert len({key for key, _ in found}) > 40
    before = {key.partition("=")[0] for key in RENAMES}  # names of older versions
    assert {(key, path) for key, path in found if not exists(key) and key not in before} == set()


def test_the_keys_that_other_names_lead_to_exist():
    leading = {**OTHER_NAMES, **OTHER_TYPES}
    assert {name: key for name, key in leading.items() if "." in key and not exists(key)} == {}


@pytest.mark.parametrize("name", OTHER_TYPES)
def test_a_type_that_is_a_key_here_names_it(name):
    with pytest.raises(UserError) as error:
        registry.find(Augment, name)
    assert str(error.value) == f"unknown type {name!r}; jaxlm's key is {OTHER_TYPES[name]}"


def test_neftune_among_augmentations_names_its_key():
    config = ROOT / "configs" / "finetune" / "sentiment_en.yaml"
    with pytest.raises(ConfigError, match="jaxlm's key is train.embedding_noise$") as error:
        load_run(config, ["tokenizer.type=bytes", "data.augment=[{type: neftune}]"])
    assert "data.augment.0.type: unknown type 'neftune'" in str(error.value)
