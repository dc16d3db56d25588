"""The token store: what is in it, who may write it; damage and kills in the middle."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.core.types import TokenizerConfig
from jaxlm.data.sources.text import TextFiles
from jaxlm.data.store import manifest as manifests
from jaxlm.data.store import preparation
from jaxlm.data.store.foreign import id_range, read_megatron, read_nanogpt
from jaxlm.data.store.processes import Progress, run_in_processes
from jaxlm.data.store.split import held_out
from jaxlm.data.store.tokenise import Options, prepare_store
from jaxlm.data.store.tokens import TokenStore, token_dtype
from jaxlm.data.text import TextData
from jaxlm.data.tokenizers.base import Bytes, ByteTokenizer
from jaxlm.data.tokenizers.characters import Characters
from jaxlm.data.tokenizers.hashed_words import HashedWords
from jaxlm.data.tokenizers.words import WordTokenizer
from jaxlm.data.tokens import TokenData

ROOT = Path(__file__).parents[2]


def quiet(line: str) -> None:
    """Reports nothing."""


def write_store(pattern: str, cache: Path, tokenizer=None, **changes) -> TokenStore:
    sources = {"source": TextFiles(files=(pattern,))}
    arguments = {"workers": 0, "report": quiet, **changes}
    return prepare_store(sources, tokenizer or ByteTokenizer(), Options(), cache, **arguments)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_no_process_is_started_for_few_bytes(make_corpus, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(preparation, "run_in_processes", None)
    write_store(make_corpus(5), tmp_path / "cache", workers=2)
    monkeypatch.setattr(preparation, "SMALL_BYTES", 0)
    with pytest.raises(TypeError, match="not callable"):
        write_store(make_corpus(5), tmp_path / "other", workers=2)


def test_a_tokenizer_says_which_text_is_worth_processes(make_corpus, tmp_path, monkeypatch) -> None:
    """One of Python code is worth them far sooner than a library that has all cores."""
    pattern = make_corpus(5)
    size = sum(path.stat().st_size for path in (tmp_path / "corpus").iterdir())
    jobs: list[int] = []

    def here(work, chosen, workers, progress, *, start, arguments) -> None:
        jobs.append(len(chosen))
        start(*arguments)
        for job in chosen:
            work(job)

    monkeypatch.setattr(preparation, "run_in_processes", here)
    for at, small in enumerate((size + 1, size)):
        slow = Counted()
        slow.small_corpus = small
        write_store(pattern, tmp_path / f"cache{at}", slow, workers=2)
    assert jobs == [5]
    for tokenizer in (WordTokenizer(["a"]), HashedWords().build(lambda: iter(()), "", tmp_path)):
        assert tokenizer.small_corpus < preparation.SMALL_BYTES


def test_a_process_that_dies_is_one_line(make_corpus, tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"^tokenising: a process died.*run again to continue"):
        run_in_processes(die, [1, 2], 2, Progress("tokenising", 2, quiet))


def die(job: int) -> None:
    os._exit(1)


def test_progress_is_reported_from_time_to_time(monkeypatch) -> None:
    lines: list[str] = []
    now = iter([0.0, 1.0, 11.0, 11.0, 12.0, 30.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    progress = Progress("counting", 5, lines.append)
    for _ in range(3):
        progress.add()
    progress.add(2)
    assert lines == ["counting: 2 of 5 parts"]


def test_workers_end_with_a_preparation_that_is_killed(tmp_path) -> None:
    """Another preparation may begin meanwhile, and write the same parts."""
    script = (
        "import sys; from test_store import *\n"
        "if __name__ == '__main__':\n"
        "    run_in_processes(note_and_sleep, [sys.argv[1]], 1, Progress('x', 1, quiet))\n"
    )
    (tmp_path / "main.py").write_text(script)
    note = tmp_path / "pid"
    command = [sys.executable, str(tmp_path / "main.py"), str(note)]
    parent = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests/data"}
    )
    try:
        wait_for(note.exists)
    finally:
        parent.kill()
        parent.wait()
    worker = int(note.read_text())
    wait_for(lambda: not Path(f"/proc/{worker}").exists())


def note_and_sleep(path: str) -> None:
    scratch = Path(f"{path}.tmp")
    scratch.write_text(str(os.getpid()))
    scratch.rename(path)
    time.sleep(60)


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


# ------------------------------------------------------------------------------------ what is in it


def test_documents_come_back(make_corpus, tmp_path) -> None:
    store = write_store(make_corpus(9), tmp_path / "cache")
    texts = [p.read_text(encoding="utf-8") for p in sorted((tmp_path / "corpus").iterdir())]
    documents, tokenizer = store.documents(), ByteTokenizer()
    assert store.names() == [f"{i:03d}.txt" for i in range(9)]
    for i, text in enumerate(texts):
        ids = documents.document(i).tolist()
        assert ids == [tokenizer.bos_id, *text.encode(), tokenizer.eos_id]
    counts = store.counts(np.arange(9))
    assert counts == {
        "documents": 9,
        "tokens": sum(len(t.encode()) + 2 for t in texts),
        "bytes": sum(len(t.encode()) for t in texts),
        "chars": sum(map(len, texts)),
    }
    assert counts.items() <= store.manifest.items()


def test_numbers_are_as_small_as_the_vocabulary_allows() -> None:
    assert token_dtype(2**16) == np.uint16 and token_dtype(2**16 + 1) == np.uint32


class Wide(ByteTokenizer):
    """Bytes, moved past 2^16."""

    def __init__(self) -> None:
        super().__init__()
        self.vocab_size = 70_000 + 259

    def fingerprint(self) -> str:
        return "wide"

    def encode(self, text: str) -> list[int]:
        return [70_000 + b for b in super().encode(text)]


def test_large_vocabularies(make_corpus, tmp_path) -> None:
    store = write_store(make_corpus(1), tmp_path / "cache", Wide())
    text = (tmp_path / "corpus" / "000.txt").read_bytes()
    assert store.documents().document(0).tolist() == [257, *(70_000 + b for b in text), 258]


def test_the_bytes_do_not_depend_on_the_number_of_workers(
    make_corpus, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(preparation, "SMALL_BYTES", 0)  # processes for few bytes too
    pattern = make_corpus(7)
    stores = [
        write_store(pattern, tmp_path / f"cache{workers}", workers=workers) for workers in (0, 1, 3)
    ]
    assert contents(stores[0].folder) == contents(stores[1].folder) == contents(stores[2].folder)
    assert len({store.folder.name for store in stores}) == 1


def test_another_text_tokenizer_or_option_is_another_store(make_corpus, tmp_path) -> None:
    pattern, cache = make_corpus(3), tmp_path / "cache"
    first = write_store(pattern, cache)
    assert write_store(pattern, cache).folder == first.folder
    assert write_store(pattern, cache, Wide()).folder != first.folder
    sources = {"source": TextFiles(files=(pattern,))}
    no_bos = prepare_store(sources, ByteTokenizer(), Options(add_bos=False), cache, report=quiet)
    assert no_bos.folder != first.folder and no_bos.documents().document(0)[0] != 257
    (tmp_path / "corpus" / "001.txt").write_text("changed")
    assert write_store(pattern, cache).folder not in (first.folder, no_bos.folder)


def test_several_sources_have_names_of_their_own(make_corpus, tmp_path) -> None:
    sources = {
        name: TextFiles(files=(make_corpus(count, name),)) for name, count in (("a", 2), ("b", 3))
    }
    store = prepare_store(sources, ByteTokenizer(), Options(), tmp_path / "cache", report=quiet)
    assert store.names() == ["a/000.txt", "a/001.txt", "b/000.txt", "b/001.txt", "b/002.txt"]
    (tmp_path / "b" / "000.txt").unlink(), (tmp_path / "b" / "002.txt").unlink()
    (tmp_path / "b" / "001.txt").write_text("  \n")
    with pytest.raises(UserError, match="b/.*no documents"):
        prepare_store(sources, ByteTokenizer(), Options(), tmp_path / "cache", report=quiet)


# ------------------------------------------------------------------------- killed, shared, damaged


class Counted(ByteTokenizer):
    """Counts its calls and stops at one of them."""

    def __init__(self, stop: int = -1) -> None:
        super().__init__()
        self.calls, self.stop = 0, stop

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        return super().encode_batch(texts)


Counted.kind = ByteTokenizer.kind  # its stores are those of the tokenizer itself


def test_a_stopped_preparation_continues_where_it_was(make_corpus, tmp_path) -> None:
    pattern = make_corpus(6)
    whole = write_store(pattern, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        write_store(pattern, tmp_path / "cache", Counted(stop=4))
    again = Counted()
    store = write_store(pattern, tmp_path / "cache", again)
    assert again.calls == 3  # units 4, 5 and 6 of 6
    assert contents(store.folder) == contents(whole.folder)


class Killed(BaseException):
    """In place of SIGKILL: what follows the call never happens."""


CALLS = ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir")


def kill_at(monkeypatch: pytest.MonkeyPatch, nth: int) -> list[str]:
    """From call `nth` of the system's on, every one of CALLS dies, those of clean-ups too."""
    made: list[str] = []

    def deadly(name: str, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            made.append(name)
            if len(made) >= nth:
                raise Killed
            # nothing here cuts the power, and a real flush takes the test's time
            return None if name == "fsync" else real(*args, **kwargs)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, deadly(name, getattr(os, name)))
    return made


