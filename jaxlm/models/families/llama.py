"""Llama 2 (Touvron et al. 2023, arXiv:2307.09288), Llama 3, 3.1 and 3.2 (Grattafiori et al. 2024,
arXiv:2407.21783), and what is published in their format: SmolLM and SmolLM2 (Allal et al. 2025,
arXiv:2502.02737).

RMSNorm before each part, rotary positions, grouped queries, SwiGLU, no biases unless config.json
asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.checks import checked
from jaxlm.models.families.shared.decoder import read, sizes, tensors, write
from jaxlm.models.families.shared.head_classes import decoder_tasks
from jaxlm.models.transformer import TransformerConfig


def from_hf(values: Mapping[str, Any]) -> TransformerConfig:
    return read(values, "llama", {})


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    return checked(write(config, "LlamaForCausalLM", "llama"), config, from_hf)


def llama(*numbers: int, theta: float = 10_000.0, **others: Any) -> TransformerConfig:
    return from_hf(sizes(*numbers, rms_norm_eps=1e-5, rope_theta=theta, **others))


def longer(factor: float) -> dict[str, Any]:
    """Llama 3.1's scaling of positions, by 3.1 or by the small models of 3.2."""
    return {
        "rope_type": "llama3",
        "factor": factor,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }


LLAMA3 = {
    "8b": (4096, 32, 32, 8, 14_336, 128_256),
    "70b": (8192, 80, 64, 8, 28_672, 128_256),
    "405b": (16_384, 126, 128, 8, 53_248, 128_256),
}
SMOLLM = {  # size: numbers, base of the angles in SmolLM2
    "135m": ((576, 30, 9, 3, 1536, 49_152), 100_000.0),
    "360m": ((960, 32, 15, 5, 2560, 49_152), 100_000.0),
    "1.7b": ((2048, 24, 32, 32, 8192, 49_152), 130_000.0),
}
PARAMS = {
    "8b": 8_030_261_248,
    "70b": 70_553_706_496,
    "405b": 405_853_388_800,
    "135m": 134_515_008,
    "360m": 361_821_120,
    "1.7b": 1_711_376_384,
}
SMALL: dict[str, Any] = {"tie_word_embeddings": True, "theta": 500_000.0}

FAMILY = Family(
    name="llama",
    architectures=("LlamaForCausalLM",),
    bases=("LlamaModel",),
    tasks=decoder_tasks("Llama"),
    from_hf=from_hf,
    to_hf=to_hf,
    tensors=tensors,
    prefix="model.",
    presets={
        "llama-2-7b": llama(4096, 32, 32, 32, 11_008, 32_000),
        "llama-2-13b": llama(5120, 40, 40, 40, 13_824, 32_000),
        "llama-2-70b": llama(8192, 80, 64, 8, 28_672, 32_000),
        **{f"llama-3-{s}": llama(*LLAMA3[s], theta=500_000.0) for s in ("8b", "70b")},
        **{
            f"llama-3.1-{size}": llama(*numbers, theta=500_000.0, rope_scaling=longer(8.0))
            for size, numbers in LLAMA3.items()
        },
        "llama-3.2-1b": llama(2048, 16, 32, 8, 8192, 128_256, rope_scaling=longer(32.0), **SMALL),
        "llama-3.2-3b": llama(3072, 28, 24, 8, 8192, 128_256, rope_scaling=longer(32.0), **SMALL),
        **{
            f"smollm-{size}": llama(*numbers, tie_word_embeddings=True)
            for size, (numbers, _) in SMOLLM.items()
        },
        **{
            f"smollm2-{size}": llama(*numbers, tie_word_embeddings=True, theta=theta)
            for size, (numbers, theta) in SMOLLM.items()
        },
    },
    num_params={
        "llama-2-7b": 6_738_415_616,
        "llama-2-13b": 13_015_864_320,
        "llama-2-70b": 68_976_648_192,
        **{f"llama-3-{size}": PARAMS[size] for size in ("8b", "70b")},
        **{f"llama-3.1-{size}": PARAMS[size] for size in LLAMA3},
        "llama-3.2-1b": 1_235_814_400,
        "llama-3.2-3b": 3_212_749_824,
        **{f"smollm{kind}-{size}": PARAMS[size] for kind in ("", "2") for size in SMOLLM},
    },
)
