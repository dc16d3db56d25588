"""SmolLM3 (Bakouch et al. 2025, huggingface.co/blog/smollm3).

Llama's blocks with a tied head, in which every fourth layer has no positions (Yang et al. 2025,
arXiv:2501.18795). SmolLM and SmolLM2 are Llamas: llama.py.
"""

from __future__ import annotations

from typing import Any

from jaxlm.core.config import UserError
from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.checks import checked, for_each_layer, shortest, spread
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
from jaxlm.nn.position import NoPositionConfig, RotaryConfig

DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
    "no_rope_layer_interval": 4,
}
THETA = 2_000_000.0  # where config.json does not say it


def from_hf(values: Any) -> TransformerConfig:
    values = DEFAULTS | values
    config = read(values, "smollm3", {"rope_theta": THETA})
    layers, interval = range(config.num_layers), values["no_rope_layer_interval"]
    # The key's name says the contrary: 1 is a layer with rotary positions.
    turned = for_each_layer(values, "no_rope_layers", config.num_layers)
    if turned is None:
        turned = [(i + 1) % interval != 0 for i in layers]
    elif wrong := [kind for kind in turned if kind not in (0, 1)]:
        raise UserError(
            f"config.json: no_rope_layers has {wrong[0]!r}, where 0 and 1 are expected; take the "
            "file that came with the model"
        )
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
    architectures=("SmolLM3ForCausalLM",),
    bases=("SmolLM3Model",),
    tasks=decoder_tasks("SmolLM3"),
    from_hf=from_hf,
    to_hf=to_hf,
    tensors=tensors,
    prefix="model.",
    presets={
        "smollm3-3b": from_hf(sizes(2048, 36, 16, 4, 11_008, 128_256, rope_theta=5_000_000.0)),
    },
    num_params={"smollm3-3b": 3_075_098_624},
)