def test_killed_at_any_call_a_preparation_continues(make_corpus, tmp_path, monkeypatch) -> None:
    pattern = make_corpus(2)
    whole = contents(write_store(pattern, tmp_path / "whole").folder)
    with monkeypatch.context() as patch:
        made = kill_at(patch, 10**9)
        write_store(pattern, tmp_path / "counted")
    assert {"mkdir", "rename", "replace", "fsync", "unlink", "rmdir"} == set(made)
    for nth in range(1, len(made) + 1):
        cache = tmp_path / f"cache{nth}"
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, nth)
            write_store(pattern, cache)
        again = Counted()
        store = write_store(pattern, cache, again)
        assert contents(store.folder) == whole, made[nth - 1]
        left = {p.name for p in store.folder.parent.iterdir()}
        assert left == {store.folder.name, f"{store.folder.name}.lock"}, made[nth - 1]


def test_a_part_that_another_process_writes_too(make_corpus, tmp_path, monkeypatch) -> None:
    """A worker of a killed preparation that is still at work removes nothing, and harms nothing."""
    pattern = make_corpus(3)
    whole = contents(write_store(pattern, tmp_path / "whole").folder)
    real, write = preparation.write_unit, preparation.write_atomic

    def after_another(path, data):
        write(path, data)
        if path.name == "checksums.json" and os.getpid() != 1:
            with monkeypatch.context() as patch:
                patch.setattr(os, "getpid", lambda: 1)
                real(*unit)

    def remembered(*arguments):
        nonlocal unit
        unit = arguments
        real(*arguments)

    unit: tuple = ()
    monkeypatch.setattr(preparation, "write_atomic", after_another)
    monkeypatch.setattr(preparation, "write_unit", remembered)
    store = write_store(pattern, tmp_path / "cache")
    assert contents(store.folder) == whole
    assert not list(store.folder.parent.glob("*.partial"))


