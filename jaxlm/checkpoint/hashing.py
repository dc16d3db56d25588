"""One SHA-256 for a model's parameters, the same on every mesh and for any number of processes.

The hash runs over the parameters in the sorted order of their "/"-joined paths; for each one over
a line of JSON [path, dtype, shape] and then its bytes, little-endian, rows first:

    param_sha256({"embed": {"table": jnp.zeros((4, 2))}})
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxlm.core.tree import flatten


def param_sha256(params: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex digits) over names, shapes, dtypes and bytes of a nested dict of arrays.

    The leaves are jax arrays (of one process or of several, in any sharding) or numpy arrays. One
    parameter is on the host at a time. With several processes every one of them must call this.
    """
    return sha256_of((path, _on_host(leaf)) for path, leaf in flatten(params).items())


def sha256_of(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """`param_sha256` of whole arrays with their paths, which are sorted as `flatten` sorts them."""
    digest = hashlib.sha256()
    for path, array in arrays:
        header = [path, array.dtype.name, list(array.shape)]
        digest.update(json.dumps(header, separators=(",", ":")).encode() + b"\n")
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _on_host(leaf: Any) -> np.ndarray:
    """The whole array as numpy, whatever processes hold its parts."""
    if getattr(leaf, "is_fully_addressable", True):
        return np.asarray(leaf)
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0))
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
