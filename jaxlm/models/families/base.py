"""The description of a model family, and the table that maps its parameters to a file's tensors.

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
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxlm.core.config import UserError, type_name
from jaxlm.core.errors import shown
from jaxlm.core.types import ModelConfig
from jaxlm.models.families.kinds import check_kinds
from jaxlm.models.families.values import Values, refuse_unread_positions

P = TypeVar("P")

HEAD = "lm_head.weight"  # in the families that have classes without a head
# Buffers that any file may hold: what is computed from the config alone.
BUFFERS = (r"\brotary_emb\.inv_freq$", r"\bposition_ids$")


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


@dataclass(frozen=True)
class Family:
    """A family of published models."""

    name: str
    architectures: tuple[str, ...]  # classes of Hugging Face transformers that hold such a model
    from_hf: Callable[[Mapping[str, Any]], ModelConfig]  # config.json -> config; raises UserError
    to_hf: Callable[[Any], dict[str, Any]]  # config -> config.json; raises UserError
    tensors: Callable[[Any], list[Tensor]]  # the table of a config
    presets: Mapping[str, ModelConfig] = field(default_factory=dict)
    num_params: Mapping[str, int] = field(default_factory=dict)  # of each preset, as published
    model_types: tuple[str, ...] = ()  # what config.json's model_type can be; () is the name
    # Patterns of tensors that a file may have besides: masks, and what is not of a language model.
    # "{num_layers}" in a pattern is the number after that of the last layer.
    ignored: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()  # classes that hold it without its head over the vocabulary
    # Keys of config.json that shape nothing, besides those of any family.
    idle: tuple[str, ...] = ()
    prefix: str = ""  # of tensors' names outside of the head; some files leave it out
    older: tuple[tuple[str, str], ...] = ()  # how names end, and how they did in older files
    # The config with what the names of a file's tensors say and its config.json leaves open.
    completed: Callable[[Any, Collection[str]], Any] = lambda config, names: config

    # Classes with a head for a task (`TaskClass`s), and {class: why it is not read} of others.
    tasks: tuple[Any, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes that hold such a model: with its head, without, or with one for a task."""
        return self.architectures + self.bases + tuple(task.name for task in self.tasks)

    def task_called(self, architecture: str) -> Any:
        """The class with a head for a task that has this name; None for another class."""
        return next((task for task in self.tasks if task.name == architecture), None)

    def lacks_head(self, values: Mapping[str, Any], names: Collection[str]) -> bool:
        """Whether neither the class in a config.json nor its file has a head for the vocabulary."""
        base = (values.get("architectures") or [None])[0] in self.bases
        return base and not any(name.endswith(HEAD) for name in names)

    def model_of(self, values: Mapping[str, Any], names: Collection[str]) -> Any:
        """The model of a config.json whose files have tensors of these names.

        For a class without a head, the head is the embedding and not a parameter of its own.
        """
        model = self.completed(self.from_hf(values), names)
        if self.lacks_head(values, names):
            model = model.replace(head=model.head.replace(tied=True))
        return model

    def __post_init__(self) -> None:
        object.__setattr__(self, "from_hf", _complete(self.from_hf))


def _complete(from_hf: Callable[[Mapping[str, Any]], ModelConfig]) -> Any:
    """`from_hf` that turns an absent key, or a value that its arithmetic cannot use, into a
    `UserError`. `Values` record which keys it reads."""

    def read(values: Mapping[str, Any]) -> ModelConfig:
        remembered = values if isinstance(values, Values) else Values(values)
        check_kinds(remembered.plain)
        try:
            config = from_hf(remembered)
            refuse_unread_positions(remembered)
            return config
        except UserError:
            raise
        except KeyError as error:
            said = f"lacks {error.args[0]}"
        except (
            TypeError,
            ZeroDivisionError,
            IndexError,
            ValueError,
            AttributeError,
            OverflowError,
        ) as error:
            said = f"has a value that no such model has ({error})"
        raise UserError(f"config.json: {said}; take the file that came with the model")

    return read


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