@pytest.mark.parametrize("name", ["tokens.bin", "lengths.npy", "notes.json", "checksums.json"])
@pytest.mark.parametrize("damage", ["flip", "gone"])
def test_a_damaged_part_is_tokenised_again(make_corpus, tmp_path, name, damage) -> None:
    pattern = make_corpus(3)
    whole = contents(write_store(pattern, tmp_path / "whole").folder)
    with pytest.raises(KeyboardInterrupt):
        write_store(pattern, tmp_path / "cache", Counted(stop=3))
    (part,) = (tmp_path / "cache").glob("stores/*.partial/parts/000001")
    data = bytearray((part / name).read_bytes())
    data[len(data) // 2] ^= 4
    (part / name).write_bytes(data) if damage == "flip" else (part / name).unlink()
    lines: list[str] = []
    store = write_store(pattern, tmp_path / "cache", report=lines.append)
    assert contents(store.folder) == whole
    (line,) = (line for line in lines if ": damaged, " in line)
    assert str(part) in line and name in line and "tokenised again" in line


@pytest.mark.parametrize("short", [False, True], ids=["write", "numpy"])
def test_a_full_disk_is_one_line_and_loses_no_part(
    make_corpus, tmp_path, monkeypatch, short
) -> None:
    pattern, real = make_corpus(3), np.save
    saved = []

    def full(path, array):
        saved.append(path)
        if len(saved) == 12:
            raise OSError("16 requested and 0 written") if short else OSError(28, "No space left")
        real(path, array)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(UserError, match=r"no space left.*free some space.*again") as error:
            write_store(pattern, tmp_path / "cache")
    assert "\n" not in str(error.value) and str(tmp_path / "cache") in str(error.value)
    again = Counted()
    write_store(pattern, tmp_path / "cache", again)
    assert again.calls == 2


def resealed(folder: Path, **changes: Any) -> None:
    """A store whose files and manifest agree with each other, whatever they say."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, facts in manifest["files"].items():
        data = (folder / name).read_bytes()
        facts |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {**manifest, **changes}
    manifest.pop("self_sha256")
    manifest["self_sha256"] = manifests.manifest_digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("dtype", ["O", "object", "float32", "int64", "U4", "i8,i8", None, 3])
def test_only_types_of_ids_are_read(make_corpus, tmp_path, dtype) -> None:
    folder = write_store(make_corpus(3), tmp_path / "cache").folder
    resealed(folder, dtype=dtype)
    with pytest.raises(UserError, match=r"manifest.json: dtype .* uint16, uint32"):
        TokenStore.open(folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("offsets", lambda a: a[[0, 2, 1, 3]]),
        ("offsets", lambda a: a + np.array([0, 0, 0, 10**6])),
        ("offsets", lambda a: a + np.array([0, 10**6, 0, 0])),
        ("offsets", lambda a: a + np.array([-5, 0, 0, 0])),
        ("offsets", lambda a: a[:0]),
        ("offsets", lambda a: a.astype(np.float64)),
        ("offsets", lambda a: a.astype(object)),
        ("offsets", lambda a: a[[0, 1, 3]]),
        ("labels", lambda a: a + 5),
        ("num_bytes", lambda a: a[:2]),
        ("text_hashes", lambda a: a[:, None]),
    ],
)
def test_an_index_that_does_not_fit_is_refused(make_corpus, tmp_path, name, change) -> None:
    folder = write_store(make_corpus(3), tmp_path / "cache").folder
    np.save(folder / f"{name}.npy", change(np.load(folder / f"{name}.npy")))
    resealed(folder)
    with pytest.raises(UserError, match=r"\.npy: .*delete") as error:
        TokenStore.open(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", [2**63 - 2, 2**62, -2])
def test_megatron_places_past_the_file_are_refused(tmp_path, place) -> None:
    write_megatron(tmp_path / "data", [[[1, 2, 3]]], "uint8", 1)
    index = bytearray((tmp_path / "data.idx").read_bytes())
    struct.pack_into("<q", index, 34 + 4, place)
    (tmp_path / "data.idx").write_bytes(index)
    with pytest.raises(UserError, match="shorter"):
        read_megatron(tmp_path / "data")


class Slow(Counted):
    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        time.sleep(0.05)
        return super().encode_batch(texts)


def test_the_second_writer_waits_and_uses_what_the_first_wrote(make_corpus, tmp_path) -> None:
    pattern, tokenizers, lines = make_corpus(5), [Slow(), Slow()], []
    threads = [
        threading.Thread(
            target=write_store,
            args=(pattern, tmp_path / "cache", t),
            kwargs={"report": lines.append},
        )
        for t in tokenizers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(t.calls for t in tokenizers) == [0, 5]
    assert sum("another process" in line for line in lines) == 1


FILES = ["tokens.bin", "offsets.npy", "text_hashes.npy", "names.jsonl", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_store_is_one_line_that_names_file_and_fix(
    make_corpus, tmp_path, name, damage
) -> None:
    folder = write_store(make_corpus(3), tmp_path / "cache").folder
    path = folder / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    with pytest.raises(UserError, match=name) as error:
        write_store(f"{tmp_path}/corpus/*.txt", tmp_path / "cache")
    assert "\n" not in str(error.value)
    if name != "manifest.json" or damage != "gone":
        assert f"delete {folder}" in str(error.value)


def test_large_files_are_hashed_once_and_when_they_change(
    make_corpus, tmp_path, monkeypatch
) -> None:
    folder = write_store(make_corpus(3), tmp_path / "cache").folder
    tokens = folder / "tokens.bin"
    hashed = []
    original = manifests.file_sha256
    monkeypatch.setattr(
        manifests, "file_sha256", lambda path: hashed.append(path.name) or original(path)
    )
    monkeypatch.setattr(manifests, "HASHED_AT_OPEN", tokens.stat().st_size - 1)
    for count in (1, 1, 1):
        TokenStore.open(folder)
        assert hashed.count("tokens.bin") == count
    assert hashed.count("offsets.npy") == 3  # the small ones every time
    data = bytearray(tokens.read_bytes())
    data[5] ^= 1
    tokens.write_bytes(data)
    for _ in range(2):
        with pytest.raises(UserError, match="tokens.bin: does not match"):
            TokenStore.open(folder)
    data[5] ^= 1
    tokens.write_bytes(data)
    TokenStore.open(folder)
    # a bit that rots beneath an unchanged time is found where all is read again
    time = tokens.stat().st_mtime_ns
    data[5] ^= 1
    tokens.write_bytes(data)
    os.utime(tokens, ns=(time, time))
    with pytest.raises(UserError, match="tokens.bin: does not match"):
        TokenStore.open(folder, full=True)
    tokens.write_bytes(data[:-2])
    with pytest.raises(UserError, match=f"tokens.bin: has {len(data) - 2} bytes instead"):
        TokenStore.open(folder)


# ------------------------------------------------------------------------------ files of elsewhere


def write_megatron(
    base: Path, documents: list[list[list[int]]], dtype: str, code: int, skip: int = 0
) -> None:
    """Documents as lists of sequences, by the format's definition; `skip` tokens come before."""
    sequences = [s for document in documents for s in document]
    with open(f"{base}.bin", "wb") as file:
        file.write(bytes(skip * np.dtype(dtype).itemsize))
        for sequence in sequences:
            file.write(np.array(sequence, dtype).tobytes())
    sizes = [len(s) for s in sequences]
    places = [(skip + sum(sizes[:i])) * np.dtype(dtype).itemsize for i in range(len(sizes))]
    first = [sum(map(len, (d for d in documents[:i]))) for i in range(len(documents) + 1)]
    with open(f"{base}.idx", "wb") as file:
        file.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(sizes), len(first)))
        file.write(struct.pack(f"<{len(sizes)}i", *sizes))
        file.write(struct.pack(f"<{len(places)}q{len(first)}q", *places, *first))


