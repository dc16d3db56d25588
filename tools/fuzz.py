"""Fuzzes the readers of a user's configs and files: no traceback, no hang, no silent change.

    python tools/fuzz.py --seed 0 --seconds 60

Every case is one mistake: a field of a shipped config or of a Hugging Face config.json (see
tools/fuzz_hf.py) with a wrong value, a file with damage, or a tiny run with an odd value that its
config accepts, which is started: its data is prepared and its step is made, but not compiled. It
must end in a `UserError` or be accepted, within `LIMIT` seconds (a start: `START_LIMIT`); a file
with checksums must give an error or the same content as before. The cases depend on the seed and on
the number of seconds only: a slow machine runs the same cases, for longer. Exit code 1 where a case
fails.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from jaxlm.core import config as configs
from jaxlm.core.config import UserError
from jaxlm.data.store.prepared import DataConfig
from jaxlm.data.store.records import RecordStore
from jaxlm.data.store.tokens import TokenStore
from jaxlm.data.tokenizers.base import Bytes, load_tokenizer
from jaxlm.run import RunConfig, load_run
from tools import fuzz_hf

ROOT = Path(__file__).resolve().parents[1]
FINETUNE = ROOT / "configs/finetune"
LIMIT = 10  # seconds for one case
START_LIMIT = 300  # for a run that is started
# for each second that is asked for: measured on two slow cores
FIELD_CASES, FILE_CASES, HF_CASES = 60, 5, 50
SECONDS_A_START = 2  # that are asked for, for each run that is started

WRONG: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    -3,
    3,
    2**31 - 1,
    2**31,
    2**63,
    10**30,
    10**400,
    -(10**30),
    0.0,
    -0.0,
    0.5,
    1.5,
    1e-46,
    0.99999999999,
    1e39,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    "a",
    "a b",
    "é",
    "\U0001f600",
    "a\nb",
    "a\0b",
    "n" * 300,
    "/" * 5000,
    "../..",
    "*[",
    "%s",
    [],
    [[]],
    [None],
    ["a"],
    [1, 2, 3],
    [1] * 2000,
    {},
    {"a": 1},
    {"type": "a"},
    {"0": None},
]


class Failure(NamedTuple):
    """A failure of a case: something that it must not do."""

    case: str
    what: str


class TooLong(BaseException):
    """A case took more than `LIMIT` seconds; not an Exception, so that nothing catches it."""


def attempt(case: str, act: Callable[[], str | None], limit: int | None = None) -> Failure | str:
    """Runs one case; "error" or "accepted" where it is good. `act` returns what is wrong."""

    def stop(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    limit = LIMIT if limit is None else limit
    signal.alarm(limit)
    try:
        wrong = act()
    except UserError as error:
        signal.alarm(0)
        lines = str(error).splitlines()
        good = len(lines) == 1 and len(lines[0]) <= 2000
        return "error" if good else Failure(case, f"an error of {len(lines)} lines: {error}"[:500])
    except TooLong:
        return Failure(case, f"took more than {limit} s")
    except BaseException as error:
        signal.alarm(0)
        place = traceback.extract_tb(error.__traceback__)[-1]
        name = f"{type(error).__name__}: {str(error)[:200]}"
        return Failure(case, f"{name} ({place.filename}:{place.lineno})")
    finally:
        signal.alarm(0)
    return "accepted" if wrong is None else Failure(case, wrong)


# ------------------------------------------------------------------------------------ wrong values


def field_cases(seed: int, count: int) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """`count` cases of a shipped config with one wrong value, each config in turn."""
    rng = random.Random(f"fields {seed}")
    shipped = [(path, load_run(path).config) for path in shipped_runs()]
    shipped += [(path, second_stage(path)) for path in sorted(FINETUNE.glob("*.yaml"))]
    for number in range(count):
        path, config = shipped[number % len(shipped)]
        values = configs.to_dict(config)
        places = list(places_of(values))
        place = places[rng.randrange(len(places))]
        value = WRONG[rng.randrange(len(WRONG))]
        name = f"{path.relative_to(ROOT)} {'.'.join(map(str, place))}={configs.shown(value)}"
        yield name, lambda v=values, p=place, w=value: parse_with(v, p, w)


def shipped_runs() -> list[Path]:
    """The shipped configs that are whole runs."""
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    whole = [p for p in files if "objective" in configs.read_yaml(p).values]
    return [p for p in whole if p.parent.name != "finetune"]


def second_stage(path: Path) -> RunConfig:
    """A config of configs/finetune, on a model as `init.from` would bring it if it has none."""
    own = configs.read_yaml(path).values
    if "tokenizer" in own:
        return load_run(path).config
    kind = "lstm" if "lstm" in path.stem else "transformer"
    first = load_run(ROOT / f"configs/smoke/{kind}.yaml").config
    layer = configs.Layer({"model": configs.to_dict(first.model), "tokenizer": {"type": "bytes"}})
    layer.merge(configs.read_yaml(path))
    layer.values["init"] = {"from": "runs/first"}
    return configs.parse(RunConfig, layer.values)


def places_of(values: Any, place: tuple = ()) -> Iterator[tuple]:
    """The keys of every value in a tree, inner mappings and lists included."""
    if place:
        yield place
    if isinstance(values, dict):
        for key, value in values.items():
            yield from places_of(value, (*place, key))
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from places_of(value, (*place, index))


def parse_with(values: dict, place: tuple, value: Any) -> str | None:
    """Parses the values with another one at a place: what is accepted can be written and read."""
    values = copy.deepcopy(values)
    inner: Any = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = copy.deepcopy(value)
    config = configs.parse(RunConfig, values)
    node = configs.read_overrides([f"run={json.dumps(configs.to_dict(config))}"])
    again = configs.parse(RunConfig, node.values["run"])
    return None if again == config else "is another config after writing and reading"


# ----------------------------------------------------------------------------------- damaged files

TEXT = "".join(f"The {word} is number {n}.\n" for n, word in enumerate(["fox", "dog", "é"] * 40))
ROWS = [{"text": line, "label": "ab"[n % 2]} for n, line in enumerate(TEXT.splitlines())]


def flip(data: bytes, rng: random.Random) -> bytes:
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 1, 8))):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def swap(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.sample(range(len(data) + 1), 2))
    return data[b:] + data[a:b] + data[:a]


def number(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.choice((b"9" * 5000, b"-1", b"1e999", b"\\ud800", b"\0")) + data[at:]


def empty(data: bytes, rng: random.Random) -> bytes:
    return b""


KINDS: dict[str, Callable[[Path], Any]] = {
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "symlink loop": lambda path: path.symlink_to(path.name),
    "missing": lambda path: None,
}


def damage(path: Path, rng: random.Random) -> str:
    """Damages a file in place; returns how."""
    how = rng.choice([flip, flip, cut, swap, number, empty, *KINDS])
    if isinstance(how, str):
        path.unlink()
        KINDS[how](path)
        return how
    data = path.read_bytes()
    path.write_bytes(how(data, rng) if data else b"\0")
    return how.__name__


def sound_files(folder: Path) -> None:
    """One good file of every kind."""
    plain = TEXT.encode()
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)
    cells = "".join(f'"{row["text"]}",{row["label"]}\n' for row in ROWS)
    contents = {
        "text.txt": plain,
        "text.txt.gz": gzip.compress(plain, mtime=0),
        "rows.jsonl": rows.encode(),
        "rows.csv": ("text,label\n" + cells).encode(),
        "rows.tsv": ("text,label\n" + cells).replace(",", "\t").encode(),
        "ids.bin": b"".join(bytes([n, 0]) for n in range(200)) * 20,
        "run.yaml": (ROOT / "configs/smoke/transformer.yaml").read_bytes(),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "rows.parquet")
    (folder / "text.txt.zst").write_bytes(pyarrow.compress(plain, codec="zstd", asbytes=True))
    source = {"type": "text", "files": str(folder / "text.txt")}
    text = data_of({"type": "text", "source": source, "seq_len": 16, **WHOLE})
    table = {"type": "csv", "files": str(folder / "rows.csv")}
    labelled = {"type": "records", "source": table, "task": TASK, "seq_len": 16, **WHOLE}
    for name, data in (("store", text), ("records", data_of(labelled))):
        prepare(data, folder / "cache")
        (store,) = {path.parent for path in (folder / "cache").rglob("manifest.json")}
        store.rename(folder / name)
        shutil.rmtree(folder / "cache")
    Bytes().build(None, "", folder).save(folder / "tokenizer")


WHOLE = {"validation_fraction": 0}
TASK = {"type": "classification"}


def data_of(values: dict) -> DataConfig:
    return configs.parse(DataConfig, values)


def prepare(data: DataConfig, cache: Path) -> None:
    data.prepare(Bytes(), cache, report=lambda line: None)


def read_text(path: Path) -> None:
    source = {"type": "text", "files": str(path)}
    prepare(
        data_of({"type": "text", "source": source, "seq_len": 16, **WHOLE}), path.parent / "cache"
    )


def read_rows(path: Path) -> None:
    kind = {"jsonl": "jsonl", "parquet": "parquet"}.get(path.suffix[1:], "csv")
    source = {"type": kind, "files": str(path), "label_column": "label"}
    prepare(
        data_of({"type": "records", "source": source, "task": TASK, "seq_len": 16, **WHOLE}),
        path.parent / "cache",
    )


def read_ids(path: Path) -> None:
    values = {"type": "tokens", "path": str(path), "format": "nanogpt", "seq_len": 16, **WHOLE}
    prepare(data_of(values), path.parent / "cache")


def read_store(path: Path) -> str:
    store = TokenStore.open(path.parent, full=True)
    return repr({name: array.tolist() for name, array in store.arrays.items()})


def read_records(path: Path) -> str:
    store = RecordStore.open(path.parent, full=True)
    return repr([*store.records(np.arange(store.manifest["records"]))])


def read_tokenizer(path: Path) -> None:
    load_tokenizer(path.parent)


READERS: dict[str, Callable[[Path], Any]] = {
    "text.*": read_text,
    "rows.*": read_rows,
    "ids.bin": read_ids,
    "run.yaml": load_run,
    "store/*": read_store,
    "records/*": read_records,
    "tokenizer/*": read_tokenizer,
}


def file_cases(
    seed: int, count: int, folder: Path
) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """`count` cases of a damaged file, each kind in turn."""
    rng = random.Random(f"files {seed}")
    sound = folder / "sound"
    sound.mkdir()
    sound_files(sound)
    found = [(path, READERS[glob]) for glob in READERS for path in sorted(sound.glob(glob))]
    work = folder / "work"
    contents = {}
    for path, reader in found:  # each is good before it is damaged
        shutil.copytree(sound, work)
        contents[path] = reader(work / path.relative_to(sound))
        shutil.rmtree(work)
    for turn in range(count):
        path, reader = found[turn % len(found)]
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(sound, work)
        target = work / path.relative_to(sound)
        how = damage(target, rng)
        before = contents[path] if reader in (read_store, read_records) else None
        yield (
            f"{path.relative_to(sound)}: {how}",
            lambda t=target, r=reader, b=before: same(r, t, b),
        )


def same(reader: Callable[[Path], Any], path: Path, before: str | None) -> str | None:
    after = reader(path)
    return "is another content, without an error" if before not in (None, after) else None


# ------------------------------------------------------------------------------------------- starts

# Settings of the smallest shipped run that a start reads and a parser cannot check.
STARTED = {
    "data.seq_len": [1, 2, 3, 10**8, 2**31 - 1],
    "data.validation_fraction": [0, 1e-9, 0.999999],
    "data.source.num_documents": [1, 2],
    "data.source.words_per_document": [1],
    "model.vocab_size": [1, 259, 10**9],
    "model.hidden_size": [2, 10**6, 2**31 - 1],
    "model.num_layers": [1, 10**9],
    "optimizer.learning_rate": [1e-30, 1e30],
    "optimizer.clip_norm": [1e-30, 1e30],
    "optimizer.schedule.warmup": [1, 3, 0.999, 10**6],
    "optimizer.weight_decay": [0, 1e30],
    "train.steps": [1],
    "train.batch_size": [1, 3, 10**9, 2**31 - 1],
    "train.accumulation": [2, 3, 10**9],
    "train.prefetch": [0, 10_000],
    "eval.batch_size": [1, 7, 10**9, 2**31 - 1],
    "eval.max_batches": [1, 2**31 - 1],
    "checkpoint.every_steps": [1, 2**31 - 1],
    "mesh.data": [2, 10**6],
    "mesh.tensor": [3],
}


def start_cases(
    seed: int, count: int, folder: Path
) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """`count` cases of a tiny run with one odd value, which is started."""
    rng = random.Random(f"starts {seed}")
    places = [(key, value) for key, values in STARTED.items() for value in values]
    for number, (key, value) in enumerate(rng.sample(places, min(count, len(places)))):
        yield f"{key}={value}", lambda n=number, k=key, v=value: start(folder / f"run{n}", k, v)


def start(run: Path, key: str, value: Any) -> str | None:
    """Starts a run as far as its step, which is not compiled; None where nothing is wrong."""
    from jaxlm.training.session import Session

    words = ["train.steps=2", "optimizer.schedule.warmup=0", "sample.prompts=[]"]
    words += ["data.source.num_documents=20", "data.source.words_per_document=30"]
    words += [f"run_dir={run}", f"cache_dir={run.parent}/cache", f"{key}={value}"]
    resolved = load_run(ROOT / "configs/smoke/transformer.yaml", words)
    Session.open(resolved.config, report=lambda line: None, marks=resolved.marks)
    return None


# ------------------------------------------------------------------------------------------- report


def run(seed: int, seconds: int) -> list[Failure]:
    """Runs the cases, prints what became of them, and returns those that failed."""
    failures: list[Failure] = []
    with tempfile.TemporaryDirectory() as name:
        parts = {
            "Hugging Face's config.json": fuzz_hf.cases(seed, HF_CASES * seconds, WRONG),
            "fields": field_cases(seed, FIELD_CASES * seconds),
            "files": file_cases(seed, FILE_CASES * seconds, Path(name)),
            "starts": start_cases(seed, seconds // SECONDS_A_START, Path(name)),
        }
        for part, cases in parts.items():
            counts: Counter[str] = Counter()
            for case, act in cases:
                outcome = attempt(case, act, START_LIMIT if part == "starts" else None)
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                counts[outcome if isinstance(outcome, str) else "failed"] += 1
            print(f"{part}: {counts.total()} cases, {dict(sorted(counts.items()))}")
    for failure in failures:
        print(f"FAILED {failure.case}: {failure.what}")
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=60, help="about so long on two slow cores")
    arguments = parser.parse_args()
    sys.exit(bool(run(arguments.seed, arguments.seconds)))
