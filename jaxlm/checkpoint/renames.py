"""Names that parameters had in checkpoints of older versions: one table.

    present_names({"params/backbone/embed/table": ..., "params/kernel": ...})
    # {"params/embed/table": "params/backbone/embed/table",
    #  "params/task_head/kernel": "params/kernel"}

A row is for models that had a part of the name `inside`; {old: new} are the beginnings of paths in
such a model, "" being the model itself. It holds for parameters, their moments and their average.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Renamed(NamedTuple):
    """The renamed parameters of the models that have a part of this name."""

    inside: str
    names: Mapping[str, str]


RENAMES = (
    # A classifier was a model around its language model, and has a head beside it now.
    Renamed(
        "backbone",
        {"backbone": "", "kernel": "task_head/kernel", "bias": "task_head/bias"},
    ),
    # The records that naive Bayes has counted were the head's, and are the model's now.
    Renamed("task_head", {"task_head/read": "read"}),
)


def present_names(stored: Iterable[str]) -> dict[str, str]:
    """{path as it is named today: path in the checkpoint} of all paths of a checkpoint."""
    paths = [*stored]
    found = {path: path for path in paths}
    for row in RENAMES:
        part = f"/{row.inside}/"
        trees = {path.partition(part)[0] for path in found if part in path}
        found = {_renamed(path, trees, row.names): old for path, old in found.items()}
    assert len(found) == len(paths), "two arrays of one name"
    return found


def _renamed(path: str, trees: Iterable[str], names: Mapping[str, str]) -> str:
    for tree in trees:
        for old, new in names.items():
            if path == f"{tree}/{old}" or path.startswith(f"{tree}/{old}/"):
                rest = path.removeprefix(f"{tree}/{old}").strip("/")
                return "/".join(part for part in (tree, new, rest) if part)
    return path
