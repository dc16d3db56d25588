"""Checksums that are remembered: what is not read again, and what must be."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxlm.data.reading import remembered


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, with a cache of their own that remembers new files too."""
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(remembered, "SETTLED_SECONDS", -1.0)
    found: list[Path] = []
    original = remembered.file_sha256
    monkeypatch.setattr(
        remembered, "file_sha256", lambda path: (found.append(path), original(path))[1]
    )
    return found


def another_process() -> None:
    remembered._known.cache_clear()


def test_a_file_is_read_once_by_all_starts(tmp_path: Path, reads: list[Path]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("some words")
    wanted = hashlib.sha256(b"some words").hexdigest()
    for _ in range(2):
        assert remembered.file_checksum(path) == wanted
    another_process()
    assert remembered.file_checksum(path) == wanted
    assert reads == [path]


def test_a_changed_file_of_the_same_size_and_mtime_is_read(
    tmp_path: Path, reads: list[Path]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("some words")
    before = path.stat()
    remembered.file_checksum(path)
    path.write_text("some wordz")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert remembered.file_checksum(path) == hashlib.sha256(b"some wordz").hexdigest()


def test_a_file_that_changed_a_moment_ago_is_not_remembered(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "SETTLED_SECONDS", 60.0)
    path = tmp_path / "a.txt"
    path.write_text("some words")
    remembered.file_checksum(path)
    remembered.file_checksum(path)
    assert reads == [path, path]


def test_a_large_file_is_read_by_one_of_several_processes(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that waits for the file's lock takes what the other one remembered."""
    monkeypatch.setattr(remembered, "SHARED_BYTES", 0)
    path = tmp_path / "a.txt"
    path.write_text("some words")
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from jaxlm.data.reading import remembered\n"
        "remembered.SHARED_BYTES, remembered.SETTLED_SECONDS = 0, -1.0\n"
        "def read(path):\n"
        "    print('reading', flush=True)\n"
        "    time.sleep(0.5)\n"
        "    return 'of the other process'\n"
        "remembered.file_sha256 = read\n"
        "remembered.file_checksum(Path(sys.argv[1]))\n"
    )
    words = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "reading\n"
        assert remembered.file_checksum(path) == "of the other process"
    assert other.returncode == 0 and reads == []


def test_many_files_are_read_in_their_order(tmp_path: Path, reads: list[Path]) -> None:
    paths = [tmp_path / f"{i}.txt" for i in range(20)]
    for path in paths:
        path.write_text(path.name)
    wanted = [hashlib.sha256(path.name.encode()).hexdigest() for path in paths]
    assert remembered.file_checksums(paths) == wanted == remembered.file_checksums(paths)
    assert sorted(reads) == sorted(paths)


@pytest.mark.parametrize("damage", [b"", b'["a", 1\n', b"\xff\xfe\n[1]\n{}\n[[], 2]\n"])
def test_a_damaged_memory_costs_a_read(tmp_path: Path, reads: list[Path], damage: bytes) -> None:
    (tmp_path / "cache/checksums.jsonl").write_bytes(damage)
    another_process()
    path = tmp_path / "a.txt"
    path.write_text("some words")
    assert remembered.file_checksum(path) == hashlib.sha256(b"some words").hexdigest()


def test_without_locks_each_process_reads_the_file(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(remembered, "SHARED_BYTES", 0)
    monkeypatch.setattr(remembered.fcntl, "lockf", lockf)
    path = tmp_path / "a.txt"
    path.write_text("some words")
    assert remembered.file_checksum(path) == hashlib.sha256(b"some words").hexdigest()
    assert reads == [path]
