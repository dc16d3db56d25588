"""Mistral 7B (Jiang et al. 2023, arXiv:2310.06825) and Mistral Nemo 12B (2024).

Llama's blocks without any bias, and in the first version a window of 4,096 tokens on every layer.
Nemo's heads are narrower than its width asks for: 32 of 128 in 5,120.
"""

from __future__ import annotations

from typing import Any

from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.checks import checked, require
from jaxlm.models.families.shared.decoder import read, sizes, tensors, window_values, windows, write
from jaxlm.models.families.shared.head_classes import decoder_tasks
from jaxlm.models.transformer import TransformerConfig

DEFAULTS = {"num_key_value_heads": 8, "sliding_window": 4096}
FIXED = {"attention_bias": False, "mlp_bias": False, "layer_types": None}


def from_hf(values: Any) -> TransformerConfig:
    require(values, FIXED)
    values = DEFAULTS | values
    config = read(values, "mistral", {})
    size = values["sliding_window"]
    window = windows(size, [size is not None])
    return config.replace(attention=config.attention.replace(window=window))


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    values = write(config, "MistralForCausalLM", "mistral")
    values["sliding_window"] = window_values(config)["sliding_window"]
    return checked(values, config, from_hf)


def mistral(*numbers: int, **others: Any) -> TransformerConfig:
    others = {"sliding_window": None, "rope_theta": 1_000_000.0, **others}
    return from_hf(sizes(*numbers, rms_norm_eps=1e-5, **others))


FAMILY = Family(
    name="mistral",
    architectures=("MistralForCausalLM",),
    bases=("MistralModel",),
    tasks=decoder_tasks("Mistral"),
    from_hf=from_hf,
    to_hf=to_hf,
    tensors=tensors,
    prefix="model.",
    presets={
        "mistral-7b-v0.1": mistral(
            4096, 32, 32, 8, 14_336, 32_000, sliding_window=4096, rope_theta=10_000.0
        ),
        "mistral-7b-v0.3": mistral(4096, 32, 32, 8, 14_336, 32_768),
        "mistral-nemo-12b": mistral(5120, 40, 32, 8, 14_336, 131_072, head_dim=128),
    },
    num_params={
        "mistral-7b-v0.1": 7_241_732_096,
        "mistral-7b-v0.3": 7_248_023_552,
        "mistral-nemo-12b": 12_247_782_400,
    },
)
