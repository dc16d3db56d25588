"""Gemma 2 (Gemma Team 2024, arXiv:2408.00118) and the text of Gemma 3 (2025, arXiv:2503.19786).

RMSNorm on both sides of each part, its parameter the scale less one; embeddings times the root of
the width, which is rounded to the dtype that they have; GeGLU by the tanh form; scores scaled by a
number of the config's own. Gemma 2 has a window on every other layer and bounds scores and logits
by a tanh. Gemma 3 has a norm on each query and key head, a window on five layers of six, and a base
of their own for the angles of these.

Gemma 3 of 4B and more is published with a tower that sees images. Of such a file the text part is
read; what is written is a model of text alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.models.families.base import Family
from jaxlm.models.families.shared import rope
from jaxlm.models.families.shared.checks import checked, require, shortest, spread
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
from jaxlm.models.families.shared.tensor import Tensor, part_of
from jaxlm.models.transformer import EmbeddingConfig, TransformerConfig
from jaxlm.nn.attention import MultiHeadConfig
from jaxlm.nn.position import RotaryConfig

DEFAULTS: dict[str, Any] = {  # shared by both classes of transformers
    **sizes(2304, 26, 8, 4, 9216, 256_000),
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
}
GEMMA2 = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
GEMMA3: dict[str, Any] = {
    "vocab_size": 262_208,
    "sliding_window_pattern": 6,
}
THETA, LOCAL_THETA = 1_000_000.0, 10_000.0  # Gemma 3's defaults


def gemma2_from_hf(values: Any) -> TransformerConfig:
    values = {**DEFAULTS, **GEMMA2} | values
    config = gemma(values, "gemma2", [i % 2 == 0 for i in range(values["num_hidden_layers"])])
    softcap = values["attn_logit_softcapping"]
    return config.replace(attention=config.attention.replace(softcap=softcap))


def gemma3_from_hf(values: Any) -> TransformerConfig:
    values = {**DEFAULTS, **GEMMA3} | values.get("text_config", values)
    require(values, {"attn_logit_softcapping": None})
    period = values.get("_sliding_window_pattern", values["sliding_window_pattern"])
    usual = [(i + 1) % period > 0 for i in range(values["num_hidden_layers"])]
    newer = values.get("rope_parameters") or {}
    near, far = newer.get("sliding_attention") or {}, newer.get("full_attention") or {}
    older = values.get("rope_scaling") or {}
    rope.refuse_both(older, far, "rope_parameters.full_attention")
    # There are positions of two kinds, which the shared reader does not know.
    config = gemma(values | {"rope_parameters": None, "rope_scaling": None}, "gemma3", usual)
    kinds = {
        True: rope.rotary(near, values, theta=LOCAL_THETA, base="rope_local_base_freq"),
        False: rope.rotary(far or older, values, theta=THETA),
    }
    position = shortest([kinds[has] for has in sliding_layers(values, usual)])
    attention = config.attention.replace(qk_norm=True)
    return config.replace(attention=attention, position=position)


def gemma(values: Any, family: str, usual: Sequence[bool]) -> TransformerConfig:
    """The values that both share; `usual`: the layers with a window if config.json names none."""
    require(values, {"mlp_bias": False})
    if values.get("use_bidirectional_attention"):
        raise UserError(
            "config.json: use_bidirectional_attention is true, which makes an encoder of the "
            "model; known is false alone"
        )
    if values.get("hidden_act") not in (None, values["hidden_activation"]):
        raise UserError(
            f"config.json: hidden_act is {values['hidden_act']!r}, but hidden_activation, which "
            f"is what a Gemma reads, {values['hidden_activation']!r}; remove the wrong one"
        )
    config = read(values | {"hidden_act": values["hidden_activation"]}, family, {})
    window = windows(values["sliding_window"], sliding_layers(values, usual))
    return config.replace(
        attention=config.attention.replace(
            scale=values["query_pre_attn_scalar"] ** -0.5, window=window
        ),
        norm=config.norm.replace(one_plus=True),
        norm_placement="both",
        embedding=EmbeddingConfig(scale=config.hidden_size**0.5),
        head=config.head.replace(softcap=values.get("final_logit_softcapping")),
    )


def gemma2_to_hf(config: TransformerConfig) -> dict[str, Any]:
    values = gemma_to_hf(config, "Gemma2ForCausalLM", "gemma2")
    return checked(values, config, gemma2_from_hf)


def gemma3_to_hf(config: TransformerConfig) -> dict[str, Any]:
    values = gemma_to_hf(config, "Gemma3ForCausalLM", "gemma3_text")
    values["attn_logit_softcapping"] = None
    sliding = [kind == "sliding_attention" for kind in values["layer_types"]]
    for has, position in zip(sliding, spread(config.position, config.num_layers), strict=True):
        said = rope.to_hf(part_of(position, RotaryConfig, "position"))
        values |= {"rope_local_base_freq": said["rope_theta"]} if has else said
    if False in sliding:
        values["sliding_window_pattern"] = sliding.index(False) + 1
    return checked(values, config, gemma3_from_hf)


def gemma_to_hf(config: TransformerConfig, architecture: str, model_type: str) -> dict[str, Any]:
    attention = part_of(config.attention, MultiHeadConfig, "attention")
    values = write(config, architecture, model_type) | window_values(config)
    scale = attention.scale or attention.head_size(config.hidden_size) ** -0.5
    return {
        **values,
        "hidden_activation": values["hidden_act"],
        "query_pre_attn_scalar": max(1, round(scale**-2)),
        "attn_logit_softcapping": attention.softcap,
        "final_logit_softcapping": config.head.softcap,
    }


def with_images(config: TransformerConfig) -> list[Tensor]:
    """The table of a file that holds more than text."""
    return [dataclasses.replace(row, name=f"language_model.{row.name}") for row in tensors(config)]


def gemma2(*numbers: int, **others: Any) -> TransformerConfig:
    return gemma2_from_hf(sizes(*numbers, 256_000, **others))


def gemma3(*numbers: int, **others: Any) -> TransformerConfig:
    scaling = {"rope_type": "linear", "factor": 8.0}
    others = {"sliding_window": 1024, "rope_scaling": scaling, **others}
    return gemma3_from_hf(sizes(*numbers, **others))


FAMILY = Family(
    name="gemma2",
    architectures=("Gemma2ForCausalLM",),
    bases=("Gemma2Model",),
    tasks=decoder_tasks("Gemma2"),
    from_hf=gemma2_from_hf,
    to_hf=gemma2_to_hf,
    tensors=tensors,
    prefix="model.",
    presets={
        "gemma-2-2b": gemma2(2304, 26, 8, 4, 9216),
        "gemma-2-9b": gemma2(3584, 42, 16, 8, 14_336),
        "gemma-2-27b": gemma2(4608, 46, 32, 16, 36_864, head_dim=128, query_pre_attn_scalar=144),
    },
    num_params={
        "gemma-2-2b": 2_614_341_888,
        "gemma-2-9b": 9_241_705_984,
        "gemma-2-27b": 27_227_128_320,
    },
)
GEMMA3_TEXT = Family(
    name="gemma3",
    model_types=("gemma3_text", "gemma3"),
    architectures=("Gemma3ForCausalLM",),
    bases=("Gemma3TextModel",),
    from_hf=gemma3_from_hf,
    to_hf=gemma3_to_hf,
    tensors=tensors,
    prefix="model.",
    presets={
        "gemma-3-1b": gemma3(1152, 26, 4, 1, 6912, 262_144, sliding_window=512, rope_scaling=None),
        "gemma-3-4b": gemma3(2560, 34, 8, 4, 10_240, 262_208),
        "gemma-3-12b": gemma3(3840, 48, 16, 8, 15_360, 262_208),
        "gemma-3-27b": gemma3(
            5376, 62, 32, 16, 21_504, 262_208, head_dim=128, query_pre_attn_scalar=168
        ),
    },
    num_params={  # the text parts
        "gemma-3-1b": 999_885_952,
        "gemma-3-4b": 3_880_263_168,
        "gemma-3-12b": 11_766_034_176,
        "gemma-3-27b": 27_009_346_304,
    },
)
GEMMA3_IMAGES = Family(  # read alone: what is written of it is a gemma3
    name="gemma3_images",
    model_types=("gemma3",),
    architectures=("Gemma3ForConditionalGeneration",),
    from_hf=gemma3_from_hf,
    to_hf=gemma3_to_hf,
    tensors=with_images,
    idle=(
        "vision_config",
        "mm_tokens_per_image",
        "boi_token_index",
        "eoi_token_index",
        "image_token_index",
    ),
    ignored=(r"^vision_tower\.", r"^multi_modal_projector\."),
)
