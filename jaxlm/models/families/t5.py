"""T5 (Raffel et al. 2019, arXiv:1910.10683), 1.0 and 1.1 (Shazeer 2020, arXiv:2002.05202).

An encoder and a decoder that looks at its output, over one embedding. RMSNorm before each part,
no biases, scores that are not scaled, and a learned bias on them by head and distance, one table a
stack, which all of its layers share. 1.0 has a ReLU and a tied head with a factor hidden_size **
-0.5; 1.1 a gated GELU and a head of its own. What is written begins with the padding id, 0.

transformers 5 writes "tie_word_embeddings": true for all of them, and "scale_decoder_outputs":
whether the factor is there. A model without the factor has a head of its own if its file has
lm_head.weight; else the head is the embedding (`completed`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.data.prompt_formats.encode_source import EncodeSource
from jaxlm.models.blocks import StackConfig
from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.checks import first_said, require
from jaxlm.models.families.shared.tensor import Tensor, one_of, part_of
from jaxlm.models.transformer import HeadConfig, TransformerConfig
from jaxlm.nn.attention import MultiHeadConfig
from jaxlm.nn.ffn import Activation, DenseConfig, is_gated
from jaxlm.nn.norm import RMSNormConfig
from jaxlm.nn.position import RelativeConfig

ACTIVATIONS: dict[str, Activation] = {  # feed_forward_proj -> ours
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "silu": "silu",
    "gated-gelu": "geglu_tanh",
    "gated-silu": "swiglu",
}


def from_hf(values: Mapping[str, Any]) -> TransformerConfig:
    width = values["d_model"]
    word = values.get("feed_forward_proj", "relu")
    activation: Activation = one_of(values, "feed_forward_proj", ACTIVATIONS, "relu")
    # transformers writes what follows from the word besides.
    inner = {"gated-gelu": "gelu_new"}.get(word, word.removeprefix("gated-"))
    require(values, {"is_gated_act": is_gated(activation), "dense_act_fn": inner})
    tied = values.get("tie_word_embeddings", True)
    if not tied and values.get("scale_decoder_outputs"):
        raise UserError(
            "config.json: tie_word_embeddings is false, but scale_decoder_outputs, which tied "
            "heads alone have, is true; correct the one that is wrong"
        )
    head = head_of(width, values.get("scale_decoder_outputs", tied))
    if tied and not head.tied:
        head = HeadConfig()
    decoder = TransformerConfig(
        hidden_size=width,
        num_layers=first_said(values, "num_decoder_layers", "num_layers"),
        attention=MultiHeadConfig(
            num_heads=values["num_heads"], head_dim=values["d_kv"], scale=1.0
        ),
        ffn=DenseConfig(
            intermediate_size=values["d_ff"],
            activation=activation,
        ),
        norm=RMSNormConfig(eps=values.get("layer_norm_epsilon", 1e-6)),
        position=(
            RelativeConfig(
                num_buckets=values.get("relative_attention_num_buckets", 32),
                max_distance=values.get("relative_attention_max_distance", 128),
            ),
        ),
        head=head,
        vocab_size=values["vocab_size"],
        prompt=EncodeSource(
            start_id=values.get("decoder_start_token_id", values.get("pad_token_id", 0))
        ),
        family="t5",
    )
    return decoder.replace(encoder=encoder_of(decoder, values["num_layers"]))


def head_of(width: int, tied: bool) -> HeadConfig:
    return HeadConfig(scale=width**-0.5) if tied else HeadConfig(tied=False)


def completed(config: TransformerConfig, names: Collection[str]) -> TransformerConfig:
    """A head without the factor is the embedding unless the file has another one."""
    if config.head == HeadConfig() and "lm_head.weight" in names:
        return config.replace(head=HeadConfig(tied=False))
    return config


def encoder_of(decoder: TransformerConfig, num_layers: int) -> StackConfig:
    """The encoder's stack: like the decoder's, with bidirectional attention."""
    same = {f.name: getattr(decoder, f.name) for f in dataclasses.fields(StackConfig)}
    attention = decoder.attention.replace(is_causal=False)
    return StackConfig(**{**same, "num_layers": num_layers, "attention": attention})


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    c, names = config, {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    ffn = part_of(c.ffn, DenseConfig, "ffn")
    position = part_of(c.position[0], RelativeConfig, "position")
    attention = part_of(c.attention, MultiHeadConfig, "attention")
    if c.encoder is None or c.encoder != encoder_of(c, c.encoder.num_layers):
        raise UserError(
            "model.encoder: a T5 has two stacks that differ in their number of layers alone; give "
            "it the decoder's fields"
        )
    if c.head not in (head_of(c.hidden_size, True), HeadConfig(tied=False), HeadConfig()):
        raise UserError(
            "model.head: a T5 has a tied head of scale hidden_size ** -0.5 or 1, or a head of "
            "its own; choose one"
        )
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": c.vocab_size,
        "d_model": c.hidden_size,
        "d_kv": attention.head_size(c.hidden_size),
        "d_ff": ffn.width(c.hidden_size),
        "num_layers": c.encoder.num_layers,
        "num_decoder_layers": c.num_layers,
        "num_heads": attention.num_heads,
        "relative_attention_num_buckets": position.num_buckets,
        "relative_attention_max_distance": position.max_distance,
        "feed_forward_proj": names[ffn.activation],
        "layer_norm_epsilon": part_of(c.norm, RMSNormConfig, "norm").eps,
        "tie_word_embeddings": c.head.tied,
        "decoder_start_token_id": getattr(c.prompt_format, "start_id", None),
        **({"scale_decoder_outputs": False} if c.head == HeadConfig() else {}),
    }


def tensors(config: TransformerConfig) -> list[Tensor]:
    gated = is_gated(part_of(config.ffn, DenseConfig, "ffn").activation)
    head = Tensor("lm_head.weight", "unembed/kernel", "V D -> D V")
    again = Tensor("lm_head.weight", "embed/table", "V D -> V D", optional=True)
    rows = [
        Tensor("shared.weight", "embed/table", "V D -> V D"),
        again if config.head.tied else head,
    ]
    for side in ("encoder", "decoder"):  # the embedding once more for each stack
        name = f"{side}.embed_tokens.weight"
        rows.append(Tensor(name, "embed/table", "V D -> V D", optional=True))
    for side, root in {"encoder": "encoder/", "decoder": ""}.items():
        first, layer = f"{side}.block.0.layer.", f"{side}.block.{{layer}}.layer."
        look, read, think = (f"{root}layers/{part}" for part in ("attention", "cross", "ffn"))
        rows += [
            Tensor(
                f"{first}0.SelfAttention.relative_attention_bias.weight",
                f"{root}position/table",
                "P N -> P N",
            ),
            *attention(f"{layer}0", "SelfAttention", look),
            *(attention(f"{layer}1", "EncDecAttention", read) if side == "decoder" else []),
            *ffn(f"{layer}{2 if side == 'decoder' else 1}", think, gated),
            Tensor(f"{side}.final_layer_norm.weight", f"{root}final_norm/scale", "D -> D"),
        ]
    return rows


def attention(there: str, name: str, here: str) -> list[Tensor]:
    inputs = [
        Tensor(f"{there}.{name}.{part[0]}.weight", f"{here}/{part}/kernel", "(N H) D -> D N H")
        for part in ("query", "key", "value")
    ]
    return [
        *inputs,
        Tensor(f"{there}.{name}.o.weight", f"{here}/out/kernel", "D (N H) -> N H D"),
        Tensor(f"{there}.layer_norm.weight", f"{here}_norm/scale", "D -> D"),
    ]


def ffn(there: str, here: str, gated: bool) -> list[Tensor]:
    names = {"wi_0": "gate", "wi_1": "up"} if gated else {"wi": "up"}
    kernels = [
        Tensor(f"{there}.DenseReluDense.{theirs}.weight", f"{here}/{ours}/kernel", "O I -> I O")
        for theirs, ours in {**names, "wo": "down"}.items()
    ]
    return [*kernels, Tensor(f"{there}.layer_norm.weight", f"{here}_norm/scale", "D -> D")]


def preset(*sizes: int, v1_1: bool = False) -> TransformerConfig:
    """A published model: its width, layers of each stack, heads, size of a head, width inside."""
    width, num_layers, num_heads, head_dim, inner = sizes
    return from_hf(
        {
            "d_model": width,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "d_kv": head_dim,
            "d_ff": inner,
            "vocab_size": 32_128,
            "feed_forward_proj": "gated-gelu" if v1_1 else "relu",
            "tie_word_embeddings": not v1_1,
        }
    )


FAMILY = Family(
    name="t5",
    architectures=("T5ForConditionalGeneration",),
    from_hf=from_hf,
    to_hf=to_hf,
    tensors=tensors,
    completed=completed,
    refused={
        f"T5For{task}Classification": "reads one text in both of its stacks, which no head here "
        "does; bring a T5ForConditionalGeneration"
        for task in ("Sequence", "Token")
    },
    idle=("n_positions",),
    ignored=(r"EncDecAttention\.relative_attention_bias",),  # in the first files; nothing reads it
    presets={
        "t5-small": preset(512, 6, 8, 64, 2048),
        "t5-base": preset(768, 12, 12, 64, 3072),
        "t5-large": preset(1024, 24, 16, 64, 4096),
        "t5-3b": preset(1024, 24, 32, 128, 16_384),
        "t5-11b": preset(1024, 24, 128, 128, 65_536),
        "t5-v1.1-small": preset(512, 8, 6, 64, 1024, v1_1=True),
        "t5-v1.1-base": preset(768, 12, 12, 64, 2048, v1_1=True),
        "t5-v1.1-large": preset(1024, 24, 16, 64, 2816, v1_1=True),
        "t5-v1.1-xl": preset(2048, 24, 32, 64, 5120, v1_1=True),
        "t5-v1.1-xxl": preset(4096, 24, 64, 64, 10_240, v1_1=True),
    },
    num_params={
        "t5-small": 60_506_624,
        "t5-base": 222_903_552,
        "t5-large": 737_668_096,
        "t5-3b": 2_851_598_336,
        "t5-11b": 11_307_321_344,
        "t5-v1.1-small": 76_961_152,
        "t5-v1.1-base": 247_577_856,
        "t5-v1.1-large": 783_150_080,
        "t5-v1.1-xl": 2_849_757_184,
        "t5-v1.1-xxl": 11_135_332_352,
    },
)