@pytest.mark.parametrize(
    ("dtype", "code", "skip"), [("int32", 4, 0), ("uint16", 8, 2), ("int64", 5, 0)]
)
def test_megatron(tmp_path, dtype, code, skip) -> None:
    parts = [[[1, 2, 3], [4]], [], [[5, 6]], [[7], [8], [9]]]
    write_megatron(tmp_path / "data", parts, dtype, code, skip)
    for name in ("data", "data.bin", "data.idx"):
        documents = read_megatron(tmp_path / name)
        found = [documents.document(i).tolist() for i in range(len(documents))]
        assert found == [[1, 2, 3, 4], [5, 6], [7, 8, 9]]
    index = (tmp_path / "data.idx").read_bytes()
    (tmp_path / "data.idx").write_bytes(index[:-3])
    with pytest.raises(UserError, match="shorter"):
        read_megatron(tmp_path / "data")
    (tmp_path / "data.idx").write_bytes(b"X" + index[1:])
    with pytest.raises(UserError, match="MMIDIDX"):
        read_megatron(tmp_path / "data")
    (tmp_path / "data.idx").write_bytes(index)
    (tmp_path / "data.bin").write_bytes((tmp_path / "data.bin").read_bytes()[:-1])
    with pytest.raises(UserError, match="shorter"):
        read_megatron(tmp_path / "data")


