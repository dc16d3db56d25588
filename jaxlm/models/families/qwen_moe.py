"""Qwen 3's mixtures of experts (Yang et al. 2025, arXiv:2505.09388): 30B-A3B and 235B-A22B.

Qwen 3's blocks, with 8 of 128 experts by the softmax of the router's logits. `mlp_only_layers` and
`decoder_sparse_step` say which layers have a plain ffn; no published one has such layers.
"""

from __future__ import annotations

from typing import Any

from jaxlm.core.config import UserError
from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.checks import checked, require
from jaxlm.models.families.shared.decoder import attention_rows, outer_rows, read, sizes, write
from jaxlm.models.families.shared.experts import experts_of, layer_rows, of_the_file, with_experts
from jaxlm.models.families.shared.head_classes import decoder_tasks
from jaxlm.models.families.shared.tensor import Tensor
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.ffn import DenseConfig
from jaxlm.nn.moe import MoEConfig

DEFAULTS = {"num_key_value_heads": 4, "intermediate_size": 6144, "moe_intermediate_size": 768}
FIXED = {"mlp_bias": False, "use_sliding_window": False}


def from_hf(values: Any) -> TransformerConfig:
    require(values, FIXED)
    values = DEFAULTS | values
    config = read(values, "qwen3_moe", {})
    only, step = values.get("mlp_only_layers") or (), values.get("decoder_sparse_step", 1)
    layers = range(config.num_layers)
    if beyond := [i for i in only if i not in layers]:
        raise UserError(
            f"config.json: mlp_only_layers names layer {beyond[0]!r}, but there are "
            f"{config.num_layers} from 0 on; take the file that came with the model"
        )
    dense: Any = config.ffn
    moe = MoEConfig(
        num_experts=values.get("num_experts", values.get("num_local_experts", 128)),
        experts_per_token=values.get("num_experts_per_tok", 8),
        intermediate_size=values["moe_intermediate_size"],
        activation=dense.activation,
        normalize=values.get("norm_topk_prob", False),
        balance_loss=values.get("router_aux_loss_coef", 0.001),
        router_z_loss=0.0,
    )
    config = config.replace(attention=config.attention.replace(qk_norm=True))
    return with_experts(config, moe, [i for i in layers if i in only or (i + 1) % step])


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    config = of_the_file(config)
    moe, other = experts_of(config), config.other_ffn
    # Without such layers the key has no effect; it is the width of all chosen experts.
    width = moe.width(config.hidden_size) * moe.experts_per_token
    dense = DenseConfig(intermediate_size=width, activation=moe.activation)
    plain = config.replace(ffn=other.ffn if other else dense, other_ffn=None)
    values = write(plain, "Qwen3MoeForCausalLM", "qwen3_moe") | {
        "num_experts": moe.num_experts,
        "num_experts_per_tok": moe.experts_per_token,
        "moe_intermediate_size": moe.width(config.hidden_size),
        "norm_topk_prob": moe.normalize,
        "router_aux_loss_coef": moe.balance_loss,
        "mlp_only_layers": list(other.layers) if other else [],
        "decoder_sparse_step": 1,
    }
    return checked(values, config, from_hf)


def tensors(config: TransformerConfig) -> list[Tensor]:
    def attention(run: str, first: int) -> list[Tensor]:
        return attention_rows(run, first_layer=first)

    return [*outer_rows(config), *layer_rows(config, attention)]


def qwen3(*numbers: int, expert: int, **others: Any) -> TransformerConfig:
    values = sizes(*numbers, 151_936, head_dim=128, moe_intermediate_size=expert, **others)
    return from_hf({"rope_theta": 1_000_000.0, "norm_topk_prob": True, **values})


FAMILY = Family(
    name="qwen3_moe",
    architectures=("Qwen3MoeForCausalLM",),
    bases=("Qwen3MoeModel",),
    tasks=decoder_tasks("Qwen3Moe"),
    from_hf=from_hf,
    to_hf=to_hf,
    tensors=tensors,
    prefix="model.",
    presets={
        "qwen3-30b-a3b": qwen3(2048, 48, 32, 4, 6144, expert=768),
        "qwen3-235b-a22b": qwen3(4096, 94, 64, 4, 12_288, expert=1536),
    },
    num_params={"qwen3-30b-a3b": 30_532_122_624, "qwen3-235b-a22b": 235_093_634_560},
)
