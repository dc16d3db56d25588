"""Runs of word vectors beside gensim's Word2Vec: same words, rows, dimensions, epochs and windows.

    python tools/bench/vectors.py runs/word2vec-1 runs/word2vec-2 --gensim PYTHON --workers 1

PYTHON is an interpreter with gensim 4.4. It trains twice, with two seeds; each seed has its own
order of the rows, as each run of jaxlm has. For each model it prints

    loss         the mean of -log s(x . u) - sum log s(-x . u_k) over pairs of the training text,
                 the same for all models, with 5 negatives each (of negative sampling)
    overlap      of the 10 nearest neighbours of 1,000 words, the share that another model has too
    correlation  of the cosines of 20,000 pairs of words with those of another model
    words/s      of gensim: raw words of the text in all epochs, by second and by second of
                 processor time, without what precedes its first step

With `--speed` it trains both for one epoch, in turn, and prints raw words by second, of processor
time and by the clock. That of jaxlm is the difference from a run of two steps, which has the same
start and end.

gensim against its other seed is the noise that jaxlm against gensim is compared with. gensim takes
the sigmoid from a table of 1,000 entries; with the same table in jaxlm nothing changes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np


def train_gensim(folder: Path, seed: int, workers: int) -> None:
    """Trains on the rows of `folder`, and writes vectors and outputs in the order of its ids."""
    from gensim.models import Word2Vec

    settings = json.loads((folder / "settings.json").read_text())
    given = np.load(folder / "rows.npz")
    rows = np.split(given["tokens"], given["ends"][:-1])
    np.random.RandomState(seed).shuffle(rows)
    texts = [[str(i) for i in row] for row in rows]
    epochs = settings.pop("epochs")
    model = Word2Vec(seed=seed, workers=workers, min_count=1, **settings)
    counts = {str(i): int(c) for i, c in enumerate(given["counts"]) if c}
    model.build_vocab_from_freq(counts)
    begin, used = time.perf_counter(), time.process_time()
    total = sum(map(len, texts))
    model.train(texts, total_examples=len(texts), total_words=total, epochs=epochs)
    wall, used = time.perf_counter() - begin, time.process_time() - used
    order = [model.wv.key_to_index[key] for key in counts]
    outputs = model.syn1 if settings["hs"] else model.syn1neg
    np.savez(
        folder / f"gensim{seed}.npz",
        input=model.wv.vectors[order],
        output=outputs[order] if not settings["hs"] else outputs,
        seconds=[wall, used],
    )


def speed(options: argparse.Namespace, run: Any, folder: Path) -> None:
    """Words by second of processor time and by the clock, of jaxlm and of gensim in turn."""
    import jaxlm

    text = (folder / "settings.json").read_text()
    settings = json.loads(text)
    (folder / "settings.json").write_text(json.dumps({**settings, "epochs": 1}))
    words = len(np.load(folder / "rows.npz")["tokens"])
    epoch = round(run.config.train.steps / settings["epochs"])

    def seconds(steps: int) -> np.ndarray:
        """[2] by the clock, of processor time."""
        shutil.rmtree(folder / "run", ignore_errors=True)
        own = [f"run_dir={folder / 'run'}", "train.epochs=null", f"train.steps={steps}"]
        begin = np.array([time.perf_counter(), time.process_time()])
        with contextlib.redirect_stdout(sys.stderr):
            jaxlm.train(Path(options.runs[0]) / "config.yaml", own)
        return np.array([time.perf_counter(), time.process_time()]) - begin

    seconds(2)  # compiles
    for seed in options.seeds:
        ours = words * (epoch - 2) / epoch / (seconds(epoch) - seconds(2))
        train_beside(options, folder, seed)
        theirs = words / np.load(folder / f"gensim{seed}.npz")["seconds"]
        for name, a, b in zip(("words/s", "words/s of CPU"), ours, theirs, strict=True):
            line = {name: round(a), "gensim": round(b), "ratio": round(a / b, 3)}
            print(json.dumps(line), flush=True)
    (folder / "settings.json").write_text(text)


def train_beside(options: argparse.Namespace, folder: Path, seed: int) -> None:
    own = [str(Path(__file__).resolve()), str(folder), "--train", str(seed)]
    command = [options.gensim, *own, "--workers", str(options.workers)]
    subprocess.run(command, check=True)


def write_rows(run: Any, folder: Path) -> np.ndarray:
    """The rows of a run's training split, without unknown words; the counts of its ids."""
    from jaxlm.training.session import prepare_data

    config = run.config
    split = prepare_data(config, lambda _: None).splits["train"].rows
    counts = np.array(run.tokenizer.counts)
    texts = []
    for i in range(len(split)):
        tokens, segments = split[i]["tokens"][:-1], split[i]["segment_ids"][:-1]
        known = (segments > 0) & (counts[tokens] > 0)
        borders = np.flatnonzero(np.diff(segments[known])) + 1
        texts += [text for text in np.split(tokens[known], borders) if len(text)]
    objective = config.objective
    hierarchical = objective.softmax == "hierarchical"
    settings = {
        "sg": int(type(objective).__name__ == "SkipGram"),
        "hs": int(hierarchical),
        "negative": 0 if hierarchical else objective.negatives,
        "vector_size": config.model.hidden_size,
        "window": objective.window,
        "sample": objective.sample,
        "alpha": config.optimizer.learning_rate,
        "epochs": round(config.train.steps * config.train.batch_size / len(split)),
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    ends = np.cumsum([len(text) for text in texts])
    np.savez(folder / "rows.npz", tokens=np.concatenate(texts), ends=ends, counts=counts)
    return counts


class Fixed:
    """What all models are asked: pairs with negatives, words, and pairs of words."""

    def __init__(self, run: Any, folder: Path) -> None:
        from jaxlm.vectors.sampling import Drawing, keep_probability

        objective, rng = run.config.objective, np.random.RandomState(9)
        given = np.load(folder / "rows.npz")
        tokens, ends, counts = (given[name] for name in ("tokens", "ends", "counts"))
        document = np.searchsorted(ends, np.arange(len(tokens)), "right")
        kept = rng.random_sample(len(tokens)) < keep_probability(counts, objective.sample)[tokens]
        tokens, document = tokens[kept], document[kept]
        center = rng.randint(0, len(tokens), 200_000)
        radius = 1 + rng.randint(0, objective.window, len(center))
        distance = rng.choice([-1, 1], len(center)) * rng.randint(
            1, objective.window + 1, len(center)
        )
        other = np.clip(center + distance, 0, len(tokens) - 1)
        good = (np.abs(distance) <= radius) & (document[center] == document[other])
        good &= center != other
        self.context, self.center = tokens[other][good], tokens[center][good]
        draw = Drawing(counts, objective.power)
        self.negatives = draw(rng.random_sample((good.sum(), 5)))
        self.known = np.flatnonzero(counts > 0)
        frequent = self.known[np.argsort(-counts[self.known], kind="stable")]
        self.asked = frequent[100:3100:3]
        self.pairs = rng.choice(frequent[:5000], (2, 20_000))

    def loss(self, x: np.ndarray, u: np.ndarray) -> float:
        near = np.einsum("pd,pd->p", x[self.context], u[self.center])
        far = np.einsum("pd,pkd->pk", x[self.context], u[self.negatives])
        counts = self.negatives != self.center[:, None]
        return float((np.logaddexp(0, -near) + (np.logaddexp(0, far) * counts).sum(1)).mean())

    def answers(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        cosines = unit[self.asked] @ unit[self.known].T
        cosines[np.arange(len(self.asked)), np.searchsorted(self.known, self.asked)] = -np.inf
        nearest = np.argpartition(-cosines, 10, axis=1)[:, :10]
        return nearest, (unit[self.pairs[0]] * unit[self.pairs[1]]).sum(1)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean([len({*x} & {*y}) / 10 for x, y in zip(a, b, strict=True)]))


def shown(name: str, model: dict[str, np.ndarray], fixed: Fixed, others: dict[str, Any]) -> None:
    nearest, cosines = fixed.answers(model["input"])
    line = {"model": name, "loss": round(fixed.loss(model["input"], model["output"]), 4)}
    for other, (theirs, values) in others.items():
        if other != name:
            line[f"overlap {other}"] = round(overlap(nearest, theirs), 3)
            line[f"correlation {other}"] = round(float(np.corrcoef(cosines, values)[0, 1]), 4)
    if "seconds" in model:
        line |= {"words/s": round(model["words"] / model["seconds"][0])}
        line |= {"words/s of CPU": round(model["words"] / model["seconds"][1])}
    print(json.dumps(line), flush=True)


def compare(options: argparse.Namespace) -> None:
    import jaxlm
    from jaxlm.distributed.threads import limit_threads

    limit_threads(1)  # as `jaxlm train` does
    runs = {path: jaxlm.load(path) for path in options.runs}
    first = next(iter(runs.values()))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(options.keep or made)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "rows.npz").exists():
            write_rows(first, folder)
        if options.speed:
            speed(options, first, folder)
            return
        settings = json.loads((folder / "settings.json").read_text())
        fixed = Fixed(first, folder)
        words = len(np.load(folder / "rows.npz")["tokens"]) * settings["epochs"]
        known = fixed.known
        models: dict[str, dict[str, np.ndarray]] = {}
        for seed in options.seeds:
            path = folder / f"gensim{seed}.npz"
            if not path.exists():
                train_beside(options, folder, seed)
            found = dict(np.load(path))
            size = int(known.max()) + 1
            for name in ("input", "output"):
                whole = np.zeros((size, found[name].shape[1]), np.float32)
                whole[known] = found[name]
                found[name] = whole
            models[f"gensim{seed}"] = found | {"words": words}
        for path, run in runs.items():
            models[path] = {name: np.asarray(table) for name, table in run.params.items()}
        answers = {name: fixed.answers(model["input"]) for name, model in models.items()}
        for name, model in models.items():
            shown(name, model, fixed, answers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="finished runs of the same data")
    parser.add_argument("--gensim", default=sys.executable, help="a Python with gensim")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2], help="gensim's seeds")
    parser.add_argument("--workers", type=int, default=1, help="gensim's threads")
    parser.add_argument("--keep", help="a folder for gensim's models; they are not trained again")
    parser.add_argument("--speed", action="store_true", help="only words by second, one epoch")
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.train is not None:
        train_gensim(Path(chosen.runs[0]), chosen.train, chosen.workers)
    else:
        compare(chosen)
