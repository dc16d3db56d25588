"""What other implementations compute for small models of each family, and the weights they had.

tools/make_golden_families.py ran them and wrote tests/fixtures/families/<case>.npz. A file holds no
weights: `weights` draws each tensor from (seed, name), so that the tool and the tests have the
same. It also holds no large arrays but projections of them, drawn the same way:

    case = load_case("llama_gqa_tied")
    case.config                     # the model's config.json
    case.weights()                  # {name in model.safetensors: float32 array}
    case.arrays["logits_sketch"]    # [2, 320, 8]; close to sketch(logits, 8, case.seed)
    case.gradients()                # {name: close to gradient_sketch(name, gradient, case.seed)}
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FIXTURES = Path(__file__).parents[1] / "fixtures" / "families"
CASES = sorted(path.stem for path in FIXTURES.glob("*.npz"))

# What a tensor is like: its shape and, if it is a vector, the value that a fresh model has there.
Tensors = Mapping[str, tuple[tuple[int, ...], float]]

EMBEDDING = re.compile("embed|wte|wpe|^shared")  # in the names of embeddings
ROWS, LENGTH = 2, 320
DOCUMENTS = ((0, 0, 320), (1, 0, 150), (1, 150, 250))  # row, start, end; then padding


@dataclass(frozen=True)
class Case:
    """One model, and what it computed."""

    name: str
    config: dict[str, Any]  # as transformers writes config.json today
    published: dict[str, Any]  # the same model as the config.json of older checkpoints says it
    tensors: Tensors  # in the order in which `gradients` are stored
    seed: int
    arrays: dict[str, np.ndarray]

    def weights(self) -> dict[str, np.ndarray]:
        return weights(self.tensors, self.seed)

    def gradients(self) -> dict[str, np.ndarray]:
        """The loss's gradient as one vector a tensor: what `gradient_sketch` makes of it."""
        sizes = [gradient_size(shape) for shape, _ in self.tensors.values()]
        parts = np.split(self.arrays["gradients"], np.cumsum(sizes)[:-1])
        return dict(zip(self.tensors, parts, strict=True))


def load_case(name: str, folder: Path = FIXTURES) -> Case:
    with np.load(folder / f"{name}.npz") as file:
        arrays = dict(file)
    case = json.loads(str(arrays.pop("case")))
    tensors = {key: (tuple(shape), base) for key, (shape, base) in case.pop("tensors").items()}
    return Case(name=name, tensors=tensors, arrays=arrays, **case)


def save_case(case: Case, folder: Path = FIXTURES) -> Path:
    keys = ("config", "published", "tensors", "seed")
    text = json.dumps({key: getattr(case, key) for key in keys})
    path = folder / f"{case.name}.npz"
    np.savez_compressed(path, case=np.array(text), **case.arrays)
    return path


def weights(tensors: Tensors, seed: int) -> dict[str, np.ndarray]:
    """Every tensor off its fresh value, and matrices of a size that keeps signals near 1.

    Those of the layers are larger than those of the embeddings, so that the text and not the last
    token alone decides what comes next. Queries of a gated T5 are smaller: nothing divides their
    scores, and what its products make of rounding would hide what is compared.
    """
    drawn, gated_t5 = {}, any(".DenseReluDense.wi_0." in name for name in tensors)
    for name, (shape, base) in tensors.items():
        scale = 0.05 if len(shape) < 2 else shape[-1] ** -0.5
        if len(shape) > 1 and not EMBEDDING.search(name):
            scale *= 0.5 if gated_t5 and name.endswith(".q.weight") else 1.5
        drawn[name] = (base + scale * _draws(name, seed).normal(size=shape)).astype(np.float32)
    return drawn


def layout() -> tuple[np.ndarray, np.ndarray]:
    """Segment ids and positions of the decoders' rows, both [2, 320] int32.

    Row 0 is one document; row 1 is two and padding, whose segment id is 0. Positions start at 0 in
    each document.
    """
    segment_ids, positions = np.zeros((2, ROWS, LENGTH), np.int32)
    for row, start, end in DOCUMENTS:
        segment_ids[row, start:end] = segment_ids[row].max() + 1
        positions[row, start:end] = np.arange(end - start)
    return segment_ids, positions


def sketch(x: np.ndarray, size: int, seed: int) -> np.ndarray:
    """[..., D] -> [..., size], by a random matrix that keeps the scale of x."""
    matrix = np.random.default_rng(seed).normal(size=(x.shape[-1], size)) * x.shape[-1] ** -0.5
    return (x.astype(np.float64) @ matrix).astype(np.float32)


def gradient_sketch(name: str, gradient: np.ndarray, seed: int) -> np.ndarray:
    """A vector as it is; of a matrix [M, N], its product with a random vector of each side: [M+N].

    More dimensions than two are seen as [first, all others].
    """
    if gradient.ndim < 2:
        return gradient.astype(np.float32)
    matrix = gradient.reshape(len(gradient), -1).astype(np.float64)
    random = _draws(name, seed, 1)
    right, left = random.normal(size=matrix.shape[1]), random.normal(size=matrix.shape[0])
    return np.concatenate([matrix @ right, left @ matrix]).astype(np.float32)


def gradient_size(shape: tuple[int, ...]) -> int:
    size = int(np.prod(shape))
    return size if len(shape) < 2 else shape[0] + size // shape[0]


def _draws(name: str, *seed: int) -> np.random.Generator:
    return np.random.default_rng([*seed, zlib.crc32(name.encode())])