def test_nanogpt(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        "jaxlm.data.store.foreign.SCAN", 4
    )  # documents end across pieces of the file
    path = tmp_path / "train.bin"
    np.array([5, 6, 0, 7, 0, 0, 8, 9, 9, 9, 9], np.uint16).tofile(path)
    one, many = read_nanogpt(path), read_nanogpt(path, eos_id=0)
    assert one.document(0).tolist() == [5, 6, 0, 7, 0, 0, 8, 9, 9, 9, 9] and len(one) == 1
    found = [many.document(i).tolist() for i in range(len(many))]
    assert found == [[5, 6, 0], [7, 0], [0], [8, 9, 9, 9, 9]]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="do not divide into uint16"):
        read_nanogpt(path)


@pytest.mark.parametrize(
    ("magic", "version", "dtype"), [(20240520, 1, "uint16"), (20240801, 7, "uint32")]
)
def test_llmc_header(tmp_path, magic, version, dtype) -> None:
    path, ids = tmp_path / "train.bin", [5, 6, 0, 7, 8]

    def write(*head: int) -> None:
        header = np.zeros(256, np.int32)
        header[:3] = head
        path.write_bytes(header.tobytes() + np.array(ids, dtype).tobytes())

    write(magic, version, len(ids))
    documents = read_nanogpt(path, eos_id=0)
    assert [documents.document(i).tolist() for i in range(2)] == [[5, 6, 0], [7, 8]]
    assert id_range(documents.tokens) == (0, 8)
    write(magic, version, len(ids) + 1)
    with pytest.raises(UserError, match="header says 6 tokens"):
        read_nanogpt(path)
    write(magic, 3, len(ids))
    with pytest.raises(UserError, match="version 3; known: 1 and 7"):
        read_nanogpt(path)


