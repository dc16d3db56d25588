"""What `type:` may name: a file of the kind's folder, an entry point, module:Class."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest

from jaxlm.cli import main
from jaxlm.core.config import Config, ConfigError, UserError, parse, to_dict, to_yaml
from jaxlm.core.kinds import files, installed
from jaxlm.core.listing import PACKAGE, kind_called, kinds, listed, parts
from jaxlm.core.registry import find, names, type_name

HEAD = """
from dataclasses import dataclass
from typing import ClassVar
from jaxlm.core.config import Config, Kind, field
"""
PART = "@dataclass(frozen=True, kw_only=True)\nclass "
SHAPES = {  # a package of a kind with its parts, as jaxlm.objectives is one
    "base": f"""{PART}Shape(Config):
    kind: ClassVar = Kind("shapes", "shape", folder="shapes", default="circle")

{PART}Sided(Shape, abstract=True):
    sides: int = field(3, "sides", ge=3)
""",
    "circle": f"""from shapes.base import Shape
{PART}Circle(Shape):
    '''Round.

    And so on.'''
    radius: float = field(1.0, "radius")
""",
    "polygons": f"""from shapes.base import Sided
{PART}Triangle(Sided, type="triangle"):
    '''Three sides.'''
{PART}Square(Sided, type="square"):
    sides: int = field(4, "sides")
""",
    "broken": "raise RuntimeError('is never imported unless it is named')\n",
    "twice": f'from shapes.base import Shape\n{PART}A(Shape, type="same"):\n    pass\n'
    f'{PART}B(Shape, type="same"):\n    pass\n',
}
OUTSIDE = {
    "mine": f"from shapes.base import Shape, Sided\n{PART}Star(Sided):\n    '''With rays.'''\n"
    '    rays: int = field(5, "rays")\n'
    "class Undecorated(Shape):\n    a: int = 1\n"
    f"{PART}Unrelated(Config):\n    pass\n",
    "faulty": "import os\n\nnumber = 1 / 0\n",
    "needy": "import no_such_module_anywhere\n",
}


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """The base class of the kind; what is outside of its package is in the working folder."""
    home, work = tmp_path / "site", tmp_path / "work"
    for folder, modules in ((home / "shapes", SHAPES), (work, OUTSIDE)):
        folder.mkdir(parents=True)
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(HEAD + text)
    (home / "shapes" / "__init__.py").touch()
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "path", [str(home), *sys.path])
    before = set(sys.modules)
    yield importlib.import_module("shapes.base").Shape
    for name in set(sys.modules) - before:
        del sys.modules[name]


def entry_point(folder: Path, package: str, name: str, value: str) -> None:
    """An installed package, as far as `importlib.metadata` sees one."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[jaxlm.shapes]\n{name} = {value}\n")


@pytest.mark.parametrize(
    ("values", "kind", "written"),
    [
        ({"type": "circle"}, "Circle", "circle"),
        ({}, "Circle", "circle"),
        ({"type": "square"}, "Square", "square"),
        ({"type": "triangle", "sides": 5}, "Triangle", "triangle"),
        ({"type": "mine:Star"}, "Star", "mine:Star"),
        ({"type": "shapes.polygons:Square"}, "Square", "square"),
    ],
)
def test_a_type_is_found_and_written_back(shapes, values, kind, written):
    config = parse(shapes, values)
    assert type(config).__name__ == kind and to_dict(config)["type"] == written
    assert parse(shapes, to_dict(config)) == config and to_yaml(config)


def test_only_the_module_that_is_named_is_imported(shapes):
    find(shapes, "circle")
    assert {n for n in sys.modules if n.startswith("shapes.")} == {"shapes.base", "shapes.circle"}


