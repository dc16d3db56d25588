"""DeepSeek-V2-Lite (arXiv:2405.04434) and DeepSeek-V3 (arXiv:2412.19437).

Latent attention with adjacent rotary pairs, a plain ffn in the first layers, then many small
experts and shared ones. V3 has sigmoid scores, groups, and a bias that balances the choice. V2's
groups, whose score is that of their best expert alone, are not supported; V2-Lite does not have
them. The norms of latent vectors have their own eps, 1e-6. V3's multi-token prediction module,
which is stored as one more layer, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from jaxlm.models.families.base import Family
from jaxlm.models.families.shared import rope
from jaxlm.models.families.shared.checks import checked, demand, require, word_of
from jaxlm.models.families.shared.decoder import ACTIVATIONS, NORMS, outer_rows
from jaxlm.models.families.shared.experts import experts_of, layer_rows, of_the_file, with_experts
from jaxlm.models.families.shared.tensor import Tensor, one_of, part_of
from jaxlm.models.transformer import HeadConfig, TransformerConfig
from jaxlm.nn.ffn import DenseConfig
from jaxlm.nn.latent import LatentConfig
from jaxlm.nn.moe import MoEConfig
from jaxlm.nn.norm import RMSNormConfig
from jaxlm.nn.position import RotaryConfig
from jaxlm.nn.rope_scaling import YarnScaling

FIXED = {"attention_bias": False, "quantization_config": None, "moe_layer_freq": 1}
NEEDED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "moe_intermediate_size",
    "n_routed_experts",
    "num_experts_per_tok",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
)
BIAS_STEP = 0.001  # update of the choice bias, section 4.2 of V3's paper
INNER_EPS = 1e-6
# Sizes that follow from others, and layers that are left out.
IDLE = ("num_key_value_heads", "head_dim", "qk_head_dim", "num_nextn_predict_layers")


def v3_from_hf(values: Any) -> TransformerConfig:
    require(values, {"scoring_func": "sigmoid", "topk_method": "noaux_tc", **FIXED})
    demand({"n_group": 8, "topk_group": 4} | values, ("n_group", "topk_group"))
    groups = {
        "num_groups": values.get("n_group", 8),
        "groups_per_token": values.get("topk_group", 4),
    }
    return read(values, "deepseek_v3", scores="sigmoid", choice_bias=BIAS_STEP, **groups)


def v2_from_hf(values: Any) -> TransformerConfig:
    require(
        values, {"scoring_func": "softmax", "topk_method": "greedy", "mlp_bias": False, **FIXED}
    )
    # transformers' DeepseekV2TopkRouter never reads norm_topk_prob: the weights are not normalised.
    return read(values | {"norm_topk_prob": False}, "deepseek_v2", scores="softmax")


def read(values: Mapping[str, Any], family: str, **of_router: Any) -> TransformerConfig:
    demand(values, NEEDED)
    activation = one_of(values, "hidden_act", ACTIVATIONS, "silu")
    expert = values["moe_intermediate_size"]
    moe = MoEConfig(
        num_experts=values["n_routed_experts"],
        experts_per_token=values["num_experts_per_tok"],
        intermediate_size=expert,
        activation=activation,
        shared_size=expert * (values.get("n_shared_experts") or 0) or None,
        normalize=values.get("norm_topk_prob", True),
        scaling=values.get("routed_scaling_factor", 1.0),
        balance_loss=values.get("aux_loss_alpha", 0.0001),
        router_z_loss=0.0,
        **of_router,
    )
    nope_dim, rope_dim = values["qk_nope_head_dim"], values["qk_rope_head_dim"]
    position = rope.from_hf(values).replace(interleaved=values.get("rope_interleave", True))
    attention = LatentConfig(
        num_heads=values["num_attention_heads"],
        q_rank=values.get("q_lora_rank"),
        kv_rank=values["kv_lora_rank"],
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        v_dim=values["v_head_dim"],
        scale=scale_of(values, position, nope_dim + rope_dim),
        norm_eps=INNER_EPS,
    )
    config = TransformerConfig(
        hidden_size=values["hidden_size"],
        num_layers=values["num_hidden_layers"],
        attention=attention,
        ffn=DenseConfig(intermediate_size=values["intermediate_size"], activation=activation),
        norm=RMSNormConfig(eps=values.get("rms_norm_eps", 1e-6)),
        position=(position,),
        head=HeadConfig(tied=values.get("tie_word_embeddings", False)),
        vocab_size=values["vocab_size"],
        family=family,
    )
    return with_experts(config, moe, range(values.get("first_k_dense_replace", 0)))


def scale_of(values: Mapping[str, Any], position: RotaryConfig, size: int) -> float | None:
    """The factor on scores: YaRN's `mscale_all_dim` makes it larger, by (1 + 0.1 m ln factor)^2."""
    said = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if position.scaling is None or not said.get("mscale_all_dim"):
        return None
    longer = 1 + 0.1 * said["mscale_all_dim"] * math.log(position.scaling.factor)
    return float(f"{size**-0.5 * longer**2:.12g}")