def test_other_files_are_not_read_as_ids(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(8, np.uint16))
    with pytest.raises(UserError, match="is a NumPy file"):
        read_nanogpt(tmp_path / "a.npy")


def test_token_data(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for name, size in (("train", 500), ("val", 90)):
        rng.integers(0, 256, size).astype(np.uint16).tofile(tmp_path / f"{name}.bin")
    data = TokenData(
        path=f"{tmp_path}/train.bin",
        validation_path=f"{tmp_path}/val.bin",
        format="nanogpt",
        seq_len=16,
    )
    prepared = data.prepare(Bytes(), tmp_path / "cache", report=quiet)
    rows = prepared.rows("validation", batch_size=1, seed=0)
    flat = [t for i in range(rows.rows_per_epoch) for t in rows[i]["tokens"][:16].tolist()]
    assert flat[:89] == np.fromfile(tmp_path / "val.bin", np.uint16)[:89].tolist()
    with pytest.raises(UserError, match="no tokenizer can be trained"):
        data.prepare(Characters(), tmp_path / "cache", report=quiet)
    np.array([3, 4, 259] * 20, np.uint16).tofile(tmp_path / "train.bin")
    with pytest.raises(UserError, match="ids from 3 to 259, the tokenizer has 259"):
        data.prepare(Bytes(), tmp_path / "cache", report=quiet)
    with pytest.raises(UserError, match="one document cannot be split"):
        data.replace(validation_path=None, path=f"{tmp_path}/val.bin").prepare(
            Bytes(), tmp_path / "cache", report=quiet
        )


def test_a_store_of_ours_is_token_data_too(make_corpus, tmp_path) -> None:
    store = write_store(make_corpus(20), tmp_path / "cache")
    data = TokenData(path=str(store.folder), format="jaxlm", seq_len=16, validation_fraction=0.3)
    prepared = data.prepare(Bytes(), tmp_path / "cache", report=quiet)
    counts = [prepared.splits[name].counts["documents"] for name in ("train", "validation")]
    assert sum(counts) == 20 and min(counts) > 0


# --------------------------------------------------------------------------------------- the split


def test_the_split_is_near_its_fraction_and_moves_with_the_salt() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, 20_000).astype(np.uint64)
    masks = [held_out(hashes, 0.1, salt, "name") for salt in (0, 1)]
    for mask in masks:
        assert abs(mask.mean() - 0.1) < 0.01
    assert abs((masks[0] & masks[1]).mean() - 0.01) < 0.005
    more = held_out(hashes, 0.2, 0, "name")
    assert (more | masks[0] == more).all()  # a larger fraction only adds


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.5, 0.999999999])
def test_both_sides_get_a_document(fraction) -> None:
    for first in range(30):
        mask = held_out(np.array([first, first + 7, first], np.uint64), fraction, 0, "name")
        assert mask.any() and not mask.all() and mask[0] == mask[2]