def test_an_entry_point_is_found_by_its_name_and_keeps_it(shapes, tmp_path):
    entry_point(tmp_path / "site", "star_package", "star", "mine:Star")
    sys.path.append(str(tmp_path))  # another search path: the entry points are read again
    config = parse(shapes, {"type": "star", "rays": 7})
    assert config.rays == 7 and to_dict(config)["type"] == "star"
    assert to_dict(parse(shapes, {"type": "mine:Star"}))["type"] == "star"
    assert "star" in names(shapes)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("circel", "unknown type 'circel'; did you mean circle?"),
        ("sided", "unknown type 'sided'"),
        ("base", "unknown type 'base'"),
        ("same", "several parts: shapes.twice:A, shapes.twice:B; rename one"),
        ("ring", "several parts: mine:Star of package a_ring, mine:Star of package b_ring"),
        ("moon", "moon of package lunar: there is no module moon_module"),
        ("mine:Comet", "mine has no class Comet; choose one of Star, Undecorated, Unrelated"),
        ("mine:Sta", "did you mean Star?"),
        ("mine:Unrelated", "mine:Unrelated is not of the kind shape; derive it from shapes.base"),
        ("mine:Sided", "mine:Sided is a base class; name a class that is derived from it"),
        ("mine:Undecorated", "write @dataclass(frozen=True, kw_only=True) above the class"),
        ("nowhere:Star", "there is no module nowhere; run from the folder that it is in"),
        ("faulty:Star", "faulty cannot be imported: ZeroDivisionError: division by zero ("),
        ("needy:Star", "needy cannot be imported: ModuleNotFoundError: No module named"),
        ("mine:", "'mine:' names no class; write package.module:Class"),
        ("mine:Star:Star", "names no class"),
        ("__main__:Star", "names no class"),
    ],
)
def test_a_wrong_type_is_one_line(shapes, tmp_path, name, says):
    for package in ("a_ring", "b_ring"):
        entry_point(tmp_path / "site", package, "ring", "mine:Star")
    entry_point(tmp_path / "site", "lunar", "moon", "moon_module:Moon")
    says = says.replace(
        "moon of package lunar: there is no module moon_module", "there is no module moon_module"
    )
    sys.path.append(str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        parse(shapes, {"type": name})
    assert says in str(caught.value) and str(caught.value).startswith("type: ")
    assert "\n" not in str(caught.value)


def test_a_broken_module_is_named_with_its_line(shapes, tmp_path):
    with pytest.raises(UserError, match=rf"\({tmp_path}/work/faulty.py:7\); correct"):
        find(shapes, "faulty:Star")


def test_a_part_of_a_function_is_not_written_to_a_config(shapes):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Here(shapes):
        pass

    with pytest.raises(UserError, match="Here is defined in a function.*; move it"):
        to_yaml(Here())


def test_the_working_folder_hides_no_installed_module(shapes, tmp_path):
    (tmp_path / "work" / "shapes.py").write_text("raise RuntimeError\n")
    find(shapes, "mine:Star")
    assert str(tmp_path / "work") in sys.path[1:]
    assert find(shapes, "circle").__name__ == "Circle"


def test_parts_are_listed_without_being_imported(shapes):
    before = set(sys.modules)
    found = list(listed(files("shapes"), "shapes", "Shape"))
    assert [(part.name, part.doc) for part in found if part.name != "same"] == [
        ("circle", "Round."),
        ("square", ""),
        ("triangle", "Three sides."),
    ]
    assert set(sys.modules) == before


def test_every_kind_of_the_package_lists_what_its_types_find():
    """What the text of the files says is what the classes say."""
    found = {of.kind.name: [part.name for part in parts(of)] for of in kinds()}
    assert {"objectives", "models", "optimizers", "sources", "tokenizers"} <= found.keys()
    for path in PACKAGE.rglob("*.py"):  # a kind is known when its base class is imported
        if "kind: ClassVar = Kind(" in path.read_text():
            importlib.import_module(
                ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            )
    for of in kinds():
        base = next(c for c in _subclasses(Config) if c.__dict__.get("kind") == of.kind)
        assert found[of.kind.name] == names(base)
        for part in parts(of):
            cls = find(base, part.name)
            assert type_name(cls) == part.name and part.origin == "built in"
            assert part.doc == (cls.__doc__ or "").strip().split("\n")[0], part.name


def test_a_list_in_a_pipe_has_no_colours_and_names_an_empty_kind(capsys):
    assert main(["parts"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\nnorms\n  layernorm " in out
    assert "\ncallbacks\n  none built in\n" in out


def test_modules_and_packages_are_listed_with_their_origin(tmp_path, monkeypatch):
    text = HEAD + "from jaxlm.objectives.causal_lm import CausalLM\n"
    (tmp_path / "own.py").write_text(text + f"{PART}Focal(CausalLM):\n    '''Focal loss.'''\n")
    (tmp_path / "not_python.py").write_text("def (")
    info = tmp_path / "focal_package-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: focal_package\nVersion: 2.0\n")
    lines = (
        "[jaxlm.objectives]\nfocal = own:Focal\nlost = lost_module:Lost\ncausal_lm = own:Focal\n"
    )
    (info / "entry_points.txt").write_text(lines)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    found = parts(kind_called("objective"), tmp_path)
    assert [tuple(part) for part in found if part.origin != "built in"] == [
        ("focal", "Focal loss.", "package focal_package"),
        (
            "lost",
            "cannot be imported: there is no module lost_module",
            "package focal_package",
        ),
        (
            "causal_lm",
            "Focal loss.",
            "package focal_package; hidden by the built-in one: name its class",
        ),
        ("own:Focal", "Focal loss.", "module own.py"),
    ]
    with pytest.raises(UserError, match="did you mean objectives"):
        kind_called("objectivs")
    assert "own" not in sys.modules and installed(kind_called("models").kind) == ()


def _subclasses(cls: type) -> set[type]:
    """All classes of kinds, which their modules have to be imported for."""
    for module in ("run", "launch.target", "nn.rope_scaling"):
        importlib.import_module(f"jaxlm.{module}")
    below = {sub for one in cls.__subclasses__() for sub in _subclasses_of(one)}
    return below


def _subclasses_of(cls: type) -> set[type]:
    return {cls, *(sub for one in cls.__subclasses__() for sub in _subclasses_of(one))}


def test_contributing_says_where_each_kind_of_part_goes():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| a")]
    for of in kinds():
        files = f"`{of.kind.folder.replace('.', '/')}/NAME.py`"
        row = [r for r in rows if files in r[2] and f"`{of.base}`" in r[3]]
        assert row, f"{of.kind.name}: a row with {files} and {of.base}"
