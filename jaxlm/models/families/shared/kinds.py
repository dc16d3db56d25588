"""The kind of value that each key of a config.json has, over all families.

    check_kinds({"rope_theta": "big"})      # UserError: rope_theta is 'big', where a ...

A key has one meaning in all families, so one table is enough. A key that is not in it is not read.
An absent key is left to the family, which knows its default. Null is a value for `NULLABLE` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxlm.core.errors import UserError, shown


def is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31


def is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and -1e30 < value < 1e30 and math.isfinite(value)


KINDS: dict[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
    "a whole number from 1 on": (
        is_count,
        (
            "hidden_size",
            "num_attention_heads",
            "num_key_value_heads",
            "intermediate_size",
            "vocab_size",
            "head_dim",
            "sliding_window",
            "n_embd",
            "n_head",
            "n_inner",
            "n_positions",
            "max_position_embeddings",
            "type_vocab_size",
            "moe_intermediate_size",
            "n_routed_experts",
            "num_experts_per_tok",
            "num_experts",
            "num_local_experts",
            "kv_lora_rank",
            "q_lora_rank",
            "qk_nope_head_dim",
            "n_group",
            "qk_rope_head_dim",
            "v_head_dim",
            "topk_group",
            "decoder_sparse_step",
            "d_model",
            "d_kv",
            "d_ff",
            "num_heads",
            "kv_channels",
            "relative_attention_num_buckets",
            "relative_attention_max_distance",
            "multi_query_group_num",
            "ffn_hidden_size",
            "padded_vocab_size",
            "max_sequence_length",
            "no_rope_layer_interval",
            "sliding_window_pattern",
            "_sliding_window_pattern",
            "original_max_position_embeddings",
        ),
    ),
    "a number of layers from 1 to 2,000": (
        lambda value: is_count(value) and value <= 2000,
        ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers"),
    ),
    "a whole number from 0 on": (
        lambda value: is_count(value, 0),
        (
            "n_shared_experts",
            "first_k_dense_replace",
            "max_window_layers",
            "decoder_start_token_id",
        ),
    ),
    "a number above 0": (
        lambda value: is_number(value) and value > 0,
        (
            "rope_theta",
            "rope_local_base_freq",
            "rope_ratio",
            "partial_rotary_factor",
            "query_pre_attn_scalar",
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "routed_scaling_factor",
        ),
    ),
    "a number from 0 on": (
        lambda value: is_number(value) and value >= 0,
        (
            "rms_norm_eps",
            "layer_norm_eps",
            "layer_norm_epsilon",
            "layernorm_epsilon",
            "aux_loss_alpha",
            "router_aux_loss_coef",
        ),
    ),
    "true or false": (
        lambda value: isinstance(value, bool),
        (
            "tie_word_embeddings",
            "scale_decoder_outputs",
            "attention_bias",
            "mlp_bias",
            "use_sliding_window",
            "norm_topk_prob",
            "rope_interleave",
            "add_pooling_layer",
            "add_qkv_bias",
            "block_position_encoding",
            "use_bidirectional_attention",
        ),
    ),
    "a word": (
        lambda value: isinstance(value, str),
        (
            "model_type",
            "hidden_act",
            "hidden_activation",
            "activation_function",
            "feed_forward_proj",
            "rope_type",
            "scoring_func",
            "topk_method",
        ),
    ),
    "an object": (
        lambda value: isinstance(value, dict),
        ("rope_scaling", "rope_parameters", "text_config"),
    ),
    "a list of words": (
        lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
        ("architectures", "layer_types"),
    ),
    "a list of whole numbers": (
        lambda value: isinstance(value, list) and all(isinstance(item, int) for item in value),
        ("mlp_only_layers", "no_rope_layers"),
    ),
}
NULLABLE = {
    "head_dim",
    "n_inner",
    "sliding_window",
    "q_lora_rank",
    "n_shared_experts",
    "num_key_value_heads",
    "num_decoder_layers",
    "decoder_start_token_id",
    "rope_theta",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "max_position_embeddings",
    "rope_scaling",
    "rope_parameters",
    "layer_types",
    "mlp_only_layers",
    "no_rope_layers",
    "model_type",
    "original_max_position_embeddings",
    "use_bidirectional_attention",
    "architectures",  # who reads them names the known ones
    "partial_rotary_factor",
    "n_group",
    "topk_group",
    "max_window_layers",
    "rope_type",
}
# In the parameters of a scaling, besides those above.
SCALING: dict[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
    "a number above 0": (
        lambda value: is_number(value) and value > 0,
        ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"),
    ),
    "a number": (is_number, ("attention_factor", "mscale", "mscale_all_dim")),
    "true or false": (lambda value: isinstance(value, bool), ("truncate",)),
    "a word": (lambda value: isinstance(value, str), ("type",)),
}


def check_kinds(values: Mapping[str, Any], where: str = "", more: Any = None) -> None:
    """Raises `UserError` for a key whose value is of another kind than the table's."""
    for table in (KINDS, more or {}):
        for kind, (fits, keys) in table.items():
            for key in keys:
                value = values.get(key)
                if key in values and value is None and table is KINDS and key not in NULLABLE:
                    raise UserError(
                        f"config.json: lacks {where}{key}; take the file that came with the model"
                    )
                if value is not None and not fits(value):
                    raise UserError(
                        f"config.json: {where}{key} is {shown(value)}, where {kind} is "
                        "expected; take the file that came with the model"
                    )
    for key in ("rope_scaling", "rope_parameters"):
        for name, part in {"": values.get(key), **(values.get(key) or {})}.items():
            if isinstance(part, dict):
                inner = f"{where}{key}." + (f"{name}." if name else "")
                check_kinds({**part, "rope_scaling": None, "rope_parameters": None}, inner, SCALING)
    if values.get("text_config") is not None:
        check_kinds(values["text_config"], f"{where}text_config.")