def test_one_document_cannot_be_split(make_corpus, tmp_path) -> None:
    data = TextData(source=TextFiles(files=(make_corpus(1),)), seq_len=8)
    with pytest.raises(UserError, match="validation_fraction: 0"):
        data.prepare(Bytes(), tmp_path / "cache", report=quiet)
    prepared = data.replace(validation_fraction=0.0).prepare(Bytes(), tmp_path / "c", report=quiet)
    assert list(prepared.splits) == ["train"]
    with pytest.raises(UserError, match="validation"):
        prepared.rows("validation", batch_size=1, seed=0)


class Spy(Bytes):
    """Bytes, after a look at the texts that it was to be trained on."""

    seen: list[str] = []  # noqa: RUF012

    def build(self, texts, corpus_fingerprint, cache_dir):
        self.seen[:] = texts()
        return ByteTokenizer()


@pytest.mark.parametrize("split_by", ["name", "text"])
def test_the_tokenizer_sees_the_training_split_only(make_corpus, tmp_path, split_by) -> None:
    spy: TokenizerConfig = Spy()
    source = TextFiles(files=(make_corpus(20),))
    data = TextData(source=source, validation_fraction=0.3, split_by=split_by, seq_len=8)
    prepared = data.prepare(spy, tmp_path / "cache", report=quiet)
    trained = {
        prepared.tokenizer.decode(documents.document(i).tolist())
        for documents in [prepared.splits["train"].documents]
        for i in range(len(documents))
    }
    assert set(Spy.seen) == trained and 0 < len(trained) < 20


def test_equal_texts_on_one_side_by_text(make_corpus, tmp_path) -> None:
    make_corpus(20)
    for path in (tmp_path / "corpus").iterdir():
        path.with_suffix(".copy.txt").write_bytes(path.read_bytes())
    source = TextFiles(files=(f"{tmp_path}/corpus/*.txt",))
    data = TextData(source=source, split_by="text", validation_fraction=0.4, seq_len=8)
    prepared = data.prepare(Bytes(), tmp_path / "cache", report=quiet)
    sides = [
        {d.document(i).tobytes() for i in range(len(d))}
        for d in (prepared.splits[s].documents for s in ("train", "validation"))
    ]
    assert not sides[0] & sides[1] and sum(map(len, sides)) == 20


def test_a_validation_source_of_its_own(make_corpus, tmp_path) -> None:
    train, held = make_corpus(4, "train"), make_corpus(2, "held")
    lines: list[str] = []
    data = TextData(
        source=TextFiles(files=(train,)), validation=TextFiles(files=(held,)), seq_len=8
    )
    prepared = data.prepare(Bytes(), tmp_path / "cache", report=lines.append)
    assert prepared.splits["train"].counts["documents"] == 4
    assert prepared.splits["validation"].counts["documents"] == 2
    assert any("2 of 2 validation texts are in the training source" in line for line in lines)
    assert json.dumps(prepared.manifest)
    assert set(prepared.manifest["stores"]) == {"train", "validation"}


def test_longer_than_the_store(make_corpus, tmp_path) -> None:
    data = TextData(source=TextFiles(files=(make_corpus(4),)), seq_len=10**6)
    with pytest.raises(UserError, match="longer than the whole training split .* set seq_len"):
        data.prepare(Bytes(), tmp_path / "cache", report=quiet)


def test_mistakes_in_the_config() -> None:
    source = TextFiles(files=("x",))
    with pytest.raises(UserError, match="exactly one"):
        TextData().validate()
    with pytest.raises(UserError, match="exactly one"):
        TextData(source=source, sources={"a": source}).validate()
    with pytest.raises(UserError, match="packing: split"):
        TextData(source=source, order="stream", packing="whole").validate()
