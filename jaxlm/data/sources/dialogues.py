"""Dialogues of a pinned package, in the YAML of ChatterBot's corpus.

    conversations:
    - - Hello                 # a user's message
      - Hi                    # the answer, and so on in turns

Each dialogue is a record with the column `messages`, for the task `chat`. A last message that
nobody answers is left out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from jaxlm.core.config import REQUIRED, UserError, field
from jaxlm.data.reading.fetch import Archive, parse_requirement
from jaxlm.data.sources.base import Document, Record, Source, Unit
from jaxlm.data.sources.package import package_members

COLUMNS = ("messages",)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where it is installed


@dataclass(frozen=True, kw_only=True)
class Dialogues(Source):
    """Dialogues in the YAML of ChatterBot's corpus: of the installed package, else its archive."""

    places = ("requirement", "sha256", "archive", "files")

    requirement: str = field(REQUIRED, "the package, pinned: name==version")
    sha256: str = field(REQUIRED, "SHA-256 of the package's archive")
    archive: Archive = field("sdist", "which archive of the package is meant: sdist or wheel")
    files: tuple[str, ...] = field(
        REQUIRED, "glob patterns of the YAML files in the package, matched from the right"
    )

    def validate(self) -> None:
        parse_requirement(self.requirement)

    def units(self) -> list[Unit]:
        return [Unit(name, None, self) for name in self._members()]

    def contents(self) -> Iterator[tuple[str, str]]:
        for name, content in self._members().items():
            yield name, hashlib.sha256(content).hexdigest()

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        """Each dialogue as a text, a message a line."""
        for name, messages in self._dialogues(unit, counts):
            yield Document("\n".join(m["content"] for m in messages) + "\n", name)

    def read_records(
        self, unit: Unit, columns: Sequence[str], counts: Counter[str]
    ) -> Iterator[tuple[str, Record]]:
        if missing := [name for name in columns if name not in COLUMNS]:
            raise UserError(f"{unit.name}: no column {missing[0]!r}: dialogues have {COLUMNS[0]}")
        for name, messages in self._dialogues(unit, counts):
            yield name, {"messages": messages}

    def _dialogues(
        self, unit: Unit, counts: Counter[str]
    ) -> Iterator[tuple[str, list[dict[str, str]]]]:
        where = f"{self.requirement}: {unit.name}"
        try:
            text = self._members()[unit.name].decode("utf-8")
            found: Any = yaml.load(text, Loader=LOADER)
            dialogues = found["conversations"]
        except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError):
            raise UserError(
                f"{where}: has no list `conversations` in YAML; name other files"
            ) from None
        for number, turns in enumerate(dialogues):
            texts = [str(turn).strip() for turn in turns or () if turn is not None]
            if len(texts) % 2:
                texts.pop()
            if not texts or not all(texts):
                counts["unanswered"] += 1
                continue
            roles = ("user", "assistant") * (len(texts) // 2)
            pairs = zip(roles, texts, strict=True)
            yield f"{unit.name}:{number}", [{"role": r, "content": t} for r, t in pairs]

    def _members(self) -> dict[str, bytes]:
        return package_members(self.requirement, self.sha256, self.archive, self.files)
