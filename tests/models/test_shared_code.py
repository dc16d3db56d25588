"""A family is data: code that families share tests for the name of none."""

from __future__ import annotations

import ast
from pathlib import Path

import jaxlm
from jaxlm.models.families import families

ROOT = Path(jaxlm.__file__).parent
NAMES = {name for family in families() for name in (family.name, *family.classes)}


def names_in(path: Path) -> set[str]:
    """The families' names that stand in a file as values."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return NAMES & {node.value for node in nodes if isinstance(node, ast.Constant)}


def test_no_shared_file_has_a_familys_name_as_a_value():
    shared = [path for path in ROOT.rglob("*.py") if "families" not in path.parts]
    found = {str(path.relative_to(ROOT)): names_in(path) for path in shared}
    assert not {path: names for path, names in found.items() if names}
    assert len(found) > 100


def test_a_name_would_be_seen():
    assert names_in(ROOT / "models/families/llama.py") >= {"llama", "LlamaForCausalLM"}
