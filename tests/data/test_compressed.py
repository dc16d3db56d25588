"""Compressed files are read as streams, with a limit on a document, and damage is one line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from jaxlm.core.config import UserError, parse
from jaxlm.data.reading import archives, compressed
from jaxlm.data.reading.archives import read_members
from jaxlm.data.sources.base import Source


def zstd(data: bytes) -> bytes:
    return pytest.importorskip("pyarrow").compress(data, codec="zstd", asbytes=True)


PACK = {".gz": gzip.compress, ".zst": zstd, ".bz2": bz2.compress, ".xz": lzma.compress}
MB = 1 << 20
COPIES = 512  # of 8 MB: each of the formats takes several streams one after another


def bomb(ending: str, unit: bytes, head: bytes = b"") -> bytes:
    """4 GB in a few MB at most, for the readers that join what a file's streams hold."""
    packed = PACK[ending](unit * (8 * MB // len(unit)))
    return (PACK[ending](head) if head else b"") + packed * COPIES


def read(kind: str, path: Path, **options) -> int:
    """Characters of all documents of a file."""
    source = parse(Source, {"type": kind, "files": str(path), **options})
    return sum(len(document.text) for document in source.documents())


LONG = "has more than 100,000 characters"
LINE = b"a" * 127 + b"\n"
BOMBS = [
    *(
        ("text", ending, b"a", b"", f": a document {LONG}; set document_separator")
        for ending in PACK
    ),
    ("jsonl", ".gz", b"a", b'{"text": "', f":1: a line {LONG}; split the text in it"),
    ("csv", ".gz", b"a", b"text\n", f":2: a line {LONG}; split the text in it"),
    ("csv", ".gz", LINE, b'text\n"', f":783: a row {LONG}; split its text, set quotes: false if"),
    ("csv", ".gz", b"a" * 124 + b'\n","', b'text\n"', f": a row {LONG}; split its text"),
]


@pytest.mark.parametrize(("kind", "ending", "unit", "head", "says"), BOMBS)
def test_a_file_that_unpacks_to_more_than_the_memory(tmp_path, kind, ending, unit, head, says):
    path = tmp_path / f"a.{kind}{ending}"
    path.write_bytes(bomb(ending, unit, head))
    assert path.stat().st_size < 16 * MB
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as error:
            read(kind, path, max_document_chars=100_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(str(path)) and says in str(error.value)
    assert "raise max_document_chars" in str(error.value) and "\n" not in str(error.value)
    assert peak < 16 * MB


@pytest.mark.parametrize("ending", ["", *PACK])
def test_a_file_of_any_length_is_read_where_its_documents_are_short(tmp_path, ending):
    pack = PACK.get(ending, bytes)
    count = 48
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(pack(b"a" * (MB // 2) + b"|" * 7 + b"b" * (MB // 2)) * count)
    tracemalloc.start()
    try:
        # "aa...a", six empty ones, "bb...b" + "aa...a" of the next stream, ...
        read_chars = read("text", path, document_separator="|", max_document_chars=MB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read_chars == count * MB and peak < 20 * MB
    with pytest.raises(UserError, match=f"has more than {MB - 1:,} characters; split it, or raise"):
        read("text", path, document_separator="|", max_document_chars=MB - 1)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_the_limit_is_that_of_a_text(tmp_path, kind):
    texts = ["short", "a" * 1000]
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({"text": texts}), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    else:
        path.write_text("text\n" + "\n".join(texts) + "\n")
    assert read(kind, path, max_document_chars=1012) == 1005
    with pytest.raises(UserError, match=r"has more than 999 characters; split .*, or raise max_"):
        read(kind, path, max_document_chars=999)


def test_the_limit_is_not_part_of_what_a_source_is():
    sources = [
        parse(Source, {"type": "text", "files": __file__, "max_document_chars": most})
        for most in (10**5, 10**6)
    ]
    assert len({source.fingerprint() for source in sources}) == 1


# ------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("ending", PACK)
def test_a_compressed_file_that_is_cut_or_damaged_is_one_line(tmp_path, ending):
    rng = random.Random(0)
    text = "".join(rng.choices("abcdef \n", k=200_000)).encode()
    sound = PACK[ending](text)
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(sound + sound)
    assert read("text", path) == 2 * len(text)
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 0x10
    cuts = [sound[:n] for n in (3, 11, len(sound) // 2, len(sound) - 1)]
    cuts += [sound + cut for cut in cuts if ending != ".bz2"]  # which may be followed by anything
    spoilt = [b"plain text", bytes(flipped), *cuts]
    if ending == ".zst":
        spoilt.remove(bytes(flipped))  # its checksum is optional, and Arrow writes none
    for data in spoilt:
        path.write_bytes(data)
        with pytest.raises(UserError) as error:
            read("text", path)
        assert str(error.value).startswith(f"{path}: cannot be read to its end ("), len(data)
        assert str(error.value).endswith("; replace the damaged file")
        assert "\n" not in str(error.value)


def test_an_xz_file_may_not_ask_for_any_amount_of_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.txt.xz"
    path.write_bytes(lzma.compress(b"abc", preset=9))
    assert read("text", path) == 3
    monkeypatch.setattr(compressed, "MAX_WINDOW", 1 << 25)
    with pytest.raises(UserError, match=r"a\.txt\.xz: needs too much memory to be unpacked; pack"):
        read("text", path)


@pytest.mark.parametrize("ending", [".tar.gz", ".tar.bz2", ".tar.xz", ".zip"])
def test_a_member_of_an_archive_is_not_unpacked_where_it_is_too_large(
    tmp_path, monkeypatch, ending
):
    path = tmp_path / f"package-1.0{ending}"
    content = io.BytesIO(b"a" * 10_000)
    if ending == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("package-1.0/a.txt", content.getvalue())
    else:
        with tarfile.open(path, f"w:{ending.rpartition('.')[2]}") as tar:
            entry = tarfile.TarInfo("package-1.0/a.txt")
            entry.size = 10_000
            tar.addfile(entry, content)
    assert read_members(path, ["a.txt"]) == {"a.txt": content.getvalue()}
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 9_999)
    with pytest.raises(UserError, match=r"package-1\.0/a\.txt has 10,000 bytes, more than the 9,9"):
        read_members(path, ["a.txt"])
    for cut in (20, path.stat().st_size // 2):
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(UserError, match="a damaged archive .*; replace the file"):
            read_members(path, ["a.txt"])
