"""Shared code knows no part by its name: a family, an objective, a task, an adapter or a head says
itself what is done with it.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import jaxlm
from jaxlm.adapters.base import Adapter
from jaxlm.core import registry
from jaxlm.models.families import families
from jaxlm.nn.heads.base import TaskHeadConfig
from jaxlm.objectives.base import Objective
from jaxlm.tasks.base import Task

ROOT = Path(jaxlm.__file__).parent
FAMILIES = {name for family in families() for name in (family.name, *family.classes)}
KINDS = (Objective, Task, Adapter, TaskHeadConfig)
FOLDERS = {registry.kind_of(kind).folder for kind in KINDS}
# "none" is a value of other settings as well; what is compared by `type_name` is found without it.
NAMES = {name for kind in KINDS for name in registry.names(kind)} - {"none"}
CLASSES = {registry.find(kind, name).__name__ for kind in KINDS for name in registry.names(kind)}
RENAMES = "core/renames.py"  # old keys of old files


def families_in(path: Path) -> set[str]:
    """The families' names that are values in a file."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return FAMILIES & {node.value for node in nodes if isinstance(node, ast.Constant)}


def comparisons_in(text: str) -> list[str]:
    """The expressions of a file that ask for the name or the class of a part."""
    return [
        ast.unparse(n) for n in ast.walk(ast.parse(text)) if isinstance(n, ast.expr) and asks(n)
    ]


def asks(node: ast.expr) -> bool:
    """Whether an expression compares with a part's name or class, or looks something up by one."""
    if isinstance(node, ast.Compare):
        operands = [getattr(n, "value", None) for n in (node.left, *node.comparators)]
        literal = any(isinstance(value, str) for value in operands)
        return bool(texts_in(node) & NAMES) or (literal and "type_name" in called_in(node))
    if isinstance(node, ast.Call):
        tests = called_in(node.func) & {"isinstance", "issubclass"}
        return bool(tests and called_in(node) & CLASSES)
    if isinstance(node, ast.Dict):
        return any(texts_in(key) & NAMES for key in node.keys if isinstance(key, ast.Constant))
    return False


def texts_in(node: ast.AST) -> set[str]:
    values = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return {value for value in values if isinstance(value, str)}


def called_in(node: ast.AST) -> set[str]:
    """The names of variables and attributes."""
    names = (getattr(n, "id", getattr(n, "attr", None)) for n in ast.walk(node))
    return {name for name in names if name}


def test_no_shared_file_has_a_familys_name_as_a_value():
    shared = [path for path in ROOT.rglob("*.py") if "families" not in path.parts]
    found = {str(path.relative_to(ROOT)): families_in(path) for path in shared}
    assert not {path: names for path, names in found.items() if names}
    assert len(found) > 100


def test_a_familys_name_would_be_seen():
    assert families_in(ROOT / "models/families/llama.py") >= {"llama", "LlamaForCausalLM"}


def test_no_shared_file_compares_with_the_name_or_the_class_of_a_part():
    own = {ROOT.parent.joinpath(*folder.split(".")) for folder in FOLDERS}
    own.add(ROOT / "evals" / "baselines")  # each file says which tasks it suits
    own.add(ROOT / "vectors")  # names of file formats, after the programs that write them
    shared = [path for path in ROOT.rglob("*.py") if path.parent not in own]
    found = {str(path.relative_to(ROOT)): comparisons_in(path.read_text()) for path in shared}
    del found[RENAMES]
    assert not {path: expressions for path, expressions in found.items() if expressions}
    assert len(found) > 100


@pytest.mark.parametrize(
    "text",
    [
        "objective.type == 'causal_lm'",
        "kind in ('tagging', 'text')",
        "type_name(type(objective)) == 'none'",
        "isinstance(adapter, LoRA)",
        "isinstance(head, heads.Span | heads.Scalar)",
        "{'classification': ('text_b',)}",
    ],
)
def test_a_comparison_would_be_seen(text):
    assert comparisons_in(text)


def test_core_names_no_other_package():
    """Not even for the type checker: core's types would depend on what imports them."""
    for path in (ROOT / "core").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxlm"):
                assert (node.module or "").startswith("jaxlm.core"), f"{path.name}: {node.module}"
