"""LayerNorm (Ba et al. 2016) and RMSNorm (Zhang & Sennrich 2019) over the last dim.

    LayerNorm: y = (x - mean) / sqrt(var + eps) * scale + bias
    RMSNorm:   y = x / sqrt(mean(x**2) + eps) * scale

Statistics and the product with the scale are float32; the result has the dtype of x.

    norm = RMSNormConfig(eps=1e-6).build(dim)
    y = norm(x)                  # [..., D]
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.config import field
from jaxlm.types import NormConfig


@dataclass(frozen=True, kw_only=True)
class RMSNormConfig(NormConfig):
    """x / rms(x) * scale."""

    eps: float = field(1e-5, "added to the mean square", gt=0)
    one_plus: bool = field(False, "the parameter is the scale less one, and starts at 0")

    def build(self, dim: int) -> RMSNorm:
        return RMSNorm(dim, eps=self.eps, offset=float(self.one_plus))


@dataclass(frozen=True, kw_only=True)
class LayerNormConfig(NormConfig):
    """(x - mean) / std * scale + bias."""

    eps: float = field(1e-5, "added to the variance", gt=0)
    bias: bool = field(True, "a bias after the scale")

    def build(self, dim: int) -> LayerNorm:
        return LayerNorm(dim, eps=self.eps, bias=self.bias)


class RMSNorm(nnx.Module):
    """`offset` 1 stores the scale less one (a parameter of 0 means a scale of 1)."""

    def __init__(self, dim: int, *, eps: float = 1e-6, offset: float = 0.0) -> None:
        self.eps = eps
        self.offset = offset
        self.scale = nnx.Param(jnp.full((dim,), 1.0 - offset, jnp.float32), axes=("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        scale = self.scale.get_value()
        if self.offset:
            scale = scale + self.offset
        return (wide * inverse * scale).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Centred and scaled; `bias` False leaves the shift out."""

    def __init__(self, dim: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32), axes=("norm",))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32), axes=("norm",)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps) * self.scale.get_value()
        if self.bias is not None:
            y = y + self.bias.get_value()
        return y.astype(x.dtype)
