"""The inputs of a stack's layer besides its parameters and the stream, and its other outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax


class Given(NamedTuple):
    """The inputs from `jaxlm.nn.stack.apply_stack` to a layer, or to several that run in turn."""

    xs: Any  # what each layer has of its own: [B, ...]; of several layers [n, B, ...]
    key: jax.Array | None  # its own; of several [n]; None: no dropout
    rows: Any  # what is known of the rows of the stream: [B, ...]
    shared: Any  # the same for all layers and rows
    kind: int = 0  # its place in the period of layers


class Found(NamedTuple):
    """The outputs of a layer besides the stream; of several layers, stacked in front."""

    by_row: Any = None  # [B, ...]
    sums: Any = None  # sums over the rows
