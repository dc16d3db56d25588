"""SmolLM3 (Bakouch et al. 2025, huggingface.co/blog/smollm3).

Llama's blocks with a tied head, in which every fourth layer has no positions (Yang et al. 2025,
arXiv:2501.18795). SmolLM and SmolLM2 are Llamas: llama.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.models.families.base import Family
from jaxlm.models.families.checks import checked, shortest, spread
from jaxlm.models.families.decoder import (
    read,
    sizes,
    sliding_layers,
    tensors,
    window_values,
    windows,
    write,
)
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.position import NoPositionConfig, RotaryConfig

DEFAULTS: dict[str, Any] = {
    **{"num_key_value_heads": 4, "tie_word_embeddings": True, "rope_theta": 2_000_000.0},
    **{"no_rope_layer_interval": 4, "no_rope_layers": None},
}


def from_hf(values: Mapping[str, Any]) -> TransformerConfig:
    values = {**DEFAULTS, **values}
    config = read(values, "smollm3", {})
    layers, interval = range(config.num_layers), values["no_rope_layer_interval"]
    # The key's name says the contrary: 1 is a layer with rotary positions.
    turned = values["no_rope_layers"] or [(i + 1) % interval != 0 for i in layers]
    size = values.get("sliding_window") if values.get("use_sliding_window") else None
    sliding = sliding_layers(values, [size is not None and not turned[i] for i in layers])
    kinds = [config.position[0] if turned[i] else NoPositionConfig() for i in layers]
    attention = config.attention.replace(window=windows(size, sliding))
    return config.replace(attention=attention, position=shortest(kinds))


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    values = write(config, "SmolLM3ForCausalLM", "smollm3") | window_values(config)
    values["use_sliding_window"] = values["sliding_window"] is not None
    kinds = spread(config.position, config.num_layers)
    values["no_rope_layers"] = [int(isinstance(kind, RotaryConfig)) for kind in kinds]
    return checked(values, config, from_hf)


FAMILY = Family(
    name="smollm3",
    architectures=("SmolLM3ForCausalLM", "SmolLM3Model"),
    from_hf=from_hf,
    to_hf=to_hf,
    tensors=tensors,
    prefix="model.",
    presets={
        "smollm3-3b": from_hf(sizes(2048, 36, 16, 4, 11_008, 128_256, rope_theta=5_000_000.0)),
    },
    num_params={"smollm3-3b": 3_075_098_624},
)
