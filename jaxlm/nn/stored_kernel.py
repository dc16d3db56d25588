"""A frozen kernel in 4 or 8 bits (QLoRA: Dettmers et al. 2023, arXiv:2305.14314).

    W ~ s Q(W / s)          s: the largest |W| of a block of up to 64 neighbours in the last dim

    int8    Q rounds to multiples of 1/127:  |W - stored| <= s / 254           8.5 bits a weight
    nf4     Q takes the nearest of 16 levels, the quantiles of a normal distribution (`NF4`), so
            each is as frequent as any other:  |W - stored| <= 0.152 s         4.5 bits a weight

The scales are float32 and not quantized again. A kernel is two parameters, `codes` (of nf4 two in a
byte) and `scales`, which are split over devices and sliced by the scan over layers as the kernel
would be; a matmul restores that of its layer alone, and its backward pass restores it again. These
are own lines instead of qwix's: its arrays are a type of their own, made where a call is
intercepted, and here the parameters of a model are plain arrays, which the scan, checkpoints and
hashes read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

StoredAs = Literal["nf4", "int8"]

BLOCK = 64  # weights that share a scale, at most
# The levels of bitsandbytes (NF4 of the paper's appendix E).
# fmt: off
NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)
# fmt: on
CODES, SCALES = "codes", "scales"
ENDS = {f"kernel/{name}" for name in (CODES, SCALES)}


class Stored(NamedTuple):
    """The arrays of a stored kernel."""

    codes: jax.Array  # int8 [..., n], or nf4: uint8 [..., n / 2]
    scales: jax.Array  # float32 [..., n / block]


class StoredKernel(nnx.Module):
    """In the place of a kernel `nnx.Param`, which it is read like."""

    def __init__(self, kernel: nnx.Param, form: StoredAs) -> None:
        codes, scales = quantize(kernel.get_value(), form)
        axes = tuple(kernel.get_metadata()["axes"])
        self.codes = nnx.Param(codes, axes=axes)
        self.scales = nnx.Param(scales, axes=(*axes[:-1], None))

    def stored(self) -> Stored:
        return Stored(self.codes.get_value(), self.scales.get_value())

    def get_value(self) -> jax.Array:
        """The kernel, float32."""
        return dequantize(self.stored())

    def get_metadata(self) -> dict[str, Any]:
        return self.codes.get_metadata()

    @property
    def shape(self) -> tuple[int, ...]:
        return plain_shape(self.codes)


def store(module: Any, form: StoredAs) -> None:
    """Stores the kernel of a module, where its last dim is even: two codes of nf4 are in a byte."""
    if module.kernel.shape[-1] % 2 == 0:
        module.kernel = StoredKernel(module.kernel, form)


def quantize(x: jax.Array, form: StoredAs) -> Stored:
    """The codes and scales of an array [..., n], n even."""
    last = x.shape[-1]
    block = block_of(last)
    blocks = x.astype(jnp.float32).reshape(*x.shape[:-1], last // block, block)
    scales = jnp.abs(blocks).max(-1)
    scaled = (blocks / jnp.where(scales > 0, scales, 1)[..., None]).reshape(x.shape)
    if form == "int8":
        return Stored(jnp.round(scaled * 127).astype(jnp.int8), scales)
    codes = jnp.searchsorted((NF4[1:] + NF4[:-1]) / 2, scaled).astype(jnp.uint8)
    pairs = codes.reshape(*x.shape[:-1], last // 2, 2)
    return Stored(pairs[..., 0] | pairs[..., 1] << 4, scales)


def dequantize(stored: Stored) -> jax.Array:
    """The array [..., n] that is stored, float32."""
    codes, scales = stored
    shape = plain_shape(codes)
    if codes.dtype == jnp.int8:
        values = codes.astype(jnp.float32) / 127
    else:
        pairs = jnp.stack([codes & 15, codes >> 4], -1)
        values = jnp.take(jnp.asarray(NF4), pairs.reshape(shape).astype(jnp.int32))
    blocks = values.reshape(*scales.shape, shape[-1] // scales.shape[-1])
    return (blocks * scales[..., None]).reshape(shape)


def block_of(size: int) -> int:
    """The weights of a block in a dim of this size: its largest divisor up to 64; of a dim without
    one of 16 or more, all.
    """
    found = max(n for n in range(1, min(size, BLOCK) + 1) if size % n == 0)
    return found if found >= 16 else size


def plain_shape(codes: Any) -> tuple[int, ...]:
    """The shape of the kernel that has these codes."""
    packed = jnp.dtype(codes.dtype) == jnp.uint8
    return (*codes.shape[:-1], codes.shape[-1] * (2 if packed else 1))


# ------------------------------------------------------------------------- what a matmul reads


def stored_value(kernel: Any) -> jax.Array | Stored:
    """A kernel as it is stored: a parameter's array, or codes and scales."""
    return kernel.stored() if isinstance(kernel, StoredKernel) else kernel.get_value()


