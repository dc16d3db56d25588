"""Python's own source code: text on every machine, without a download."""

from __future__ import annotations

import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jaxlm.core.config import UserError, field
from jaxlm.data.reading.compressed import open_file
from jaxlm.data.reading.remembered import file_checksum
from jaxlm.data.reading.text import decode, split_documents
from jaxlm.data.sources.base import (
    Document,
    Source,
    Unit,
    text_documents,
)


@dataclass(frozen=True, kw_only=True)
class StandardLibrary(Source):
    """The Python source files of the running interpreter's standard library; each is a document."""

    include_tests: bool = field(False, "read the library's own tests too")

    never: ClassVar = {"site-packages", "dist-packages", "__pycache__"}
    tests: ClassVar = {"test", "tests", "idle_test", "_test"}

    def units(self) -> list[Unit]:
        root = Path(sysconfig.get_paths()["stdlib"])
        skip = self.never if self.include_tests else self.never | self.tests
        units = []
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).parts
            if skip.isdisjoint(parts[:-1]) and path.is_file():
                units.append(Unit("/".join(parts), path, self))
        if not units:
            raise UserError(f"{root}: holds no Python source; use another source than stdlib")
        return sorted(units, key=lambda unit: unit.name)

    def contents(self) -> Iterator[tuple[str, str]]:
        for unit in self.units():
            yield unit.name, file_checksum(unit.origin)

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        with open_file(unit.origin) as file:
            encoding, _ = tokenize.detect_encoding(file.readline)
        with open_file(unit.origin) as file:
            where = str(unit.origin)
            texts = split_documents(decode(file, where, encoding), None, where)
            yield from text_documents(texts, unit.name, None, counts)
