"""LayerNorm (Ba et al. 2016) and RMSNorm (Zhang & Sennrich 2019) over the last dim.

    LayerNorm: y = (x - mean) / sqrt(var + eps) * scale + bias
    RMSNorm:   y = x / sqrt(mean(x**2) + eps) * scale

Statistics and the product with the scale are float32; the result has the dtype of x. For the
backward pass x and a row's statistics are kept: what else is float32 in between is quicker formed
again than read.

    norm = RMSNormConfig(eps=1e-6).build(dim)
    y = norm(x)                  # [..., D]
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxlm.core.config import field
from jaxlm.core.types import NormConfig


@dataclass(frozen=True, kw_only=True)
class RMSNormConfig(NormConfig, type="rmsnorm"):
    """x / rms(x) * scale."""

    eps: float = field(1e-5, "added to the mean square", gt=0)
    one_plus: bool = field(False, "the parameter is the scale less one, and starts at 0")

    def build(self, dim: int) -> RMSNorm:
        return RMSNorm(dim, eps=self.eps, offset=float(self.one_plus))


@dataclass(frozen=True, kw_only=True)
class LayerNormConfig(NormConfig, type="layernorm"):
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

    @jax.named_scope("norm")
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.scale.get_value()
        if self.offset:
            scale = scale + self.offset
        return _rms_norm(x, scale, self.eps)


class LayerNorm(nnx.Module):
    """Centred and scaled; `bias` False leaves the shift out."""

    def __init__(self, dim: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32), axes=("norm",))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32), axes=("norm",)) if bias else None

    @jax.named_scope("norm")
    def __call__(self, x: jax.Array) -> jax.Array:
        bias = None if self.bias is None else self.bias.get_value()
        return _layer_norm(x, self.scale.get_value(), bias, self.eps)


_kept = partial(checkpoint_name, name="norm_statistics")
_formed_again = partial(
    jax.checkpoint,
    prevent_cse=False,
    policy=jax.checkpoint_policies.save_only_these_names("norm_statistics"),
)


@partial(_formed_again, static_argnums=(2,))
def _rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    wide = x.astype(jnp.float32)
    inverse = _kept(jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps))
    return (wide * inverse * scale).astype(x.dtype)


@partial(_formed_again, static_argnums=(3,))
def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array | None, eps: float) -> jax.Array:
    wide = x.astype(jnp.float32)
    centred = wide - _kept(jnp.mean(wide, axis=-1, keepdims=True))
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    y = centred * _kept(jax.lax.rsqrt(variance + eps)) * scale
    return (y if bias is None else y + bias).astype(x.dtype)
