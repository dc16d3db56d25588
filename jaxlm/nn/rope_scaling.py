"""Scaling of rotary frequencies, so that a trained model reads longer texts.

With f_i the frequencies, s the factor, and P the positions that the model was trained with:

    linear    f_i / s (Chen et al. 2023, arXiv:2306.15595)
    dynamic   theta grows with the document's length n > P, by (s n / P - s + 1)^(R / (R - 2))
    yarn      f_i where a pair turns often within P, f_i / s where seldom, a ramp between; and
              cosines and sines are longer (Peng et al. 2023, arXiv:2309.00071)
    llama3    as yarn, with the ramp in the number of turns (Grattafiori et al. 2024,
              arXiv:2407.21783)

Each gives new frequencies and a factor on cosines and sines:

    frequencies, factor = LinearScaling(factor=8.0).apply(frequencies, theta, rows)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.config import REQUIRED, Config, Kind, field

# frequencies [R/2] float32, or [B, T, R/2] by token; factor
Scaled = tuple[np.ndarray | jax.Array, float]


@dataclass(frozen=True, kw_only=True)
class ScalingConfig(Config):
    """A scaling of rotary frequencies, so that a trained model reads longer texts."""

    kind: ClassVar = Kind("rope_scalings", "rope scaling", folder="jaxlm.nn")
    grows: ClassVar[bool] = False  # whether a token's angles depend on later tokens
    factor: float = field(REQUIRED, "how many times longer texts become", ge=1)

    def apply(self, frequencies: np.ndarray, theta: float, rows: Any) -> Scaled:
        """Frequencies [R/2] in float32, scaled, and a factor on cosines and sines."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LinearScaling(ScalingConfig, type="linear"):
    """Positions divided by the factor."""

    def apply(self, frequencies: np.ndarray, theta: float, rows: Any) -> Scaled:
        return frequencies / self.factor, 1.0


@dataclass(frozen=True, kw_only=True)
class DynamicScaling(ScalingConfig, type="dynamic"):
    """A base that grows with the length of the document (NTK-aware)."""

    grows: ClassVar[bool] = True
    original_max_positions: int = field(REQUIRED, "positions that the model was trained with", ge=1)

    def apply(self, frequencies: np.ndarray, theta: float, rows: Any) -> Scaled:
        """The longest position that a call has of a document counts as its length."""
        pairs = frequencies.shape[-1]
        length = _length_of_document(rows)[..., None].astype(jnp.float32)  # [B, T, 1]
        times = self.factor * length / self.original_max_positions - (self.factor - 1)
        exponent = -jnp.arange(pairs, dtype=jnp.float32) / pairs * (2 * pairs / (2 * pairs - 2))
        return frequencies * jnp.maximum(times, 1.0) ** exponent, 1.0


@dataclass(frozen=True, kw_only=True)
class YarnScaling(ScalingConfig, type="yarn"):
    """Slow pairs are interpolated, fast ones are not."""

    original_max_positions: int = field(REQUIRED, "positions that the model was trained with", ge=1)
    beta_fast: float = field(32.0, "pairs with more turns than this keep their frequency", gt=0)
    beta_slow: float = field(1.0, "pairs with fewer turns than this are interpolated", gt=0)
    attention_factor: float | None = field(
        None, "on cosines and sines; null: 1 + 0.1 ln(factor)", gt=0
    )
    truncate: bool = field(True, "the ramp begins and ends at whole pairs")

    def apply(self, frequencies: np.ndarray, theta: float, rows: Any) -> Scaled:
        pairs = frequencies.shape[-1]

        def pair_of(turns: float) -> float:
            """The pair that turns so often within the original positions."""
            ratio = self.original_max_positions / (turns * 2 * math.pi)
            return pairs * math.log(ratio) / math.log(theta)

        low, high = pair_of(self.beta_fast), pair_of(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * pairs - 1)
        high = high if high != low else high + 0.001
        ramp = np.clip((np.arange(pairs, dtype=np.float32) - low) / (high - low), 0, 1)
        factor = self.attention_factor
        return (
            frequencies * (1 - ramp) + frequencies / self.factor * ramp,
            0.1 * math.log(self.factor) + 1 if factor is None else factor,
        )


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling(ScalingConfig, type="llama3"):
    """Slow pairs are interpolated, fast ones are not, as Llama 3.1 has it."""

    original_max_positions: int = field(REQUIRED, "positions that the model was trained with", ge=1)
    low_freq_factor: float = field(1.0, "pairs with fewer turns than this are interpolated", gt=0)
    high_freq_factor: float = field(4.0, "pairs with more turns keep their frequency", gt=0)

    def apply(self, frequencies: np.ndarray, theta: float, rows: Any) -> Scaled:
        turns = self.original_max_positions * frequencies / (2 * math.pi)
        span = self.high_freq_factor - self.low_freq_factor
        keep = np.clip((turns - self.low_freq_factor) / span, 0, 1)
        return frequencies * keep + frequencies / self.factor * (1 - keep), 1.0


def _length_of_document(rows: Any) -> jax.Array:
    """[B, T]: 1 + the largest position of the token's document in its row."""
    same = rows.segment_ids[:, :, None] == rows.segment_ids[:, None, :]
    return jnp.max(jnp.where(same, rows.positions[:, None, :], 0), axis=-1) + 1
