"""A row of the table that maps a family's parameters to a file's tensors.

A row of the table names one tensor of a file, the parameters of ours that are in it, and how the
dims go, in the notation of einops:

    Tensor("model.layers.{layer}.self_attn.q_proj.weight",
           "layers/attention/query/kernel", "(N H) D -> D N H")

The left side is the file's tensor, the right side our parameter without its leading dims of layers
and experts: one tensor of the file for each {layer} and {expert}. Several parameters in one tensor
are concatenated along its dim `dim`:

    Tensor("h.{layer}.attn.c_attn.weight",
           ("layers/attention/query/kernel", "layers/attention/key/kernel", ...),
           "D (N H) -> D N H", dim=1)

A row is a permutation of elements, so reading what was written gives every byte back.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxlm.core.config import UserError, type_name
from jaxlm.core.errors import shown

P = TypeVar("P")


class Rearrangement(NamedTuple):
    """The mapping of a file tensor's dims to those of our parameter, and back."""

    left: tuple[tuple[str, ...], ...]  # names of each dim of the file's tensor, factors in order
    right: tuple[str, ...]  # names of each dim of our parameter

    @classmethod
    def parse(cls, text: str) -> Rearrangement:
        """From "(N H) D -> D N H"."""
        left, right = text.split("->")
        groups = re.findall(r"\(([^)]*)\)|(\S+)", left)
        found = cls(
            tuple(tuple((a or b).split()) for a, b in groups),
            tuple(right.split()),
        )
        assert sorted(n for g in found.left for n in g) == sorted(found.right), text
        return found

    def file_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape in the file of a parameter of our `shape`."""
        size = dict(zip(self.right, shape, strict=True))
        return tuple(prod(size[name] for name in group) for group in self.left)

    def read(self, array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """The file's tensor as our parameter of `shape`; a view where that can be."""
        size = dict(zip(self.right, shape, strict=True))
        names = [name for group in self.left for name in group]
        wide = array.reshape([size[name] for name in names])
        return wide.transpose([names.index(name) for name in self.right])

    def write(self, array: np.ndarray) -> np.ndarray:
        """Our parameter as the file's tensor."""
        names = [name for group in self.left for name in group]
        wide = array.transpose([self.right.index(name) for name in names])
        return wide.reshape(self.file_shape(array.shape))


@dataclass(frozen=True)
class Tensor:
    """One row of a family's table; see the module's docstring."""

    name: str  # in the file, with {layer} and {expert}
    paths: str | tuple[str, ...]  # "/"-paths of our parameters
    layout: str
    dim: int = 0  # the dim of the file's tensor along which several parameters are concatenated
    optional: bool = False  # a file may store it a second time, such as a tied head
    first_layer: int = 0  # the file's {layer} of the first layer that the paths name

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.paths,) if isinstance(self.paths, str) else self.paths

    @property
    def rearrangement(self) -> Rearrangement:
        return Rearrangement.parse(self.layout)


def part_of(part: Any, cls: type[P], where: str) -> P:
    """`part` as a `cls`; raises `UserError` if the family's format cannot express it."""
    if not isinstance(part, cls):
        raise UserError(
            f"model.{where}: {type_name(type(part))} has no place in this family's config.json; "
            "export as another family (--family), or train with another part"
        )
    return part


def one_of(values: Mapping[str, Any], key: str, known: Mapping[Any, Any], default: Any) -> Any:
    """Our name for a word of a config.json; raises `UserError` for an unknown word."""
    word = values.get(key, default)
    if not isinstance(word, Hashable) or word not in known:
        raise UserError(
            f"config.json: {key} is {shown(word)}; known are {', '.join(map(str, known))}"
        )
    return known[word]
