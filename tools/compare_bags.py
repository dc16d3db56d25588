"""The accuracy that fastText or scikit-learn reaches on the splits, and with the settings, of a
config of ours.

    pip install scikit-learn==1.9.1; pip install --no-deps fasttext-wheel==0.9.2
    python tools/compare_bags.py configs/classic/fasttext.yaml data.validation_fraction=0.1 \\
        --key data.split_salt --seeds 1 2 3
    python tools/seeds.py ... (the same arguments)          our own accuracy

A config with head `averaged` is compared with fastText, which is given the units of the tokenizer
with spaces between, in one thread; one with head `nbsvm` with `LinearSVC` over the log-count
ratios of the tokenizer's n-grams. fastText's `predict` fails on numpy 2: its inner one is called.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

from jaxlm.core.config import type_name
from jaxlm.evals.split_records import records_of
from jaxlm.run import load_run
from jaxlm.training.session import prepare_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", help="key=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--key", default="data.split_salt", help="the key that they are values of")
    arguments = parser.parse_intermixed_args()
    found = []
    for seed in arguments.seeds:
        words = [*arguments.overrides, f"{arguments.key}={seed}"]
        config: Any = load_run(arguments.config, words).config
        reference = REFERENCES[type_name(type(config.objective.head))]
        found.append(reference(config, prepare_data(config, lambda _: None)))
        print(f"{arguments.key}={seed}: accuracy {found[-1]:.4f}", flush=True)
    spread = f" +- {stdev(found):.4f}" if len(found) > 1 else ""
    print(f"{reference.__name__}: {fmean(found):.4f}{spread}")


def fasttext(config: Any, prepared: Any) -> float:
    """The accuracy of fastText's classifier on the validation split."""
    import fasttext

    def lines(split: str) -> Iterator[tuple[str, str]]:
        for text, label in texts(config, prepared, split):
            units = (unit for unit in prepared.tokenizer.split(text) if unit.strip())
            yield f"__label__{label}", " ".join(units)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.txt"
        # fastText reads them in the order of the file
        ordered = [f"{label} {text}\n" for label, text in lines("train")]
        path.write_text("".join(np.random.default_rng(config.seed).permutation(ordered)))
        model = fasttext.train_supervised(
            str(path),
            dim=config.objective.head.hidden_size,
            lr=config.optimizer.learning_rate / config.train.batch_size,
            epoch=round(config.train.epochs),
            wordNgrams=config.model.ngrams,
            bucket=config.model.buckets,
            minCount=1,
            loss="softmax",
            thread=1,
            verbose=0,
        )
    pairs = [
        (label, model.f.predict(f"{text}\n", 1, 0.0, "strict")[0][1])
        for label, text in lines("validation")
    ]
    return float(np.mean([label == said for label, said in pairs]))


def scikit_learn(config: Any, prepared: Any) -> float:
    """The accuracy of an NBSVM of two classes on the validation split."""
    from scipy.sparse import csr_matrix
    from sklearn.svm import LinearSVC

    def features(split: str) -> tuple[Any, np.ndarray]:
        rows, columns, labels = [], [], []
        for n, (text, label) in enumerate(texts(config, prepared, split)):
            own = {i for i in prepared.tokenizer.encode(text) if i != prepared.tokenizer.unk_id}
            rows += [n] * len(own)
            columns += own
            labels.append(label == prepared.facts["classes"][1])
        shape = len(labels), prepared.tokenizer.vocab_size
        return csr_matrix((np.ones(len(rows)), (rows, columns)), shape), np.array(labels)

    head = config.objective.head
    train, positive = features("train")
    asked, right = features("validation")
    known = np.asarray(train.sum(0))[0] > 0
    p, q = (head.alpha + np.asarray(train[each].sum(0))[0] for each in (positive, ~positive))
    ratios = np.where(known, np.log(p / p[known].sum()) - np.log(q / q[known].sum()), 0)
    machine = LinearSVC(C=head.C, random_state=0).fit(train.multiply(ratios).tocsr(), positive)
    weights = machine.coef_[0]
    between = (1 - head.beta) * np.abs(weights[known]).mean() + head.beta * weights
    said = asked @ (ratios * between) + machine.intercept_[0] > 0
    return float(np.mean(said == right))


def texts(config: Any, prepared: Any, split: str) -> Iterator[tuple[str, str]]:
    """(text, label) of the records of a split."""
    task = config.data.task
    for record in records_of(prepared, split):
        yield record[task.text], record[task.label]


REFERENCES = {"averaged": fasttext, "nbsvm": scikit_learn}

if __name__ == "__main__":
    main()
