"""What the analytic model knows of a model: stacks of layers, and what each does with its tokens.

    stacks = stacks_of(config.model, params, Rows(length=512))
    stacks[0].layers[0].maps, stacks[0].looks

A model is a list of stacks, the one that writes first. A stack has rows of one length, which all of
its layers see; a linear map may see another's (cross-attention's keys are of the source). What a
kind of model consists of, the kind says itself: a function that is registered for its config, from
its parameters and the lengths of its rows. Nothing here knows a mesh.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxlm.core.config import UserError, type_name
from jaxlm.mesh import RULES
from jaxlm.nn.moe import MoEConfig
from jaxlm.nn.stack import Remat
from jaxlm.plan.memory import group_of

Sizes = tuple[tuple[str | None, float], ...]  # (axis, size) of what there is of a token


@dataclass(frozen=True)
class Array:
    """An array of the state."""

    path: str
    shape: tuple[int, ...]
    itemsize: int
    axes: tuple[str | None, ...]
    on_host: bool = False

    @property
    def group(self) -> str:
        return group_of(self.path)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def layered(self) -> bool:
        """Whether it is of several layers, one behind the other."""
        return bool(self.axes) and self.axes[0] == "layers"

    def part(self, mesh: Mapping[str, int], *, without: Sequence[str] = ()) -> float:
        """The elements that one device holds."""
        return math.prod(
            -(-size // ways(axis, mesh, without))
            for size, axis in zip(self.shape, self.axes, strict=True)
        )


@dataclass(frozen=True)
class LinearMap:
    """A linear map of a layer, or of all layers of a run of equal ones."""

    array: Array
    makes: str  # the tensor that it makes
    layers: int
    share: float  # of its weights that a token meets: experts per token / experts
    outputs: Sizes  # (axis, size) of what it makes of a token
    inputs: Sizes
    length: int  # of the rows whose tokens it sees
    steps: int = 1  # of a loop over time that it stands in, whole on every device
    gathered: bool = False  # what tensor splits of what it makes is gathered at once

    @property
    def weights(self) -> float:
        """Of one layer."""
        return self.array.size / self.layers


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the tokens of a stack look at those of their own row, or of a source."""

    layers: int  # that look so
    keys: float  # that a token meets, summed over the layers
    all_keys: float  # the same, were none left out for standing behind
    keys_length: int  # of the rows that are looked at
    score_flops: float  # a token and a key that it meets, of one layer
    num_heads: int
    tensors: Mapping[str, Sizes]  # query, key, value and attention, of a token that looks
    itemsize: int
    prefix: bool = False  # whether all of a row may look at its first tokens
    same_rows: bool = True  # at its own row
    context: str = "auto"  # how it meets the keys of a length that is split
    asked: Mapping[str, Any] = field(default_factory=dict)  # of `attention_kernels.pick`

    @property
    def head_dims(self) -> tuple[int, int]:
        """Sizes of a query's and of a value's vector, of one head."""
        return int(self.tensors["query"][-1][1]), int(self.tensors["attention"][-1][1])

    def met(self, block: float) -> float:
        """`keys` where blocks of so many are met whole, of which the border halves one."""
        return min(self.keys + self.layers * block / 2, float(self.layers * self.keys_length))


@dataclass(frozen=True)
class Layers:
    """Neighbouring layers of one kind."""

    count: int
    maps: tuple[LinearMap, ...]
    tensors: Mapping[str, Sizes]  # name -> (axis, size) of a token, as remat knows them
    experts: MoEConfig | None
    others: Sequence[Mapping[str, Sizes]] = ()  # those of a second attention: under the same names
    gathered: float = 0.0  # numbers of a token that are gathered along tensor, beside its maps'


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers that rows of one length pass, and that keep alike what they make."""

    path: str  # of the config that has its remat
    remat: Remat
    length: int
    hidden: int
    layers: tuple[Layers, ...]
    looks: tuple[Look, ...] = ()
    norm_follows: bool = False  # a norm reads what each part adds
    period: int = 1  # layers after which they are the same again
    table: str = "embed/table"  # whose rows, those of its tokens, enter it
    splits_stream: bool = True  # tensor splits the stream between its parts along the length
    splits_length: bool = True  # context splits the rows
    policies: tuple[str, ...] = ("none", "minimal", "dots", "named", "full")  # of remat

    @property
    def count(self) -> int:
        return sum(layers.count for layers in self.layers)

    @property
    def parts(self) -> int:
        """Of a layer, that add to the stream: each way of looking, and the ffn."""
        return len(self.looks) + 1


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows that a batch has."""

    length: int
    source: int | None = None  # tokens of the text that is read first
    prefix: bool = False


Describe = Callable[[Any, Sequence[Array], Rows], tuple[Stack, ...]]
_KINDS: dict[type, Describe] = {}


class UnknownModel(UserError):
    """A model that the analytic model does not know."""


def describes(kind: type) -> Callable[[Describe], Describe]:
    """Registers what says of which stacks the models of a config consist, the one that writes
    first.
    """

    def register(function: Describe) -> Describe:
        _KINDS[kind] = function
        return function

    return register


def stacks_of(model: Any, params: Sequence[Array], rows: Rows) -> tuple[Stack, ...]:
    """Raises `UnknownModel` for a kind that nobody describes."""
    check_known(model)
    return _KINDS[type(model)](model, params, rows)


def check_known(model: Any) -> None:
    """Raises `UnknownModel` for a kind of model that nobody describes."""
    if type(model) not in _KINDS:
        raise UnknownModel(
            f"model: the analytic model does not know a {type_name(type(model))}; "
            "plan it for a TPU topology, where the step is compiled"
        )


def ways(axis: str | None, mesh: Mapping[str, int], without: Sequence[str] = ()) -> int:
    """Into how many parts a mesh splits a logical axis."""
    rule = RULES[axis] if axis is not None else None
    names = (rule,) if isinstance(rule, str) else (rule or ())
    return math.prod(mesh.get(name, 1) for name in names if name not in without)


def token_part(sizes: Sizes, mesh: Mapping[str, int]) -> float:
    """Of a token's tensor the elements that one device holds."""
    return math.prod(size / ways(axis, mesh) for axis, size in sizes)
