"""A model as the analytic model sees it: stacks of layers with their maps and attention.

    stacks = stacks_of(config.model, params, Rows(length=512))
    stacks[0].layers[0].maps, stacks[0].looks

A model is a list of stacks, the decoder first. All layers of a stack see rows of one length; a
linear map may see those of another stack (cross-attention's keys are of the source). A function
that is registered for a kind of model describes its stacks, from the parameters and the lengths of
the rows. Nothing here depends on a mesh.
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

Sizes = tuple[tuple[str | None, float], ...]  # (axis, size) of a token's tensor


@dataclass(frozen=True)
class Array:
    """An array of the state."""

    path: str
    shape: tuple[int, ...]
    itemsize: float  # bytes of an element; of a stored kernel with its scales
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
        """Whether it holds the parameters of several stacked layers."""
        return bool(self.axes) and self.axes[0] == "layers"

    def part(self, mesh: Mapping[str, int], *, without: Sequence[str] = ()) -> float:
        """The elements that one device holds."""
        return math.prod(
            -(-size // ways(axis, mesh, without))
            for size, axis in zip(self.shape, self.axes, strict=True)
        )


@dataclass(frozen=True)
class LinearMap:
    """A linear map of a layer, or of all layers of a run of equal layers."""

    array: Array
    makes: str  # name of its output
    layers: int
    share: float  # share of its weights that a token uses: experts per token / experts
    outputs: Sizes  # (axis, size) of its output for a token
    inputs: Sizes
    length: int  # length of the rows whose tokens it sees
    steps: int = 1  # steps of the loop over time that it is in, whole on every device
    gathered: bool = False  # its output, split by tensor, is all-gathered immediately

    @property
    def weights(self) -> float:
        """The number of weights of one layer."""
        return self.array.size / self.layers


@dataclass(frozen=True, kw_only=True)
class Look:
    """One kind of attention of a stack: over its own rows, or over a source."""

    layers: int  # layers with this kind of attention
    keys: float  # keys per query, summed over the layers
    all_keys: float  # the same without a causal mask
    keys_length: int  # length of the rows of the keys
    score_flops: float  # FLOPs of a pair of query and key in one layer
    num_heads: int
    tensors: Mapping[str, Sizes]  # query, key, value and attention, of a token that looks
    itemsize: int
    prefix: bool = False  # whether all of a row may see its first tokens
    same_rows: bool = True  # self-attention: queries and keys are of the same rows
    context: str = "auto"  # the kernel for a split length
    asked: Mapping[str, Any] = field(default_factory=dict)  # arguments of `attention_kernels.pick`

    @property
    def head_dims(self) -> tuple[int, int]:
        """Sizes of a query's and of a value's vector, of one head."""
        return int(self.tensors["query"][-1][1]), int(self.tensors["attention"][-1][1])

    def met(self, block: float) -> float:
        """`keys` if blocks of this size are computed whole; the diagonal halves one block."""
        return min(self.keys + self.layers * block / 2, float(self.layers * self.keys_length))


@dataclass(frozen=True)
class Layers:
    """Neighbouring layers of one kind."""

    count: int
    maps: tuple[LinearMap, ...]
    tensors: Mapping[str, Sizes]  # name -> (axis, size) of a token, as remat knows them
    experts: MoEConfig | None
    others: Sequence[Mapping[str, Sizes]] = ()  # tensors of a second attention, same names
    gathered: float = 0.0  # elements of a token all-gathered along tensor, without its maps'


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers with rows of one length and one remat policy."""

    path: str  # path of the config that has its remat policy
    remat: Remat
    length: int
    hidden: int
    layers: tuple[Layers, ...]
    looks: tuple[Look, ...] = ()
    norm_follows: bool = False  # a norm reads what each part adds
    period: int = 1  # number of layers after which the pattern of layers repeats
    table: str = "embed/table"  # the embedding of its tokens
    splits_stream: bool = True  # tensor splits the stream between its parts along the length
    splits_length: bool = True  # context splits the rows
    policies: tuple[str, ...] = ("none", "minimal", "dots", "named", "full")  # remat policies

    @property
    def count(self) -> int:
        return sum(layers.count for layers in self.layers)

    @property
    def parts(self) -> int:
        """The number of sublayers of a layer: each attention, and the ffn."""
        return len(self.looks) + 1


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows that a batch has."""

    length: int
    source: int | None = None  # length of the encoder's text
    prefix: bool = False


Describe = Callable[[Any, Sequence[Array], Rows], tuple[Stack, ...]]
_KINDS: dict[type, Describe] = {}


class UnknownModel(UserError):
    """A model that the analytic model does not know."""


def describes(kind: type) -> Callable[[Describe], Describe]:
    """Registers the function that describes the stacks of a kind of model, the decoder first."""

    def register(function: Describe) -> Describe:
        _KINDS[kind] = function
        return function

    return register


def stacks_of(model: Any, params: Sequence[Array], rows: Rows) -> tuple[Stack, ...]:
    """The stacks of a model. Raises `UnknownModel` for a kind without a description."""
    check_known(model)
    return _KINDS[type(model)](model, params, rows)


def check_known(model: Any) -> None:
    """Raises `UnknownModel` for a kind of model without a description."""
    if type(model) not in _KINDS:
        raise UnknownModel(
            f"model: the analytic model does not know a {type_name(type(model))}; "
            "plan it for a TPU topology, where the step is compiled"
        )


def ways(axis: str | None, mesh: Mapping[str, int], without: Sequence[str] = ()) -> int:
    """The number of parts that a mesh splits a logical axis into."""
    rule = RULES[axis] if axis is not None else None
    names = (rule,) if isinstance(rule, str) else (rule or ())
    return math.prod(mesh.get(name, 1) for name in names if name not in without)


def token_part(sizes: Sizes, mesh: Mapping[str, int]) -> float:
    """The elements of a token's tensor that one device holds."""
    return math.prod(size / ways(axis, mesh) for axis, size in sizes)
