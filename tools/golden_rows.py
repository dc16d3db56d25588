"""The small models of tools/make_golden_families.py: each a class, and what its config.json says,
as published checkpoints say it. A new family adds a row."""

from __future__ import annotations

from typing import Any

Row = tuple[str, dict[str, Any]]  # a class, and what is in config.json

GPT2 = dict(vocab_size=83, n_positions=323, n_layer=3, layer_norm_epsilon=1e-4)
LLAMA = dict(
    vocab_size=83,
    hidden_size=36,
    intermediate_size=52,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=512,
    rms_norm_eps=1e-4,
    rope_theta=10000.0,
    tie_word_embeddings=False,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
MHA = dict(LLAMA, hidden_size=32, num_attention_heads=4, num_key_value_heads=4)
WIDE_HEADS = dict(LLAMA, head_dim=12, rope_theta=2000.0)
GEMMA = dict(WIDE_HEADS, tie_word_embeddings=True, query_pre_attn_scalar=20, sliding_window=16)
EXPERTS = dict(num_hidden_layers=2, moe_intermediate_size=24, num_experts_per_tok=3)
DEEPSEEK = dict(
    LLAMA,
    moe_intermediate_size=24,
    num_experts_per_tok=3,
    n_routed_experts=8,
    num_key_value_heads=6,
    kv_lora_rank=14,
    qk_nope_head_dim=8,
    qk_rope_head_dim=6,
    v_head_dim=10,
    first_k_dense_replace=1,
    num_nextn_predict_layers=0,
)
STRETCHED = dict(factor=8.0, original_max_position_embeddings=64)

DECODERS: dict[str, Row] = {
    "gpt2": ("GPT2LMHeadModel", dict(GPT2, n_embd=32, n_head=4)),
    "gpt2_odd": ("GPT2LMHeadModel", dict(GPT2, n_embd=33, n_head=3, n_inner=50)),
    "llama_mha": ("LlamaForCausalLM", MHA),
    "llama_gqa_tied": (
        "LlamaForCausalLM",
        dict(LLAMA, head_dim=10, tie_word_embeddings=True, rope_theta=500.0),
    ),
    "llama_rope_linear": (
        "LlamaForCausalLM",
        dict(WIDE_HEADS, rope_scaling=dict(type="linear", factor=4.0)),
    ),
    "llama_rope_dynamic": (
        "LlamaForCausalLM",
        dict(WIDE_HEADS, max_position_embeddings=96, rope_scaling=dict(type="dynamic", factor=2.0)),
    ),
    "llama_rope_yarn": (
        "LlamaForCausalLM",
        dict(
            WIDE_HEADS, rope_scaling=dict(STRETCHED, rope_type="yarn", beta_fast=2.0, beta_slow=0.5)
        ),
    ),
    "llama_rope_llama3": (
        "LlamaForCausalLM",
        dict(
            WIDE_HEADS,
            rope_scaling=dict(
                STRETCHED, rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0
            ),
        ),
    ),
    "llama_bias": ("LlamaForCausalLM", dict(MHA, attention_bias=True, mlp_bias=True)),
    "mistral": ("MistralForCausalLM", dict(LLAMA, head_dim=10, sliding_window=17)),
    "qwen2": ("Qwen2ForCausalLM", dict(LLAMA, vocab_size=91, tie_word_embeddings=True)),
    "qwen2_window": (
        "Qwen2ForCausalLM",
        dict(
            LLAMA,
            num_hidden_layers=4,
            use_sliding_window=True,
            sliding_window=13,
            max_window_layers=2,
        ),
    ),
    "qwen3": ("Qwen3ForCausalLM", dict(WIDE_HEADS, tie_word_embeddings=True)),
    "gemma2": (
        "Gemma2ForCausalLM",
        dict(GEMMA, num_hidden_layers=4, attn_logit_softcapping=5.0, final_logit_softcapping=4.0),
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        dict(
            GEMMA,
            vocab_size=71,
            num_hidden_layers=6,
            sliding_window_pattern=3,
            rope_theta=5000.0,
            rope_local_base_freq=100.0,
            rope_scaling=dict(rope_type="linear", factor=8.0),
        ),
    ),
    "smollm3": (
        "SmolLM3ForCausalLM",
        dict(LLAMA, num_hidden_layers=4, tie_word_embeddings=True, no_rope_layers=[1, 0, 1, 0]),
    ),
    "mixtral": (
        "MixtralForCausalLM",
        dict(
            LLAMA,
            num_hidden_layers=2,
            num_local_experts=5,
            num_experts_per_tok=2,
            sliding_window=None,
        ),
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        dict(WIDE_HEADS, **EXPERTS, num_experts=8, norm_topk_prob=True),
    ),
    "qwen3_moe_dense_layer": (
        "Qwen3MoeForCausalLM",
        dict(
            WIDE_HEADS,
            **dict(EXPERTS, num_hidden_layers=3),
            num_experts=5,
            norm_topk_prob=False,
            mlp_only_layers=[1],
        ),
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        dict(
            DEEPSEEK,
            q_lora_rank=16,
            n_group=4,
            topk_group=2,
            n_shared_experts=1,
            norm_topk_prob=True,
            routed_scaling_factor=2.5,
            rope_scaling=dict(STRETCHED, type="yarn", mscale=1.0, mscale_all_dim=0.7),
        ),
    ),
    "deepseek_v3_plain": (
        "DeepseekV3ForCausalLM",
        dict(
            DEEPSEEK,
            q_lora_rank=None,
            n_group=1,
            topk_group=1,
            n_shared_experts=2,
            norm_topk_prob=False,
            routed_scaling_factor=1.0,
        ),
    ),
    "deepseek_v2": (
        "DeepseekV2ForCausalLM",
        dict(
            DEEPSEEK,
            q_lora_rank=None,
            n_shared_experts=2,
            topk_method="greedy",
            norm_topk_prob=False,
            routed_scaling_factor=1.0,
            rope_scaling=dict(STRETCHED, type="yarn", mscale=0.7, mscale_all_dim=0.7),
        ),
    ),
    "deepseek_v2_normalized": (  # by config.json alone: transformers never reads norm_topk_prob
        "DeepseekV2ForCausalLM",
        dict(
            DEEPSEEK,
            num_hidden_layers=2,
            q_lora_rank=None,
            n_shared_experts=1,
            topk_method="greedy",
            norm_topk_prob=True,
            routed_scaling_factor=1.5,
        ),
    ),
    "glm4": (
        "GlmForCausalLM",
        dict(LLAMA, head_dim=12, partial_rotary_factor=0.5, attention_bias=True),
    ),
    "chatglm3": (
        "ChatGLMModel",
        dict(
            padded_vocab_size=83,
            hidden_size=32,
            ffn_hidden_size=44,
            num_layers=3,
            num_attention_heads=4,
            kv_channels=8,
            multi_query_attention=True,
            multi_query_group_num=2,
            layernorm_epsilon=1e-4,
            add_bias_linear=False,
            add_qkv_bias=True,
            rmsnorm=True,
            post_layer_norm=True,
            apply_residual_connection_post_layernorm=False,
            original_rope=True,
            seq_length=512,
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=2,
        ),
    ),
}

BERT = dict(
    vocab_size=83,
    num_hidden_layers=3,
    max_position_embeddings=163,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=48,
)
ENCODERS: dict[str, Row] = {
    "bert": ("BertForPreTraining", BERT),
    "bert_odd": (
        "BertForPreTraining",
        dict(
            BERT,
            hidden_size=33,
            num_attention_heads=3,
            intermediate_size=47,
            hidden_act="gelu_new",
            layer_norm_eps=1e-4,
            type_vocab_size=3,
        ),
    ),
    "roberta": (
        "RobertaForMaskedLM",
        dict(BERT, layer_norm_eps=1e-5, type_vocab_size=1, pad_token_id=1),
    ),
}

T5 = dict(
    vocab_size=83,
    d_model=32,
    d_kv=6,
    d_ff=48,
    num_heads=4,
    num_layers=2,
    relative_attention_num_buckets=12,
    relative_attention_max_distance=50,
    layer_norm_epsilon=1e-4,
    pad_token_id=0,
    decoder_start_token_id=0,
)
ENCODER_DECODERS: dict[str, Row] = {
    "t5": ("T5ForConditionalGeneration", dict(T5, num_layers=3, num_decoder_layers=2)),
    "t5_v1_1": (
        "T5ForConditionalGeneration",
        dict(T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "t5_v1_1_tied": (  # as transformers 5 saves a new T5 1.1: no lm_head.weight, and no factor
        "T5ForConditionalGeneration",
        dict(
            T5,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=True,
            scale_decoder_outputs=False,
        ),
    ),
}

INFILLERS: dict[str, Row] = {
    "glm_10b": (
        "GLMModel",
        dict(
            vocab_size=83,
            hidden_size=32,
            num_layers=3,
            num_attention_heads=4,
            max_sequence_length=160,
            block_position_encoding=True,
            attention_scale=1.0,
        ),
    )
}