def mscales(config: TransformerConfig, attention: LatentConfig) -> dict[str, float]:
    """The two keys of the file that say the scale of scores and YaRN's attention factor."""
    scaling = part_of(config.position[0], RotaryConfig, "position").scaling
    if not isinstance(scaling, YarnScaling) or attention.scale is None:
        return {}
    if scaling.factor == 1.0:
        return {}
    log, usual = 0.1 * math.log(scaling.factor), (attention.nope_dim + attention.rope_dim) ** -0.5
    longer = math.sqrt(attention.scale / usual)
    factor = 1 + log if scaling.attention_factor is None else scaling.attention_factor
    found = {"mscale": (factor * longer - 1) / log, "mscale_all_dim": (longer - 1) / log}
    return {key: round(value, 6) for key, value in found.items()}


def v3_to_hf(config: TransformerConfig) -> dict[str, Any]:
    moe = experts_of(config)
    values = write(config, "DeepseekV3ForCausalLM", "deepseek_v3") | {
        "n_group": moe.num_groups,
        "topk_group": moe.groups_per_token,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    }
    return checked(values, said(config, choice_bias=BIAS_STEP), v3_from_hf)


def v2_to_hf(config: TransformerConfig) -> dict[str, Any]:
    values = write(config, "DeepseekV2ForCausalLM", "deepseek_v2") | {
        "scoring_func": "softmax",
        "topk_method": "greedy",
    }
    return checked(values, said(config), v2_from_hf)


def said(config: TransformerConfig, **of_router: Any) -> TransformerConfig:
    """The config without the fields that belong to a run, such as the step of the choice bias."""
    moe = experts_of(of_the_file(config))
    if moe.choice_bias is not None:
        moe = moe.replace(**of_router)
    return config.replace(ffn=moe)


def write(config: TransformerConfig, architecture: str, model_type: str) -> dict[str, Any]:
    c, moe = config, experts_of(config)
    attention = part_of(c.attention, LatentConfig, "attention")
    position = part_of(c.position[0], RotaryConfig, "position")
    plain = c.other_ffn.ffn if c.other_ffn else DenseConfig(activation=moe.activation)
    dense = part_of(plain, DenseConfig, "other_ffn.ffn")
    expert = moe.width(c.hidden_size)
    values = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_heads,
        "q_lora_rank": attention.q_rank,
        "kv_lora_rank": attention.kv_rank,
        "qk_nope_head_dim": attention.nope_dim,
        "qk_rope_head_dim": attention.rope_dim,
        "v_head_dim": attention.v_dim,
        "attention_bias": False,
        "intermediate_size": dense.width(c.hidden_size),
        "moe_intermediate_size": expert,
        "n_routed_experts": moe.num_experts,
        "n_shared_experts": (moe.shared_size or 0) // expert,
        "num_experts_per_tok": moe.experts_per_token,
        "norm_topk_prob": moe.normalize,
        "routed_scaling_factor": moe.scaling,
        "aux_loss_alpha": moe.balance_loss,
        "first_k_dense_replace": len(c.other_ffn.layers) if c.other_ffn else 0,
        "moe_layer_freq": 1,
        "hidden_act": word_of(ACTIVATIONS, moe.activation),
        "rms_norm_eps": part_of(c.norm, RMSNormConfig, "norm").eps,
        "rope_interleave": position.interleaved,
        "tie_word_embeddings": c.head.tied,
        **rope.to_hf(position),
    }
    found = mscales(c, attention)
    if found:
        values["rope_scaling"] = {**values["rope_scaling"], **found}
        values["rope_scaling"].pop("attention_factor", None)
    return values


