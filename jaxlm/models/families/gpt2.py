"""GPT-2 (Radford et al. 2019) and GPT-3 (Brown et al. 2020, arXiv:2005.14165, table 2.1).

Learned positions, LayerNorm before each part, GELU by its tanh approximation, biases everywhere,
a tied head. GPT-3 has the same blocks; its alternating sparse attention is not published in full,
so its presets are dense. They are the table's rows except for one number: GPT-3 XL has 16 heads
here, as the table's 24 of size 128 would make 1.5 billion parameters instead of 1.3. The width of
13B is not num_heads * head_dim, which config.json cannot express.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.checks import checked, require, word_of
from jaxlm.models.families.shared.head_classes import TaskClass, decoder_tasks, linear
from jaxlm.models.families.shared.tensor import Tensor, one_of, part_of
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.attention import MultiHeadConfig
from jaxlm.nn.ffn import Activation, DenseConfig
from jaxlm.nn.heads.span import Span
from jaxlm.nn.norm import LayerNormConfig
from jaxlm.nn.position import LearnedConfig

VOCAB_SIZE = 50_257
ACTIVATIONS: dict[str, Activation] = {  # theirs -> ours
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
}
FIXED = {  # what config.json may say, and these models are
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def gpt2(
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    *,
    positions: int = 1024,
    head_dim: int | None = None,
) -> TransformerConfig:
    return TransformerConfig(
        hidden_size=hidden_size,
        num_layers=num_layers,
        attention=MultiHeadConfig(num_heads=num_heads, head_dim=head_dim, bias=True, out_bias=True),
        ffn=DenseConfig(activation="gelu_tanh", bias=True),
        norm=LayerNormConfig(eps=1e-5),
        position=(LearnedConfig(max_seq_len=positions),),
        vocab_size=VOCAB_SIZE,
        family="gpt2",
    )


def from_hf(values: Mapping[str, Any]) -> TransformerConfig:
    require(values, FIXED)
    return TransformerConfig(
        hidden_size=values["n_embd"],
        num_layers=values["n_layer"],
        attention=MultiHeadConfig(num_heads=values["n_head"], bias=True, out_bias=True),
        ffn=DenseConfig(
            activation=one_of(values, "activation_function", ACTIVATIONS, "gelu_new"),
            bias=True,
            intermediate_size=values.get("n_inner"),
        ),
        norm=LayerNormConfig(eps=values.get("layer_norm_epsilon", 1e-5)),
        position=(LearnedConfig(max_seq_len=values["n_positions"]),),
        vocab_size=values["vocab_size"],
        family="gpt2",
    )


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    c = config
    ffn = part_of(c.ffn, DenseConfig, "ffn")
    attention = part_of(c.attention, MultiHeadConfig, "attention")
    head_dim = attention.head_size(c.hidden_size)
    if attention.num_heads * head_dim != c.hidden_size:
        raise UserError(
            f"model.attention.head_dim: {head_dim} has no place in a GPT-2's config.json, where "
            "num_heads heads are as wide as hidden_size; set it so"
        )
    values = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": c.vocab_size,
        "n_embd": c.hidden_size,
        "n_layer": c.num_layers,
        "n_head": attention.num_heads,
        "n_inner": ffn.intermediate_size,
        "n_positions": part_of(c.position[0], LearnedConfig, "position").max_seq_len,
        "activation_function": word_of(ACTIVATIONS, ffn.activation),
        "layer_norm_epsilon": part_of(c.norm, LayerNormConfig, "norm").eps,
        **FIXED,
    }
    return checked(values, config, from_hf)


def tensors(config: TransformerConfig) -> list[Tensor]:
    layer = "transformer.h.{layer}."
    inputs = tuple(f"layers/attention/{name}" for name in ("query", "key", "value"))
    rows = [
        Tensor("transformer.wte.weight", "embed/table", "V D -> V D"),
        Tensor("lm_head.weight", "embed/table", "V D -> V D", optional=True),
        Tensor("transformer.wpe.weight", "position/table", "P D -> P D"),
        Tensor(
            layer + "attn.c_attn.weight",
            tuple(f"{name}/kernel" for name in inputs),
            "D (N H) -> D N H",
            dim=1,
        ),
        Tensor(layer + "attn.c_attn.bias", tuple(f"{n}/bias" for n in inputs), "(N H) -> N H"),
        Tensor(layer + "attn.c_proj.weight", "layers/attention/out/kernel", "(N H) D -> N H D"),
        Tensor(layer + "attn.c_proj.bias", "layers/attention/out/bias", "D -> D"),
        Tensor(layer + "mlp.c_fc.weight", "layers/ffn/up/kernel", "D F -> D F"),
        Tensor(layer + "mlp.c_fc.bias", "layers/ffn/up/bias", "F -> F"),
        Tensor(layer + "mlp.c_proj.weight", "layers/ffn/down/kernel", "F D -> F D"),
        Tensor(layer + "mlp.c_proj.bias", "layers/ffn/down/bias", "D -> D"),
    ]
    norms = {
        "transformer.ln_f": "final_norm",
        layer + "ln_1": "layers/attention_norm",
        layer + "ln_2": "layers/ffn_norm",
    }
    for name, path in norms.items():
        rows.append(Tensor(f"{name}.weight", f"{path}/scale", "D -> D"))
        rows.append(Tensor(f"{name}.bias", f"{path}/bias", "D -> D"))
    return rows


GPT3 = {  # table 2.1: layers, width, heads, size of a head; the paper's number of parameters
    "gpt3-125m": (12, 768, 12, 64, 125e6),
    "gpt3-350m": (24, 1024, 16, 64, 350e6),
    "gpt3-760m": (24, 1536, 16, 96, 760e6),
    "gpt3-1.3b": (24, 2048, 16, 128, 1.3e9),
    "gpt3-2.7b": (32, 2560, 32, 80, 2.7e9),
    "gpt3-6.7b": (32, 4096, 32, 128, 6.7e9),
    "gpt3-13b": (40, 5140, 40, 128, 13.0e9),
    "gpt3-175b": (96, 12_288, 96, 128, 175e9),
}


def gpt3(layers: int, width: int, heads: int, head_dim: int, _: float) -> TransformerConfig:
    own = None if width == heads * head_dim else head_dim
    return gpt2(width, layers, heads, positions=2048, head_dim=own)


FAMILY = Family(
    name="gpt2",
    architectures=("GPT2LMHeadModel",),
    bases=("GPT2Model",),
    tasks=(
        *decoder_tasks("GPT2", tagger="classifier"),
        TaskClass("GPT2ForQuestionAnswering", "GPT2Model", Span(), linear("qa_outputs")),
    ),
    from_hf=from_hf,
    to_hf=to_hf,
    tensors=tensors,
    ignored=(r"\.attn\.(masked_)?bias$",),  # the causal mask
    prefix="transformer.",
    presets={
        "gpt2": gpt2(768, 12, 12),
        "gpt2-medium": gpt2(1024, 24, 16),
        "gpt2-large": gpt2(1280, 36, 20),
        "gpt2-xl": gpt2(1600, 48, 25),
        **{name: gpt3(*numbers) for name, numbers in GPT3.items()},
    },
    num_params={
        "gpt2": 124_439_808,
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
        "gpt3-125m": 125_226_240,
        "gpt3-350m": 355_871_744,
        "gpt3-760m": 760_300_032,
        "gpt3-1.3b": 1_315_723_264,
        "gpt3-2.7b": 2_651_553_280,
        "gpt3-6.7b": 6_658_404_352,
        "gpt3-13b": 12_936_488_380,
        "gpt3-175b": 174_604_259_328,
    },
)