def restored(stored: jax.Array | Stored) -> jax.Array:
    """The kernel of `stored_value`."""
    return dequantize(stored) if isinstance(stored, Stored) else stored


# ------------------------------------------------------------------------- trees of parameters


def plain_path(path: str) -> str:
    """The path of the kernel that a parameter is a part of; that of another one itself."""
    return path.rpartition("/")[0] if "/".join(path.split("/")[-2:]) in ENDS else path


def plain_leaves(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{path: abstract array} of parameters with each stored kernel as the kernel that it is of."""
    out = {}
    for path, leaf in leaves.items():
        plain = plain_path(path)
        if plain == path:
            out[path] = leaf
        elif path.endswith(CODES):
            sharding = getattr(leaf, "sharding", None)
            out[plain] = jax.ShapeDtypeStruct(plain_shape(leaf), jnp.float32, sharding=sharding)
    return out


def as_stored(found: dict[str, Any], leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{path: array} of plain parameters, as those of `leaves` ({path: abstract array}) are stored.

    Kernels are taken out of `found` one after another: their float32 is not kept.
    """
    out = {}
    for path, leaf in leaves.items():
        plain = plain_path(path)
        if plain == path:
            out[path] = found[path]
        elif path.endswith(CODES):
            form: StoredAs = "int8" if leaf.dtype == jnp.int8 else "nf4"
            scales = f"{plain}/{SCALES}"
            to = Stored(leaf.sharding, leaves[scales].sharding)
            make = jax.jit(quantize, static_argnums=1, out_shardings=to)
            out[path], out[scales] = make(found.pop(plain), form)
    return out


def as_plain(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{path: array} with each stored kernel as the kernel that it is of (traceable)."""
    out = {}
    for path, leaf in flat.items():
        plain = plain_path(path)
        if plain == path:
            out[path] = leaf
        elif path.endswith(CODES):
            out[plain] = dequantize(Stored(leaf, flat[f"{plain}/{SCALES}"]))
    return out


def count_of(leaves: Mapping[str, Any]) -> int:
    """The number of parameters in arrays {path: array}: each weight of a stored kernel is one."""
    return sum(math.prod(leaf.shape) for leaf in plain_leaves(leaves).values())


def bytes_of(path: str, leaves: Mapping[str, Any]) -> float:
    """Bytes of a weight of the parameter at a plain path, as `leaves` store it."""
    if path in leaves:
        return leaves[path].dtype.itemsize
    codes, scales = (leaves[f"{path}/{name}"] for name in (CODES, SCALES))
    size = sum(math.prod(part.shape) * part.dtype.itemsize for part in (codes, scales))
    return size / math.prod(plain_shape(codes))


def axes_of(path: str, axes: Mapping[str, Any]) -> tuple[str, ...]:
    """The logical axes of the parameter at a plain path, of those of stored ones."""
    return tuple(axes[path] if path in axes else axes[f"{path}/{CODES}"])
