"""The base class of every config, its fields, and what a change of a field means.

@dataclass(frozen=True, kw_only=True)
class AdamW(OptimizerConfig):
    beta1: float = field(0.9, "decay of the first moment", ge=0, lt=1)
"""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Collection
from typing import Any, ClassVar, Literal, TypeVar

from jaxlm.core.kinds import Kind

C = TypeVar("C", bound="Config")
REQUIRED = dataclasses.MISSING
Affects = Literal["weights", "host", "schedule", "loop", "program", "run"]

# What a change of a field means: on resume, and for the compiled step. A field of a config that is
# itself a field has the effects of both.
#
#               on resume                          the compiled step is traced from it
#   weights     refused: it would be another run   yes
#   host        refused                            no: the host alone reads it
#   schedule    allowed, and logged                yes
#   loop        allowed, and logged                no
#   program     allowed                            yes
#   run         allowed                            no
ALLOWED: tuple[Affects, ...] = ("program", "run")
LOGGED: tuple[Affects, ...] = ("schedule", "loop")
UNTRACED: tuple[Affects, ...] = ("host", "loop", "run")


def field(
    default: Any,
    doc: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    path: bool = False,
    affects: Affects | None = None,
) -> Any:
    """A dataclass field with its meaning and the range of its values (or of each element).

    `default` is a value, `REQUIRED`, or a class or function that makes the default. A field without
    an upper or lower bound takes what an int32 or a float32 can hold. `path`: the text names a file
    or a folder. `affects`: what a change of the value means; None: what it means for the field of a
    base class that this one replaces, or "weights".
    """
    assert affects is None or affects in typing.get_args(Affects), affects
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    metadata = {"doc": doc, "bounds": bounds, "path": path, "affects": affects}
    if callable(default) and default is not REQUIRED:
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def key_of(spec: dataclasses.Field) -> str:
    """The YAML key of a field: its name, less the underscore that keeps a Python keyword legal."""
    return spec.name.removesuffix("_")


def default_of(spec: dataclasses.Field) -> Any:
    """The default of a field that has one."""
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    return spec.default


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The base of every config. `kind` is set on the base class of a kind of part.

    In the kind's own folder `type` is what YAML calls the class by, where that is not the name of
    its file. An `abstract` class is not a part itself, but the base of some.
    """

    kind: ClassVar[Kind | None] = None
    type_: ClassVar[str | None] = None
    abstract: ClassVar[bool] = False

    def __init_subclass__(cls, *, type: str | None = None, abstract: bool = False) -> None:
        super().__init_subclass__()
        cls.type_, cls.abstract = type, abstract

    def validate(self) -> None:
        """Checks that no single field can make; raises `UserError`, to which the path is added."""

    def replace(self: C, **changes: Any) -> C:
        return dataclasses.replace(self, **changes)

    def traced(self: C) -> C:
        """The config with each field that the compiled step does not depend on at its default.

        Two configs whose `traced()` are equal have the same program.
        """
        return without(self, UNTRACED)


def affects_of(cls: type[Config], name: str) -> Affects:
    """The effect of changing a field: as the class says, or the nearest base class that says it."""
    for base in cls.__mro__:
        spec = base.__dict__.get("__dataclass_fields__", {}).get(name)
        if spec is not None and spec.metadata.get("affects") is not None:
            return spec.metadata["affects"]
    return "weights"


def without(value: Any, affects: Collection[Affects]) -> Any:
    """A config with each field that `affects` one of these, at any depth, at its default.

    A field without a default is None.
    """
    if isinstance(value, tuple):
        return tuple(without(item, affects) for item in value)
    if isinstance(value, dict):
        return {key: without(item, affects) for key, item in value.items()}
    if not isinstance(value, Config):
        return value
    changes = {}
    for spec in dataclasses.fields(value):
        if affects_of(type(value), spec.name) in affects:
            default = default_of(spec)
            changes[spec.name] = None if default is REQUIRED else default
        else:
            changes[spec.name] = without(getattr(value, spec.name), affects)
    return value.replace(**changes)


def plain_member(member: enum.Enum) -> Any:
    """The plain value of an enum's member: a number or a text as it is, any other by its name."""
    return member.value if isinstance(member, int | float | str) else member.name


def items_of(value: tuple | dict) -> dict:
    return value if isinstance(value, dict) else {str(i): v for i, v in enumerate(value)}


def is_single(value: Any) -> bool:
    """Whether a value is a list of one config, whose fields need no number in dotted paths."""
    return isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], Config)
