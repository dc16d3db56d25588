"""N-gram models beside KenLM: seconds of a build, queries a second, memory of a large build.

    python tools/bench/ngrams.py build LMPLZ TEXT --order 6
    python tools/bench/ngrams.py query ARPA TEXT
    python tools/bench/ngrams.py memory TEXT --tokens 100000000 --order 5
    python tools/bench/ngrams.py runs FOLDER --tokens 10000000

TEXT has a sentence a line, its tokens separated by spaces. `tools/make_golden_ngram.py` builds
lmplz; `query` needs the package kenlm. Both measure the two sides by turns, and print the medians
and their ratio as JSON. `memory` builds a model of TEXT again and again, with a share of the words
drawn at random so that new n-grams keep coming, in a process that imports jax as well, and prints
its peak. `runs` does the same by `jaxlm ngrams` and `jaxlm train`, with a text of 50,000 words by
Zipf's law as one document, in which half of the lines of 20 words come again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from jaxlm.ngrams.arpa import read_arpa, write_arpa
from jaxlm.ngrams.counting import count
from jaxlm.ngrams.on_disk import StoredText, build
from jaxlm.ngrams.smoothing.kneser_ney import KneserNey

DRAWN = 0.25  # share of the words of `memory` that are drawn: 3 of 4 5-grams are then new


def tokens_of(text: Path, words: list[str] | None = None) -> tuple[np.ndarray, list[str]]:
    """(the stream of ids with <s> and </s>, the words); other words than those given are <unk>."""
    ids = {w: i for i, w in enumerate(words or ["<unk>", "<s>", "</s>"])}
    stream: list[int] = []
    with open(text, encoding="utf-8") as lines:
        for line in lines:
            stream.append(ids["<s>"])
            if words is None:
                stream.extend([ids.setdefault(word, len(ids)) for word in line.split()])
            else:
                stream.extend([ids.get(word, ids["<unk>"]) for word in line.split()])
            stream.append(ids["</s>"])
    return np.array(stream, np.int32), list(ids)


def by_turns(sides: dict[str, Callable[[], dict[str, float]]], times: int) -> dict[str, Any]:
    """The medians of what each side measures, A B A B."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(times):
        for name, measure in sides.items():
            found[name].append(measure())
    return {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    }


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Seconds by the clock and of the processor, children included."""

    def processor() -> float:
        spent = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(s.ru_utime + s.ru_stime for s in spent)

    clock, before = time.perf_counter(), processor()
    work()
    return {"seconds": time.perf_counter() - clock, "cpu_seconds": processor() - before}


def measure_build(lmplz: Path, text: Path, order: int, times: int) -> dict[str, Any]:
    """From a file of text to an ARPA file, on both sides."""
    folder = Path(tempfile.mkdtemp())

    def theirs() -> None:
        options = ["-o", str(order), "--discount_fallback", "-S", "20%"]
        with open(text) as given, open(folder / "theirs.arpa", "w") as made:
            command = [str(lmplz), *options]
            subprocess.run(command, stdin=given, stdout=made, stderr=subprocess.DEVNULL, check=True)

    def ours(arpa: bool) -> None:
        stream, words = tokens_of(text)
        counts = count(stream, order=order, vocab_size=len(words), bos=1)
        model = KneserNey().estimate(counts)
        if arpa:
            write_arpa(model, words, folder / "ours.arpa")

    sides = {
        "lmplz": lambda: timed(theirs),
        "jaxlm": lambda: timed(lambda: ours(True)),
        "jaxlm_without_arpa": lambda: timed(lambda: ours(False)),
    }
    found = by_turns(sides, times)
    ratio = {k: found["jaxlm"][k] / found["lmplz"][k] for k in ("seconds", "cpu_seconds")}
    return {"what": "build", "text": text.name, "order": order, **found, "ratio": ratio}


def measure_query(arpa: Path, text: Path, times: int) -> dict[str, Any]:
    """log p of each token of a text, as arrays (ours) and by `full_scores` (theirs)."""
    import kenlm

    other = kenlm.Model(str(arpa))
    with open(text, encoding="utf-8") as file:
        lines = [" ".join(line.split()) for line in file]
    model, words = read_arpa(arpa)
    stream, _ = tokens_of(text, words)
    asked = int((stream != model.bos).sum())

    def theirs() -> float:
        return sum(score for line in lines for score, _, _ in other.full_scores(line))

    totals: dict[str, float] = {}

    def rate(name: str, work: Callable[[], float]) -> dict[str, float]:
        spent = timed(lambda: totals.update({name: work()}))
        return {"tokens_per_cpu_second": asked / spent["cpu_seconds"]}

    def ours() -> float:
        log_p = model.log_probs(stream)
        return float(log_p[stream != model.bos].sum() / np.log(10))

    sides = {"kenlm": lambda: rate("kenlm", theirs), "jaxlm": lambda: rate("jaxlm", ours)}
    found = by_turns(sides, times)
    per_token = {name: total / asked for name, total in totals.items()}
    ratio = found["jaxlm"]["tokens_per_cpu_second"] / found["kenlm"]["tokens_per_cpu_second"]
    return {"what": "query", "tokens": asked, **found, "ratio": ratio, "log10_p": per_token}


def measure_memory(text: Path, tokens: int, order: int, folder: Path, memory: int) -> dict:
    import jax  # noqa: F401, as a whole run has it

    stream, words = tokens_of(text)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokens.bin"
    if not path.exists():
        _write_drawn(stream, len(words), tokens, path)
    del stream
    length = path.stat().st_size // 4
    whole = StoredText(
        path, np.uint32, np.arange(0, length, 1000), np.full(-(-length // 1000), 1000), bos=1,
        fingerprint=f"{text}{tokens}",
    )  # fmt: skip
    whole.lengths[-1] = length - whole.starts[-1]
    whole = StoredText(
        path, np.uint32, whole.starts, whole.lengths, bos=1, fingerprint=whole.fingerprint
    )
    spent = timed(
        lambda: build(
            whole, folder / "model.ngrams", folder=folder / "work", order=order,
            vocab_size=len(words), bos=1, words=words, smoothing=KneserNey(), memory=memory,
            on_unit=lambda name: print(name, _peak(), "MB", file=sys.stderr, flush=True),
        )
    )  # fmt: skip
    size = (folder / "model.ngrams").stat().st_size
    return {"what": "memory", "tokens": len(whole), **spent, "peak_mb": _peak(), "file_bytes": size}


def _write_drawn(stream: np.ndarray, size: int, tokens: int, path: Path) -> None:
    """The stream again and again, its lines in another order and words drawn by their frequency."""
    rng = np.random.default_rng(0)
    words = stream[stream > 2]
    lines = np.split(stream, np.flatnonzero(stream == 1)[1:])
    left = tokens
    with open(path.with_suffix(".tmp"), "wb") as file:
        while left > 0:
            again = np.concatenate([lines[i] for i in rng.permutation(len(lines))])
            drawn = (again > 2) & (rng.random(len(again)) < DRAWN)
            again = np.where(drawn, rng.choice(words, len(again)), again)[:left]
            again.astype(np.uint32).tofile(file)
            left -= len(again)
    os.replace(path.with_suffix(".tmp"), path)


CONFIG = """\
tokenizer: {{type: saved, path: tokenizer}}
data: {{type: tokens, format: nanogpt, path: train.bin, validation_path: val.bin, seq_len: 1024}}
model: {{type: ngram, order: {order}}}
objective: {{type: ngram, memory: {memory}}}
optimizer: null
train: {{epochs: 1, batch_size: 64}}
eval: {{batch_size: 8, baseline: false}}
"""


def measure_runs(folder: Path, tokens: int, order: int, memory: int) -> dict[str, Any]:
    """Peak memory of the two commands that build a model, on the same tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_zipf(folder, tokens)
    (folder / "config.yaml").write_text(CONFIG.format(order=order, memory=memory / 1e9))
    found: dict[str, Any] = {"what": "runs", "tokens": tokens, "memory_mb": memory / 1e6}
    verbs = {
        "ngrams": ["config.yaml", "--out", "model.ngrams", "--memory", str(memory)],
        "train": ["config.yaml", f"run_dir=runs/{tokens}"],
    }
    for verb, words in verbs.items():
        child = subprocess.Popen(["jaxlm", verb, *words], cwd=folder, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0, verb
        found[verb] = {"peak_mb": used.ru_maxrss / 1e3, "cpu_seconds": used.ru_utime}
    found["ngrams"]["file_mb"] = (folder / "model.ngrams").stat().st_size / 1e6
    return found


def _write_zipf(folder: Path, tokens: int, words: int = 50_000) -> None:
    from jaxlm.data.tokenizers.words import WordTokenizer

    WordTokenizer([f"w{i}" for i in range(words)]).save(folder / "tokenizer")
    rng = np.random.default_rng(0)
    ends = np.cumsum(1 / np.arange(1, words + 1))
    pool = np.zeros((0, 20), np.uint16)
    with open(folder / "train.bin", "wb") as file:
        for begin in range(0, tokens, 2_000_000):
            lines = min(tokens - begin, 2_000_000) // 20
            made = 2 + np.searchsorted(ends, rng.random((lines, 20)) * ends[-1]).astype(np.uint16)
            if len(pool):
                again = rng.random(lines) < 0.5
                made[again] = pool[rng.integers(0, len(pool), again.sum())]
            else:
                pool = made
            made.tofile(file)
    pool[:5000].tofile(folder / "val.bin")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["build", "query", "memory", "runs"])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=100_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ngrams")
    parser.add_argument("--memory", type=int, default=400_000_000)
    given = parser.parse_args()
    if given.what == "build":
        found = measure_build(*given.files, given.order, given.times)
    elif given.what == "query":
        found = measure_query(*given.files, given.times)
    elif given.what == "runs":
        found = measure_runs(*given.files, given.tokens, given.order, given.memory)
    else:
        found = measure_memory(*given.files, given.tokens, given.order, given.folder, given.memory)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
