"""Shared by Llama and the decoders that follow it: keys of config.json and names of tensors.

A block is RMSNorm, rotary attention of grouped queries, RMSNorm, a gated ffn. A family is that with
some differences, which its own file states:

    config = read(values, "qwen2", DEFAULTS)          # raises UserError for what is not so here
    values = write(config, "Qwen2ForCausalLM", "qwen2")
    rows = tensors(config)                            # names such as model.layers.0.self_attn...

Layers with a window are named by `layer_types`, or by a rule of the family's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.models.families.shared import rope
from jaxlm.models.families.shared.checks import (
    demand,
    first_said,
    for_each_layer,
    require,
    spread,
    window_of,
    word_of,
)
from jaxlm.models.families.shared.tensor import Tensor, one_of, part_of
from jaxlm.models.transformer import HeadConfig, TransformerConfig
from jaxlm.nn.attention import MultiHeadConfig
from jaxlm.nn.ffn import Activation, DenseConfig
from jaxlm.nn.norm import RMSNormConfig
from jaxlm.nn.position import RotaryConfig

Values = Any  # a mapping; `|` joins it with others

ACTIVATIONS: dict[str, Activation] = {  # theirs -> ours; all are gated
    "silu": "swiglu",
    "gelu": "geglu",
    "gelu_pytorch_tanh": "geglu_tanh",
    "gelu_new": "geglu_tanh",
}
SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)
FIXED = {"quantization_config": None, "rope_interleaved": False}
TYPES = {"full_attention": False, "sliding_attention": True}


# -------------------------------------------------------------------------------------- config.json


def sizes(*numbers: int, **others: Any) -> dict[str, Any]:
    """Numbers in the order of `SIZES`, and other keys, as a config.json."""
    return {**dict(zip(SIZES, numbers, strict=True)), **others}


def read(values: Values, family: str, defaults: Values) -> TransformerConfig:
    """The model of a config.json; `defaults`: the values of absent keys in its class."""
    theta = defaults.get("rope_theta", 10_000.0)
    defaults = {key: value for key, value in defaults.items() if key != "rope_theta"}
    values = {"num_key_value_heads": None, **defaults} | values
    demand(values, (key for key in SIZES if key != "num_key_value_heads"))
    require(values, FIXED)
    num_heads = values["num_attention_heads"]
    if num_heads > values["hidden_size"] and values.get("head_dim") is None:
        raise UserError(
            f"config.json: num_attention_heads is {num_heads}, more than hidden_size "
            f"{values['hidden_size']}; take the file that came with the model"
        )
    biased = values.get("attention_bias", False)
    return TransformerConfig(
        hidden_size=values["hidden_size"],
        num_layers=values["num_hidden_layers"],
        attention=MultiHeadConfig(
            num_heads=num_heads,
            num_kv_heads=first_said(values, "num_key_value_heads", "num_attention_heads"),
            head_dim=first_said(
                {"width": values["hidden_size"] // num_heads} | values, "head_dim", "width"
            ),
            bias=biased,
            out_bias=biased,
        ),
        ffn=DenseConfig(
            intermediate_size=values["intermediate_size"],
            activation=one_of(values, "hidden_act", ACTIVATIONS, "silu"),
            bias=values.get("mlp_bias", False),
        ),
        norm=RMSNormConfig(eps=values.get("rms_norm_eps", 1e-6)),
        position=(rope.from_hf(values, theta=theta),),
        head=HeadConfig(tied=values.get("tie_word_embeddings", False)),
        vocab_size=values["vocab_size"],
        family=family,
    )


def write(config: TransformerConfig, architecture: str, model_type: str) -> dict[str, Any]:
    """The inverse of `read`, with the positions of the first layer that has them."""
    c = config
    attention = part_of(c.attention, MultiHeadConfig, "attention")
    ffn = part_of(c.ffn, DenseConfig, "ffn")
    turned: list[Any] = [p for p in c.position if isinstance(p, RotaryConfig)]
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_size(c.hidden_size),
        "attention_bias": attention.bias,
        "intermediate_size": ffn.width(c.hidden_size),
        "hidden_act": word_of(ACTIVATIONS, ffn.activation),
        "mlp_bias": ffn.bias,
        "rms_norm_eps": part_of(c.norm, RMSNormConfig, "norm").eps,
        "tie_word_embeddings": c.head.tied,
        **rope.to_hf(part_of([*turned, *c.position][0], RotaryConfig, "position")),
    }


# ------------------------------------------------------------------------------ layers with windows


def sliding_layers(values: Values, usual: Sequence[bool]) -> list[bool]:
    """The layers that have a window: `layer_types`, or those that are `usual` without it."""
    names = for_each_layer(values, "layer_types", len(usual))
    if names is None:
        return list(usual)
    return [one_of({"layer_types": name}, "layer_types", TYPES, None) for name in names]


def windows(size: int | None, sliding: Sequence[bool]) -> tuple[int | None, ...]:
    """`attention.window` for layers of which these have a window of `size`."""
    if any(sliding) and not size:
        raise UserError("config.json: layers have a window, but sliding_window is absent; add it")
    return window_of([size if has else None for has in sliding], len(sliding))


def window_values(config: TransformerConfig) -> dict[str, Any]:
    """`sliding_window` and `layer_types` of a config."""
    found = spread(config.attention.windows, config.num_layers)
    distinct = sorted({size for size in found if size})
    if len(distinct) > 1:
        raise UserError(
            f"model.attention.window: {distinct} are several windows, config.json can say one; "
            "make them equal"
        )
    names = {sliding: name for name, sliding in TYPES.items()}
    return {
        "sliding_window": distinct[0] if distinct else None,
        "layer_types": [names[size is not None] for size in found],
    }


# ------------------------------------------------------------------------------------------ tensors

PARTS = ("query", "key", "value")
NORMS = {"input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}
NORMS_ON_BOTH_SIDES = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "attention_post_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "ffn_post_norm",
}


def tensors(config: TransformerConfig) -> list[Tensor]:
    """The table of a decoder of one kind of ffn."""
    both = config.norm_placement == "both"
    norms = NORMS_ON_BOTH_SIDES if both else NORMS
    return [*outer_rows(config), *attention_rows("layers", norms=norms), *ffn_rows("layers")]


def outer_rows(config: TransformerConfig) -> list[Tensor]:
    """Embedding, last norm and head."""
    head = Tensor("lm_head.weight", "unembed/kernel", "V D -> D V")
    again = Tensor("lm_head.weight", "embed/table", "V D -> V D", optional=True)
    return [
        Tensor("model.embed_tokens.weight", "embed/table", "V D -> V D"),
        Tensor("model.norm.weight", "final_norm/scale", "D -> D"),
        again if config.head.tied else head,
    ]


def attention_rows(
    run: str, *, first_layer: int = 0, norms: Mapping[str, str] = NORMS
) -> list[Tensor]:
    """Norms and attention of the layers in `run`, whose first is the file's `first_layer`."""
    rows, there = [], "model.layers.{layer}."
    for part in PARTS:
        name, path = f"{there}self_attn.{part[0]}_proj", f"{run}/attention/{part}"
        rows.append((f"{name}.weight", f"{path}/kernel", "(N H) D -> D N H"))
        rows.append((f"{name}.bias", f"{path}/bias", "(N H) -> N H"))
    name, path = f"{there}self_attn.o_proj", f"{run}/attention/out"
    rows.append((f"{name}.weight", f"{path}/kernel", "D (N H) -> N H D"))
    rows.append((f"{name}.bias", f"{path}/bias", "D -> D"))
    for part in PARTS[:2]:
        path = f"{run}/attention/{part}_norm/scale"
        rows.append((f"{there}self_attn.{part[0]}_norm.weight", path, "H -> H"))
    for theirs, ours in norms.items():
        rows.append((f"{there}{theirs}.weight", f"{run}/{ours}/scale", "D -> D"))
    return [Tensor(*row, first_layer=first_layer) for row in rows]


def ffn_rows(run: str, *, first_layer: int = 0) -> list[Tensor]:
    """A gated ffn of the layers in `run`."""
    rows = []
    for part in ("gate", "up", "down"):
        name, path = f"model.layers.{{layer}}.mlp.{part}_proj", f"{run}/ffn/{part}"
        rows.append((f"{name}.weight", f"{path}/kernel", "O I -> I O"))
        rows.append((f"{name}.bias", f"{path}/bias", "O -> O"))
    return [Tensor(*row, first_layer=first_layer) for row in rows]
