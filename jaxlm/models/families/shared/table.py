"""From a family's table to the place of every slice of every parameter in a file, and back.

    pieces = locate(family.tensors(config), shapes)          # {path: [Piece, ...]}
    params = read_params(pieces, shapes, arrays.__getitem__)  # {path: array}
    arrays = dict(write_tensors(pieces, params.__getitem__))  # {name: array}

Nothing here knows a family or reads a file; `jaxlm.hf` streams by the same pieces.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlm.models.families.shared.tensor import Rearrangement, Tensor

Shapes = Mapping[str, tuple[int, ...]]  # {"/"-path: shape} of our parameters


@dataclass(frozen=True)
class Piece:
    """A slice of one of our parameters, and its place in a file."""

    path: str  # our parameter
    index: tuple[int, ...]  # its leading indices (layer, expert)
    shape: tuple[int, ...]  # the slice's shape
    name: str  # the file's tensor
    dim: int  # the slice is `start` to `stop` along this dim of the file's tensor
    start: int
    stop: int
    rearrangement: Rearrangement

    @property
    def file_shape(self) -> tuple[int, ...]:
        """The shape of the part of the file's tensor that is this slice."""
        return self.rearrangement.file_shape(self.shape)

    def read(self, tensor: np.ndarray) -> np.ndarray:
        """The slice, from the whole tensor of the file."""
        part = [slice(None)] * tensor.ndim
        if tensor.ndim:
            part[self.dim] = slice(self.start, self.stop)
        return self.rearrangement.read(tensor[tuple(part)], self.shape)


def locate(
    rows: Sequence[Tensor], shapes: Shapes, *, optional: bool = False
) -> dict[str, list[Piece]]:
    """The pieces of every parameter, in the order of their indices.

    `optional`: where the optional tensors repeat them instead.
    """
    found: dict[str, list[Piece]] = {}
    for row in rows:
        if row.optional != optional:
            continue
        rearrangement = row.rearrangement
        own = len(rearrangement.right)
        # A row whose parameters this config does not have (a bias, a norm) is skipped.
        if not all(path in shapes for path in row.parts):
            continue
        stacks = {shapes[path][: len(shapes[path]) - own] for path in row.parts}
        assert len(stacks) == 1, f"{row.name}: parts of {stacks} layers"
        keys = [key for key in ("layer", "expert") if "{" + key + "}" in row.name]
        (stack,) = stacks
        assert len(stack) == len(keys), f"{row.name}: {keys} for leading dims {stack}"
        for index in itertools.product(*map(range, stack)):
            values = dict(zip(keys, index, strict=True))
            if "layer" in values:
                values["layer"] += row.first_layer
            name, start = row.name.format(**values), 0
            for path in row.parts:
                shape = shapes[path][len(stack) :]
                file_shape = rearrangement.file_shape(shape)
                stop = start + (file_shape[row.dim] if file_shape else 1)
                piece = Piece(path, index, shape, name, row.dim, start, stop, rearrangement)
                found.setdefault(path, []).append(piece)
                start = stop
    return found


def tensor_shapes(pieces: Mapping[str, Sequence[Piece]]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every tensor that a file must have."""
    out: dict[str, list[int]] = {}
    for piece in itertools.chain.from_iterable(pieces.values()):
        shape = out.setdefault(piece.name, list(piece.file_shape))
        if shape:
            shape[piece.dim] = max(shape[piece.dim], piece.stop)
    return {name: tuple(shape) for name, shape in out.items()}


def read_params(
    pieces: Mapping[str, Sequence[Piece]],
    shapes: Shapes,
    tensor: Callable[[str], np.ndarray],
) -> dict[str, np.ndarray]:
    """Every parameter, whole; `tensor` gives a tensor of the file by name."""
    out = {}
    for path, parts in pieces.items():
        first = parts[0].read(tensor(parts[0].name))
        whole = np.empty(shapes[path], first.dtype)
        for piece in parts:
            whole[piece.index] = piece.read(tensor(piece.name))
        out[path] = whole
    return out


def write_tensors(
    pieces: Mapping[str, Sequence[Piece]], param: Callable[[str], Any]
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every tensor of the file; `param` gives a parameter by path."""
    by_name: dict[str, list[Piece]] = {}
    for piece in itertools.chain.from_iterable(pieces.values()):
        by_name.setdefault(piece.name, []).append(piece)
    for name, parts in by_name.items():
        parts = sorted(parts, key=lambda piece: piece.start)
        arrays = [p.rearrangement.write(np.asarray(param(p.path)[p.index])) for p in parts]
        yield name, arrays[0] if len(arrays) == 1 else np.concatenate(arrays, parts[0].dim)
