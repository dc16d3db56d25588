"""Checks of config.json in both directions, so that no value is lost silently.

    require(values, {"scale_attn_weights": True})     # raises UserError for any other value
    return checked(values, config, from_hf)           # the end of a family's `to_hf`

`checked` reads the values back and raises `UserError` where they do not give the config. Dropout,
initial values, dtype and the like are a run's and not in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from jaxlm.core.config import UserError, diff
from jaxlm.core.errors import shown
from jaxlm.core.types import ModelConfig
from jaxlm.models.blocks import StackConfig
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.attention import MultiHeadConfig
from jaxlm.nn.ffn import Activation

T = TypeVar("T")
Values = Mapping[str, Any]


def require(values: Values, fixed: Values) -> None:
    """Raises `UserError` for a key of another value than all models of a family have."""
    for key, value in fixed.items():
        if values.get(key, value) != value:
            raise UserError(
                f"config.json: {key} is {shown(values[key])}; known is {value!r} alone, as no "
                "other can be computed here"
            )


def demand(values: Values, keys: Iterable[str]) -> None:
    """Raises `UserError` for a key that is absent or null."""
    for key in keys:
        if values.get(key) is None:
            raise UserError(f"config.json: lacks {key}; take the file that came with the model")


def for_each_layer(values: Values, key: str, num_layers: int) -> list[Any] | None:
    """A list with an item for each layer, or None where it is absent or null.

    Raises `UserError` for a list of another length.
    """
    found = values.get(key)
    if found is not None and len(found) != num_layers:
        raise UserError(
            f"config.json: {key} names {len(found)} layers, but there are {num_layers}; "
            "take the file that came with the model"
        )
    return found


def first_said(values: Values, *keys: str) -> Any:
    """The value of the first key that is there and not null; a zero is a value."""
    for key in keys:
        if values.get(key) is not None:
            return values[key]
    raise KeyError(keys[-1])


def word_of(activations: Mapping[str, Activation], ours: Activation) -> str:
    """Their first word for an activation; raises `UserError` where they have none."""
    words = [theirs for theirs, name in activations.items() if name == ours]
    if not words:
        known = ", ".join(dict.fromkeys(activations.values()))
        raise UserError(
            f"model.ffn.activation: {ours!r} has no place in this family's config.json; choose one "
            f"of {known}, or export as another family (--family)"
        )
    return words[0]


def checked(
    values: dict[str, Any], config: ModelConfig, from_hf: Callable[[Values], ModelConfig]
) -> dict[str, Any]:
    """The values, if reading them gives the config; else a `UserError` that names the field."""
    differences = diff(settled(from_hf(values)), settled(config))
    if differences:
        path, _, rest = differences[0].partition(": ")
        theirs, _, ours = rest.partition(" -> ")
        ours = "what it sets" if ours == "absent" else ours  # a group of fields in place of null
        raise UserError(
            f"model.{path}: {ours} has no place in the config.json of {values['architectures'][0]},"
            f" where it is {theirs}; set it so, or export as another family (--family)"
        )
    return values


def settled(config: Any) -> Any:
    """The config in canonical form: null replaced by its number, layer patterns shortest."""
    if not isinstance(config, StackConfig):
        return config
    c: Any = config
    attention = c.attention.replace(
        window=window_of(list(c.attention.windows), c.num_layers),
        dropout=0.0,
        impl="auto",
        context="auto",
    )
    if isinstance(attention, MultiHeadConfig):
        head_dim = attention.head_size(c.hidden_size)
        attention = attention.replace(
            num_kv_heads=attention.kv_heads,
            head_dim=head_dim,
            scale=float(f"{attention.scale or head_dim**-0.5:.12g}"),
        )
    sized = lambda ffn: ffn.replace(intermediate_size=ffn.width(c.hidden_size))  # noqa: E731
    other = c.other_ffn and c.other_ffn.replace(ffn=sized(c.other_ffn.ffn))
    c = c.replace(attention=attention, ffn=sized(c.ffn), other_ffn=other)
    usual = StackConfig()
    run = ("dropout", "initializer_range", "dtype", "remat", "saved", "offloaded", "scan_layers")
    c = c.replace(**{name: getattr(usual, name) for name in run})
    if isinstance(c, TransformerConfig):
        prompt = None if c.encoder is None else c.prompt_format  # ids of blanks are not in a file
        c = c.replace(encoder=settled(c.encoder), family=None, prompt=prompt)
    return c.replace(position=shortest(spread(c.position, c.num_layers)))


def spread(pattern: Sequence[T], num_layers: int) -> list[T]:
    """The kind of each layer, of a pattern that is cycled over them."""
    return [pattern[i % len(pattern)] for i in range(num_layers)]


def shortest(kinds: Sequence[T]) -> tuple[T, ...]:
    """The shortest pattern that, cycled, gives the kind of each layer."""
    lengths = range(1, len(kinds) + 1)
    fits = (n for n in lengths if all(kind == kinds[i % n] for i, kind in enumerate(kinds)))
    return tuple(kinds[: next(fits)])


def window_of(pattern: Sequence[int | None], num_layers: int) -> tuple[int | None, ...]:
    """`attention.window` in its shortest form."""
    found = shortest(spread(pattern, num_layers))
    return () if found == (None,) else found
