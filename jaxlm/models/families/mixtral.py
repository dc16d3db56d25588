"""Mixtral 8x7B and 8x22B (Jiang et al. 2024, arXiv:2401.04088): Mistral's blocks with experts.

Two of eight experts by the softmax of the router's logits, their weights divided by their sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.checks import checked, require
from jaxlm.models.families.shared.decoder import (
    attention_rows,
    outer_rows,
    read,
    sizes,
    window_values,
    windows,
    write,
)
from jaxlm.models.families.shared.experts import experts_of, layer_rows, of_the_file, with_experts
from jaxlm.models.families.shared.head_classes import decoder_tasks
from jaxlm.models.families.shared.tensor import Tensor
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.ffn import DenseConfig
from jaxlm.nn.moe import MoEConfig

DEFAULTS = {"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0}
FIXED = {"attention_bias": False, "mlp_bias": False, "router_jitter_noise": 0.0}
NAMES = {"gate": "w1", "up": "w3", "down": "w2"}


def from_hf(values: Mapping[str, Any]) -> TransformerConfig:
    require(values, FIXED)
    config = read(values, "mixtral", DEFAULTS)
    size = values.get("sliding_window")
    window = windows(size, [size is not None])
    dense: Any = config.ffn
    moe = MoEConfig(
        num_experts=values.get("num_local_experts", 8),
        experts_per_token=values.get("num_experts_per_tok", 2),
        intermediate_size=dense.intermediate_size,
        activation=dense.activation,
        balance_loss=values.get("router_aux_loss_coef", 0.001),
        router_z_loss=0.0,
    )
    config = config.replace(attention=config.attention.replace(window=window))
    return with_experts(config, moe, ())


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    config = of_the_file(config)
    moe = experts_of(config)
    dense = DenseConfig(intermediate_size=moe.width(config.hidden_size), activation=moe.activation)
    values = write(config.replace(ffn=dense, other_ffn=None), "MixtralForCausalLM", "mixtral")
    values |= {
        "sliding_window": window_values(config)["sliding_window"],
        "num_local_experts": moe.num_experts,
        "num_experts_per_tok": moe.experts_per_token,
        "router_aux_loss_coef": moe.balance_loss,
    }
    return checked(values, config, from_hf)


def tensors(config: TransformerConfig) -> list[Tensor]:
    def attention(run: str, first: int) -> list[Tensor]:
        return attention_rows(run, first_layer=first)

    return [*outer_rows(config), *layer_rows(config, attention, "block_sparse_moe", NAMES)]


def mixtral(*numbers: int, **others: Any) -> TransformerConfig:
    return from_hf(sizes(*numbers, rope_theta=1_000_000.0, router_aux_loss_coef=0.02, **others))


FAMILY = Family(
    name="mixtral",
    architectures=("MixtralForCausalLM",),
    bases=("MixtralModel",),
    tasks=decoder_tasks("Mixtral"),
    from_hf=from_hf,
    to_hf=to_hf,
    tensors=tensors,
    prefix="model.",
    modules=((".block_sparse_moe.", ".mlp."),),
    presets={
        "mixtral-8x7b": mixtral(4096, 32, 32, 8, 14_336, 32_000),
        "mixtral-8x22b": mixtral(6144, 56, 48, 8, 16_384, 32_000),
    },
    num_params={"mixtral-8x7b": 46_702_792_704, "mixtral-8x22b": 140_620_634_112},
)