def tensors(config: TransformerConfig) -> list[Tensor]:
    compressed = part_of(config.attention, LatentConfig, "attention").q_rank is not None
    query = "q_b_proj" if compressed else "q_proj"
    return [*outer_rows(config), *layer_rows(config, partial(attention_rows, query))]


def attention_rows(query: str, run: str, first_layer: int) -> list[Tensor]:
    there, here = "model.layers.{layer}.self_attn.", f"{run}/attention/"
    heads, low = "(N H) R -> R N H", "O I -> I O"
    down = (f"{here}down/kernel", f"{here}rope_key/kernel")
    rows: list[tuple[str, Any, str]] = [
        (f"{there}{query}.weight", f"{here}query/kernel", heads),
        (f"{there}q_a_proj.weight", f"{here}query_down/kernel", low),
        (f"{there}q_a_layernorm.weight", f"{here}query_norm/scale", "D -> D"),
        (f"{there}kv_a_proj_with_mqa.weight", down, low),
        (f"{there}kv_a_layernorm.weight", f"{here}norm/scale", "D -> D"),
        (f"{there}kv_b_proj.weight", f"{here}up/kernel", heads),
        (f"{there}o_proj.weight", f"{here}out/kernel", "D (N H) -> N H D"),
    ]
    for theirs, ours in NORMS.items():
        rows.append((f"model.layers.{{layer}}.{theirs}.weight", f"{run}/{ours}/scale", "D -> D"))
    return [Tensor(*row, first_layer=first_layer) for row in rows]


def preset(
    hidden_size: int, num_layers: int, num_heads: int, others: Mapping[str, Any]
) -> dict[str, Any]:
    """A preset: the values that V2 and V3 share, and these numbers."""
    scaling = {
        "type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "kv_lora_rank": 512,
        "v_head_dim": 128,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rope_theta": 10_000.0,
        "max_position_embeddings": 163_840,
        **others,
        "rope_scaling": {**scaling, **others.get("rope_scaling", {})},
    }


V3 = {
    "q_lora_rank": 1536,
    "intermediate_size": 18_432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "routed_scaling_factor": 2.5,
    "vocab_size": 129_280,
}
V2_LITE = {
    "q_lora_rank": None,
    "intermediate_size": 10_944,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "aux_loss_alpha": 0.001,
    "vocab_size": 102_400,
    "rope_scaling": {"mscale": 0.707, "mscale_all_dim": 0.707},
}

FAMILY = Family(
    name="deepseek_v3",
    model_types=("deepseek_v3", "kimi_k2"),
    architectures=("DeepseekV3ForCausalLM",),
    bases=("DeepseekV3Model",),
    from_hf=v3_from_hf,
    to_hf=v3_to_hf,
    tensors=tensors,
    prefix="model.",
    idle=IDLE,
    ignored=(r"\blayers\.{num_layers}\.",),  # the prediction of a second token
    presets={"deepseek-v3": v3_from_hf(preset(7168, 61, 128, V3))},
    num_params={"deepseek-v3": 671_026_419_200},  # 671B; the file has 14B more for a second token
)
DEEPSEEK_V2 = Family(
    name="deepseek_v2",
    architectures=("DeepseekV2ForCausalLM",),
    bases=("DeepseekV2Model",),
    from_hf=v2_from_hf,
    to_hf=v2_to_hf,
    tensors=tensors,
    prefix="model.",
    idle=(
        *IDLE,
        "n_group",
        "topk_group",
    ),  # keys of a choice by groups, which topk_method would name
    presets={"deepseek-v2-lite": v2_from_hf(preset(2048, 27, 16, V2_LITE))},
    num_params={"deepseek-v2-lite": 15_706_484_224},
)
