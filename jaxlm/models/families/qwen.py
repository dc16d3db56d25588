"""Qwen 2.5 (Yang et al. 2024, arXiv:2412.15115) and Qwen 3 (Yang et al. 2025, arXiv:2505.09388).

Llama's blocks; 2 and 2.5 have biases of queries, keys and values, 3 has a norm on each query and
key head instead. Either may have a window on the layers from `max_window_layers` on, which no
published one switches on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.checks import checked, require
from jaxlm.models.families.shared.decoder import (
    read,
    sizes,
    sliding_layers,
    tensors,
    window_values,
    windows,
    write,
)
from jaxlm.models.families.shared.head_classes import decoder_tasks
from jaxlm.models.transformer import TransformerConfig

DEFAULTS = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
FIXED = {"mlp_bias": False, "use_mrope": False}


def qwen2_from_hf(values: Any) -> TransformerConfig:
    require(values, {"attention_bias": True} | FIXED)
    config = windowed(values, read(values | {"attention_bias": False}, "qwen2", DEFAULTS))
    return config.replace(attention=config.attention.replace(bias=True))


def qwen3_from_hf(values: Mapping[str, Any]) -> TransformerConfig:
    require(values, FIXED)
    config = windowed(values, read(values, "qwen3", {"head_dim": 128, **DEFAULTS}))
    return config.replace(attention=config.attention.replace(qk_norm=True))


def windowed(values: Any, config: TransformerConfig) -> TransformerConfig:
    values = DEFAULTS | values
    size, first = values["sliding_window"], values["max_window_layers"]
    if not values.get("use_sliding_window"):
        size = None
    elif first is None and values.get("layer_types") is None:
        raise UserError(
            "config.json: max_window_layers is null, but layers from it on have a window "
            "(use_sliding_window); write their first"
        )
    layers = range(config.num_layers)
    usual = [size is not None and first is not None and i >= first for i in layers]
    sliding = sliding_layers(values, usual)
    return config.replace(attention=config.attention.replace(window=windows(size, sliding)))


def qwen2_to_hf(config: TransformerConfig) -> dict[str, Any]:
    values = write(config, "Qwen2ForCausalLM", "qwen2") | window_keys(config)
    del values["attention_bias"]  # it would be that of the output as well
    return checked(values, config, qwen2_from_hf)


def qwen3_to_hf(config: TransformerConfig) -> dict[str, Any]:
    values = write(config, "Qwen3ForCausalLM", "qwen3") | window_keys(config)
    return checked(values, config, qwen3_from_hf)


def window_keys(config: TransformerConfig) -> dict[str, Any]:
    values = window_values(config)
    kinds = [*values["layer_types"], "sliding_attention"]
    return {
        **values,
        "use_sliding_window": values["sliding_window"] is not None,
        "max_window_layers": kinds.index("sliding_attention"),
    }


def qwen2(*numbers: int, **others: Any) -> TransformerConfig:
    return qwen2_from_hf(sizes(*numbers, rope_theta=1_000_000.0, **others))


def qwen3(*numbers: int, **others: Any) -> TransformerConfig:
    return qwen3_from_hf(sizes(*numbers, 151_936, rope_theta=1_000_000.0, **others))


SMALL: dict[str, Any] = {"tie_word_embeddings": True}
LARGE: dict[str, Any] = {"rms_norm_eps": 1e-5}

FAMILY = Family(
    name="qwen2",
    architectures=("Qwen2ForCausalLM",),
    bases=("Qwen2Model",),
    tasks=decoder_tasks("Qwen2"),
    from_hf=qwen2_from_hf,
    to_hf=qwen2_to_hf,
    tensors=tensors,
    prefix="model.",
    presets={
        "qwen2.5-0.5b": qwen2(896, 24, 14, 2, 4864, 151_936, **SMALL),
        "qwen2.5-1.5b": qwen2(1536, 28, 12, 2, 8960, 151_936, **SMALL),
        "qwen2.5-3b": qwen2(2048, 36, 16, 2, 11_008, 151_936, **SMALL),
        "qwen2.5-7b": qwen2(3584, 28, 28, 4, 18_944, 152_064),
        "qwen2.5-14b": qwen2(5120, 48, 40, 8, 13_824, 152_064, **LARGE),
        "qwen2.5-32b": qwen2(5120, 64, 40, 8, 27_648, 152_064, **LARGE),
        "qwen2.5-72b": qwen2(8192, 80, 64, 8, 29_568, 152_064, **LARGE),
    },
    num_params={
        "qwen2.5-0.5b": 494_032_768,
        "qwen2.5-1.5b": 1_543_714_304,
        "qwen2.5-3b": 3_085_938_688,
        "qwen2.5-7b": 7_615_616_512,
        "qwen2.5-14b": 14_770_033_664,
        "qwen2.5-32b": 32_763_876_352,
        "qwen2.5-72b": 72_706_203_648,
    },
)
QWEN3 = Family(
    name="qwen3",
    architectures=("Qwen3ForCausalLM",),
    bases=("Qwen3Model",),
    tasks=decoder_tasks("Qwen3"),
    from_hf=qwen3_from_hf,
    to_hf=qwen3_to_hf,
    tensors=tensors,
    prefix="model.",
    presets={
        "qwen3-0.6b": qwen3(1024, 28, 16, 8, 3072, **SMALL),
        "qwen3-1.7b": qwen3(2048, 28, 16, 8, 6144, **SMALL),
        "qwen3-4b": qwen3(2560, 36, 32, 8, 9728, **SMALL),
        "qwen3-8b": qwen3(4096, 36, 32, 8, 12_288),
        "qwen3-14b": qwen3(5120, 40, 40, 8, 17_408),
        "qwen3-32b": qwen3(5120, 64, 64, 8, 25_600),
    },
    num_params={
        "qwen3-0.6b": 596_049_920,
        "qwen3-1.7b": 1_720_574_976,
        "qwen3-4b": 4_022_468_096,
        "qwen3-8b": 8_190_735_360,
        "qwen3-14b": 14_768_307_200,
        "qwen3-32b": 32_762_123_264,
    },
)
