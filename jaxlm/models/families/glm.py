"""GLM-4 (Zeng et al. 2024, arXiv:2406.12793) and ChatGLM2 and 3, in the formats of both programs.

Decoders of RMSNorm, SwiGLU, few key and value heads, biases of queries, keys and values alone,
and rotary positions on half of each head, in adjacent pairs. transformers' own class,
GlmForCausalLM, keeps queries, keys and values apart; ChatGLMModel, the code that is published with
ChatGLM2, ChatGLM3 and GLM-4, has them in one matrix, and stretches texts by a factor on RoPE's
base. ChatGLM-6B, the first, is another model: of 2-D positions, post-norm with a scaled residual.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.models.families.base import Family
from jaxlm.models.families.shared import rope
from jaxlm.models.families.shared.tensor import Tensor, one_of, part_of
from jaxlm.models.transformer import HeadConfig, TransformerConfig
from jaxlm.nn.attention import MultiHeadConfig
from jaxlm.nn.ffn import DenseConfig
from jaxlm.nn.norm import RMSNormConfig
from jaxlm.nn.position import RotaryConfig

THETA = 10_000.0
CHATGLM_FIXED = {  # what config.json may say, and these models are
    "multi_query_attention": True,
    "rmsnorm": True,
    "post_layer_norm": True,
    "original_rope": True,
    "add_bias_linear": False,
    "tie_word_embeddings": False,
    "apply_residual_connection_post_layernorm": False,
    "position_encoding_2d": False,
    "pre_seq_len": None,
    "quantization_bit": 0,
}


def glm4_from_hf(values: Mapping[str, Any]) -> TransformerConfig:
    position = values.get("rope_parameters") or {}
    for key in ("rope_type", "type"):
        one_of(position, key, {"default": None}, "default")
    theta = rope.said_once("rope_theta", position, values)
    fraction = rope.said_once("partial_rotary_factor", position, values)
    if values.get("rope_scaling") is not None:
        raise UserError("config.json: rope_scaling is set, which GLM-4 does not know; remove it")
    one_of(values, "hidden_act", {"silu": None}, "silu")
    return TransformerConfig(
        hidden_size=values["hidden_size"],
        num_layers=values["num_hidden_layers"],
        attention=MultiHeadConfig(
            num_heads=values["num_attention_heads"],
            num_kv_heads=values.get("num_key_value_heads"),
            head_dim=values.get("head_dim"),
            bias=values.get("attention_bias", False),
        ),
        ffn=DenseConfig(intermediate_size=values["intermediate_size"], activation="swiglu"),
        norm=RMSNormConfig(eps=values.get("rms_norm_eps", 1.5625e-7)),
        position=(
            RotaryConfig(
                theta=THETA if theta is None else theta,
                fraction=0.5 if fraction is None else fraction,
                interleaved=True,
            ),
        ),
        head=HeadConfig(tied=values.get("tie_word_embeddings", False)),
        vocab_size=values["vocab_size"],
        family="glm4",
    )


def glm4_to_hf(config: TransformerConfig) -> dict[str, Any]:
    c = config
    attention = part_of(c.attention, MultiHeadConfig, "attention")
    position = interleaved(c)
    return {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_size(c.hidden_size),
        "attention_bias": attention.bias,
        "intermediate_size": swiglu(c).width(c.hidden_size),
        "hidden_act": "silu",
        "rms_norm_eps": part_of(c.norm, RMSNormConfig, "norm").eps,
        "rope_theta": position.theta,
        "partial_rotary_factor": position.fraction,
        "tie_word_embeddings": c.head.tied,
    }


def glm4_tensors(config: TransformerConfig) -> list[Tensor]:
    layer = "model.layers.{layer}."
    head = Tensor("lm_head.weight", "unembed/kernel", "V D -> D V")
    again = Tensor("lm_head.weight", "embed/table", "V D -> V D", optional=True)
    rows = [
        Tensor("model.embed_tokens.weight", "embed/table", "V D -> V D"),
        again if config.head.tied else head,
        Tensor(layer + "self_attn.o_proj.weight", "layers/attention/out/kernel", OUT),
        Tensor(layer + "mlp.gate_up_proj.weight", GATE_UP, "F D -> D F"),
        Tensor(layer + "mlp.down_proj.weight", "layers/ffn/down/kernel", "D F -> F D"),
        *norms("model.norm", layer),
    ]
    for name, path in zip("qkv", INPUTS, strict=True):
        rows.append(Tensor(f"{layer}self_attn.{name}_proj.weight", f"{path}/kernel", IN))
        rows.append(Tensor(f"{layer}self_attn.{name}_proj.bias", f"{path}/bias", "(N H) -> N H"))
    return rows


def chatglm_from_hf(values: Mapping[str, Any]) -> TransformerConfig:
    for key, value in CHATGLM_FIXED.items():
        one_of(values, key, {value: value}, value)
    return TransformerConfig(
        hidden_size=values["hidden_size"],
        num_layers=values["num_layers"],
        attention=MultiHeadConfig(
            num_heads=values["num_attention_heads"],
            num_kv_heads=values["multi_query_group_num"],
            head_dim=values["kv_channels"],
            bias=values.get("add_qkv_bias", False),
        ),
        ffn=DenseConfig(intermediate_size=values["ffn_hidden_size"], activation="swiglu"),
        norm=RMSNormConfig(eps=values.get("layernorm_epsilon", 1e-5)),
        position=(
            RotaryConfig(theta=THETA * values.get("rope_ratio", 1), fraction=0.5, interleaved=True),
        ),
        head=HeadConfig(tied=False),
        vocab_size=values["padded_vocab_size"],
        family="chatglm",
    )


def chatglm_to_hf(config: TransformerConfig) -> dict[str, Any]:
    c = config
    attention = part_of(c.attention, MultiHeadConfig, "attention")
    position = interleaved(c)
    if position.fraction != 0.5 or c.head.tied:
        raise UserError(
            "model.position.fraction, model.head.tied: a ChatGLM has 0.5 and false; export as glm4"
        )
    return {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "padded_vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "num_layers": c.num_layers,
        "num_attention_heads": attention.num_heads,
        "multi_query_group_num": attention.kv_heads,
        "kv_channels": attention.head_size(c.hidden_size),
        "add_qkv_bias": attention.bias,
        "ffn_hidden_size": swiglu(c).width(c.hidden_size),
        "layernorm_epsilon": part_of(c.norm, RMSNormConfig, "norm").eps,
        "rope_ratio": position.theta / THETA,
        **CHATGLM_FIXED,
    }


def chatglm_tensors(config: TransformerConfig) -> list[Tensor]:
    root, layer = "transformer.encoder.", "transformer.encoder.layers.{layer}."
    kernels, biases = (tuple(f"{path}/{leaf}" for path in INPUTS) for leaf in ("kernel", "bias"))
    return [
        Tensor("transformer.embedding.word_embeddings.weight", "embed/table", "V D -> V D"),
        Tensor("transformer.output_layer.weight", "unembed/kernel", "V D -> D V"),
        Tensor(layer + "self_attention.query_key_value.weight", kernels, IN),
        Tensor(layer + "self_attention.query_key_value.bias", biases, "(N H) -> N H"),
        Tensor(layer + "self_attention.dense.weight", "layers/attention/out/kernel", OUT),
        Tensor(layer + "mlp.dense_h_to_4h.weight", GATE_UP, "F D -> D F"),
        Tensor(layer + "mlp.dense_4h_to_h.weight", "layers/ffn/down/kernel", "D F -> F D"),
        *norms(root + "final_layernorm", layer),
    ]


IN, OUT = "(N H) D -> D N H", "D (N H) -> N H D"
INPUTS = tuple(f"layers/attention/{name}" for name in ("query", "key", "value"))
GATE_UP = ("layers/ffn/gate/kernel", "layers/ffn/up/kernel")


def norms(last: str, layer: str) -> list[Tensor]:
    names = {last: "final_norm", layer + "input_layernorm": "layers/attention_norm"}
    names[layer + "post_attention_layernorm"] = "layers/ffn_norm"
    return [Tensor(f"{n}.weight", f"{path}/scale", "D -> D") for n, path in names.items()]


def interleaved(config: TransformerConfig) -> RotaryConfig:
    position = part_of(config.position[0], RotaryConfig, "position")
    if not position.interleaved or position.scaling is not None:
        raise UserError(
            "model.position: a GLM's angles turn adjacent pairs, without scaling; set interleaved "
            "to true and scaling to null"
        )
    return position


def swiglu(config: TransformerConfig) -> DenseConfig:
    ffn = part_of(config.ffn, DenseConfig, "ffn")
    if ffn.activation != "swiglu" or ffn.bias:
        raise UserError("model.ffn: a GLM's is swiglu without biases; set activation and bias")
    return ffn


def glm4(eps: float, theta: float = THETA) -> TransformerConfig:
    return TransformerConfig(
        hidden_size=4096,
        num_layers=40,
        attention=MultiHeadConfig(num_heads=32, num_kv_heads=2, head_dim=128, bias=True),
        ffn=DenseConfig(intermediate_size=13_696, activation="swiglu"),
        norm=RMSNormConfig(eps=eps),
        position=(RotaryConfig(theta=theta, fraction=0.5, interleaved=True),),
        head=HeadConfig(tied=False),
        vocab_size=151_552,
        family="glm4",
    )


CHATGLM = glm4(eps=1e-5).replace(num_layers=28, vocab_size=65_024, family="chatglm")

GLM4 = Family(
    name="glm4",
    model_types=("glm",),
    architectures=("GlmForCausalLM",),
    bases=("GlmModel",),
    from_hf=glm4_from_hf,
    to_hf=glm4_to_hf,
    tensors=glm4_tensors,
    prefix="model.",
    presets={
        "glm-4-9b": glm4(eps=1.5625e-7),
        "glm-4-9b-chat": glm4(eps=1.5625e-7, theta=5_000_000.0),
    },
    num_params={"glm-4-9b": 9_399_951_360, "glm-4-9b-chat": 9_399_951_360},
)
FAMILY = Family(
    name="chatglm",
    architectures=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
    from_hf=chatglm_from_hf,
    to_hf=chatglm_to_hf,
    tensors=chatglm_tensors,
    ignored=(r"\brotary_pos_emb\.inv_freq$",),
    idle=("bias_dropout_fusion", "interleaved_qkv", "prefix_projection"),
    prefix="transformer.",
    presets={
        "chatglm2-6b": CHATGLM,
        "chatglm3-6b": CHATGLM,
        "chatglm3-6b-32k": CHATGLM.replace(
            position=(RotaryConfig(theta=50 * THETA, fraction=0.5, interleaved=True),)
        ),
    },
    num_params={
        "chatglm2-6b": 6_243_584_000,
        "chatglm3-6b": 6_243_584_000,
        "chatglm3-6b-32k": 6_243_584_000,
    },
)
