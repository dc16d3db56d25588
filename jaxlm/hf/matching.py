"""A family's table laid beside a folder's tensors: all of both sides have a place, or none is read.

match = match_tensors(family, config, shapes, stored)   # raises one UserError that lists all
match.pieces["embed/table"]     # the place of each slice, by the names of the file
match.repeats["embed/table"]    # where an optional tensor says it once more (a tied head)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.errors import few
from jaxlm.hf.stored import DTYPES, Info, Stored, listed
from jaxlm.models.families.base import BUFFERS, HEAD, Family
from jaxlm.models.families.shared.table import Piece, Shapes, locate, tensor_shapes
from jaxlm.nn.heads.base import is_of_head

Pieces = Mapping[str, list[Piece]]
OLDER = "~"
MODULES = "/"


@dataclass(frozen=True)
class Match:
    """The place of every parameter in a folder."""

    pieces: Pieces
    repeats: Pieces
    ignored: list[str]  # tensors that the model here has no use for
    names: str  # "" as the table has them; see `named`


def match_tensors(
    family: Family, config: Any, shapes: Shapes, stored: Stored, task: Any = None
) -> Match:
    """The place of each parameter in a folder; `task` is its config.json's `TaskClass`, if any.

    Raises `UserError` that lists tensors which are missing, not known, or of another shape."""
    pieces, repeats = pieces_of(family, config, shapes, task)
    found = stored.tensors
    names = max(
        (p + o for p in (("", "-", "+") if family.prefix else ("",)) for o in ("", OLDER)),
        key=lambda how: sum(name in found for name in tensor_shapes(named(pieces, family, how))),
    )
    pieces, repeats = named(pieces, family, names), named(repeats, family, names)
    repeats = those_of(repeats, found)
    wanted = tensor_shapes(pieces) | tensor_shapes(repeats)
    layers = str(getattr(config, "num_layers", ""))
    patterns = [
        re.compile(pattern.replace("{num_layers}", layers))
        for pattern in (*BUFFERS, *family.ignored)
    ]
    others = [name for name in found if name not in wanted]
    ignored = [name for name in others if any(p.search(name) for p in patterns)]
    kinds = {
        "missing": sorted(wanted.keys() - found.keys()),
        "not known": sorted(set(others) - set(ignored)),
        "of another shape": [
            f"{name} {list(found[name].shape)}, by config.json {list(shape)}"
            for name, shape in wanted.items()
            if name in found and found[name].shape != shape
        ],
        "of a dtype that is not read": [
            f"{name} {found[name].dtype}"
            for name in wanted
            if name in found and found[name].dtype not in DTYPES
        ],
    }
    if kinds["missing"] == [HEAD]:
        raise UserError(
            f"{stored.folder}: has no {HEAD}, which a {family.architectures[0]} has; bring the "
            "file with it, or correct config.json: tie_word_embeddings is true where the head is "
            f"the embedding; architectures names {' or '.join(family.bases)} if it lacks a head"
        )
    wrong = [f"{kind}: {listed(items)}" for kind, items in kinds.items() if items]
    if wrong:
        raise UserError(
            f"{stored.folder}: its tensors are not those of the {family.name} that its config.json "
            f"describes; {'; '.join(wrong)}; check that both files are of one model"
        )
    return Match(pieces, repeats, ignored, names)


def pieces_of(
    family: Family, config: Any, shapes: Shapes, task: Any = None
) -> tuple[Pieces, Pieces]:
    """The place of each parameter by the family's names, and of optional tensors that repeat it.

    Raises `UserError` where the family has no tensor for a parameter.
    """
    rows = [*family.tensors(config), *(task.tensors if task else ())]
    pieces = locate(rows, shapes)
    homeless = sorted(shapes.keys() - pieces.keys())
    if homeless:
        raise UserError(
            f"model: the family {family.name} has no tensor for {few(homeless)}; "
            "choose another family (--family), or train with other parts"
        )
    return pieces, locate(rows, shapes, optional=True)


def named(pieces: Pieces, family: Family, how: str) -> Pieces:
    """The pieces under the names that a file has.

    "-": without the family's prefix, "+": with one more; then `OLDER`: ends as older files have;
    then `MODULES`: as the modules of its class are named, not the tensors of its files.
    """

    def rename(name: str) -> str:
        if how.startswith("-"):
            name = name.removeprefix(family.prefix)
        elif how.startswith("+"):
            name = family.prefix + name
        for today, then in family.older if OLDER in how else ():
            if name.endswith(today):
                name = name.removesuffix(today) + then
                break
        for there, here in family.modules if MODULES in how else ():
            name = name.replace(there, here)
        return name

    if not how:
        return pieces
    return {
        path: [dataclasses.replace(piece, name=rename(piece.name)) for piece in parts]
        if not is_of_head(path)
        else parts
        for path, parts in pieces.items()
    }


def those_of(repeats: Pieces, names: Container[str]) -> Pieces:
    """The repeats that a file has."""
    found = {path: [p for p in parts if p.name in names] for path, parts in repeats.items()}
    return {path: parts for path, parts in found.items() if parts}


def dtypes_of(names: Iterable[str], tensors: Mapping[str, Info]) -> tuple[str, dict[str, str]]:
    """The dtype that most of the tensors have, and those that have another."""
    found = {name: DTYPES[tensors[name].dtype] for name in names}
    kinds = list(found.values())
    main = max(sorted(set(kinds)), key=kinds.count)
    return main, {name: dtype for name, dtype in found.items() if dtype != main}
