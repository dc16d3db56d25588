"""Fails unless the wheel in a folder has every file of the package: templates and styles too.

python .ci/check_wheel.py FOLDER
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(folder: str) -> int:
    (wheel,) = Path(folder).glob("jaxlm-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = {path for path in (ROOT / "jaxlm").rglob("*") if path.is_file()}
    wanted = {str(p.relative_to(ROOT)) for p in files if "__pycache__" not in p.parts}
    missing = sorted(wanted - packed)
    print(f"{wheel.name}: {len(wanted)} files", *(f"missing: {name}" for name in missing), sep="\n")
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
