"""What the tests of bags of words have in common: the texts of the golden file (made by
tools/make_golden_bow.py) as batches.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jaxlm.models.bag_of_words import BagOfWordsConfig

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "bow" / "golden.json").read_text())
CLASSES = ("a", "b", "c")
LENGTH = 48


def batch_of(tokenizer: Any, texts: list[str], labels: list[int]) -> dict[str, np.ndarray]:
    """The texts, and a row of padding, which does not count."""
    ids = [tokenizer.encode(text) for text in texts]
    tokens = np.zeros((len(ids) + 1, LENGTH), np.int32)
    for row, own in enumerate(ids):
        tokens[row, : len(own)] = own
    sizes = np.array([*map(len, ids), 0])
    segments = (np.arange(LENGTH) < sizes[:, None]).astype(np.int32)
    rows = np.arange(len(sizes), dtype=np.int32)
    return {
        "tokens": tokens,
        "segment_ids": segments,
        "positions": np.zeros_like(tokens),
        "labels": np.array([*labels, 0], np.int32),
        "example_weights": (sizes > 0).astype(np.float32),
        "row": rows,
    }


def training_batch(tokenizer: Any) -> dict[str, np.ndarray]:
    return batch_of(tokenizer, GOLDEN["texts"], GOLDEN["labels"])


def asked_batch(tokenizer: Any) -> dict[str, np.ndarray]:
    return batch_of(tokenizer, GOLDEN["asked"], [0] * len(GOLDEN["asked"]))


def order_of(tokenizer: Any) -> np.ndarray:
    """The ids of the golden file's features."""
    return np.array([tokenizer.id_of(gram) for gram in GOLDEN["names"]])


def model_of(objective: Any, tokenizer: Any, **settings: Any) -> Any:
    config = BagOfWordsConfig(vocab_size=tokenizer.vocab_size, **settings)
    return objective.build_model(config, rngs=nnx.Rngs(0))


def dense(bag: Any, size: int) -> np.ndarray:
    """[B, F]: the weights of all features in each row."""
    found = np.zeros((len(bag.ids), size))
    for row, (ids, weights) in enumerate(zip(bag.ids, bag.weights, strict=True)):
        np.add.at(found[row], np.asarray(ids), np.asarray(weights))
    return found
