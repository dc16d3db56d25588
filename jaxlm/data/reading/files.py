"""Files of this machine, by glob patterns.

for name, path in match_files(["books/**/*.txt"]).items():
    ...
"""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Iterable
from pathlib import Path

from jaxlm.core.config import UserError
from jaxlm.core.errors import looked_from


def match_files(patterns: Iterable[str]) -> dict[str, Path]:
    """{name: path} of the files that match, sorted by name.

    A name is the path below the pattern's fixed part ("books/**/*.txt" names "en/a.txt"), so that
    it is the same wherever the folder is; where two patterns give one name, names are whole
    paths.
    """
    found: list[tuple[str, str]] = []
    for pattern in patterns:
        full = os.path.expanduser(pattern)
        matches = [p for p in sorted(glob.glob(full, recursive=True)) if os.path.isfile(p)]
        if not matches:
            raise _no_match(pattern, full)
        fixed = full
        while glob.has_magic(fixed) or not os.path.isdir(fixed or "."):
            fixed = os.path.dirname(fixed)
        found += [(os.path.relpath(path, fixed or "."), path) for path in matches]
    found = list(dict.fromkeys(found))
    if len({name for name, _ in found}) < len({os.path.realpath(path) for _, path in found}):
        found = [(path, path) for _, path in found]
    return {Path(name).as_posix(): Path(path) for name, path in sorted(found)}


def _no_match(pattern: str, full: str) -> UserError:
    if os.path.isdir(full):
        return UserError(f"{pattern}: is a folder; name its files, for instance {pattern}/**/*.txt")
    if os.path.exists(full):
        return UserError(
            f"{pattern}: is a pipe or a device, which can be read only once; write its content to "
            "a file and name that"
        )
    folder = os.path.dirname(full) or "."
    if glob.has_magic(full):
        return UserError(
            f"{pattern}: matches no file (looked from {os.getcwd()}); check the pattern"
        )
    if not os.path.isdir(folder):
        return UserError(
            f"{pattern}: no such file{looked_from(pattern)}, and no folder "
            f"{os.path.dirname(pattern)}; check the path, or make the data first"
        )
    near = difflib.get_close_matches(os.path.basename(full), os.listdir(folder), n=1)
    hint = f"did you mean {os.path.join(os.path.dirname(pattern), near[0])}?" if near else ""
    hint = hint or "check the path"
    return UserError(f"{pattern}: no such file{looked_from(pattern)}; {hint}")
