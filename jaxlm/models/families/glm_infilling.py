"""GLM, the first (Du et al. 2021, arXiv:2103.10360): it writes the blanks of a text after the text.

GPT-2's blocks with two learned positions a token, and bidirectional attention within the text. A
row is the text, in which one id marks each blank, then the blanks in any order. The tokens of a
blank have the position of its id in the text, and a second position that counts from 1:

    tokens         x1  x2  [M] x4  [S] x3a x3b       the answer to [S] x3a x3b is x3a x3b [E]
    places[..., 0]  0   1   2   3   2   2   2
    places[..., 1]  0   0   0   0   1   2   3
    prefix          1   1   1   1   0   0   0        seen by all of the row

    model(tokens, positions=order, segment_ids=ones, places=places, prefix=prefix)

where `positions` is the order in the row. GELU is the tanh form that the models were trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.tensor import Tensor, one_of, part_of
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.attention import MultiHeadConfig
from jaxlm.nn.ffn import DenseConfig
from jaxlm.nn.learned_blocks import LearnedBlocksConfig
from jaxlm.nn.norm import LayerNormConfig
from jaxlm.nn.position import LearnedConfig

FIXED = {"relative_encoding": False, "output_predict": True, "spell_length": None}


def from_hf(values: Mapping[str, Any]) -> TransformerConfig:
    for key, value in FIXED.items():
        one_of(values, key, {value: value}, value)
    # With places in blanks there is one position more, which the tables have room for.
    blocks = values.get("block_position_encoding", True)
    positions = LearnedBlocksConfig if blocks else LearnedConfig
    return TransformerConfig(
        hidden_size=values["hidden_size"],
        num_layers=values["num_layers"],
        attention=MultiHeadConfig(
            num_heads=values["num_attention_heads"], bias=True, out_bias=True
        ),
        ffn=DenseConfig(
            intermediate_size=4 * values["hidden_size"], activation="gelu_tanh", bias=True
        ),
        norm=LayerNormConfig(eps=1e-5),
        position=(positions(max_seq_len=values["max_sequence_length"] + blocks),),
        vocab_size=values["vocab_size"],
        family="glm",
    )


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    c = config
    position = part_of(c.position[0], LearnedConfig, "position")
    blocks = isinstance(position, LearnedBlocksConfig)
    values = {
        "architectures": ["GLMModel"],
        "model_type": "glm",
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "num_layers": c.num_layers,
        "num_attention_heads": c.attention.num_heads,
        "max_sequence_length": position.max_seq_len - blocks,
        "block_position_encoding": blocks,
        **FIXED,
    }
    want = from_hf(values)
    for part in ("attention", "ffn", "norm", "position", "head", "embedding"):
        if getattr(c, part) != getattr(want, part):
            raise UserError(f"model.{part}: a GLM's can be {getattr(want, part)} alone; set it so")
    return values


def tensors(config: TransformerConfig) -> list[Tensor]:
    layer = "transformer.layers.{layer}."
    inputs = [f"layers/attention/{name}" for name in ("query", "key", "value")]
    kernels, biases = (tuple(f"{path}/{leaf}" for path in inputs) for leaf in ("kernel", "bias"))
    positions = "transformer.position_embeddings.weight"
    blocks = "transformer.block_position_embeddings.weight"
    mixed, out = f"{layer}attention.query_key_value", f"{layer}attention.dense"
    rows = [
        Tensor("word_embeddings.weight", "embed/table", "V D -> V D"),
        Tensor(positions, "position/table", "P D -> P D"),
        Tensor(blocks, "position/blocks", "P D -> P D"),
        Tensor(f"{mixed}.weight", kernels, "(N H) D -> D N H"),
        Tensor(f"{mixed}.bias", biases, "(N H) -> N H"),
        Tensor(f"{out}.weight", "layers/attention/out/kernel", "D (N H) -> N H D"),
        Tensor(f"{out}.bias", "layers/attention/out/bias", "D -> D"),
    ]
    for name, path in {"dense_h_to_4h": "up", "dense_4h_to_h": "down"}.items():
        rows.append(Tensor(f"{layer}mlp.{name}.weight", f"layers/ffn/{path}/kernel", "O I -> I O"))
        rows.append(Tensor(f"{layer}mlp.{name}.bias", f"layers/ffn/{path}/bias", "O -> O"))
    for name, path in {
        "transformer.final_layernorm": "final_norm",
        f"{layer}input_layernorm": "layers/attention_norm",
        f"{layer}post_attention_layernorm": "layers/ffn_norm",
    }.items():
        rows.append(Tensor(f"{name}.weight", f"{path}/scale", "D -> D"))
        rows.append(Tensor(f"{name}.bias", f"{path}/bias", "D -> D"))
    return rows


SIZES = {  # layers, width, heads, longest text, ids
    "glm-base": (12, 768, 12, 512, 30_592),
    "glm-large": (24, 1024, 16, 512, 30_592),
    "glm-410m": (30, 1024, 16, 512, 30_592),
    "glm-515m": (30, 1152, 18, 512, 30_592),
    "glm-2b": (36, 2048, 32, 1024, 50_304),
    "glm-10b": (48, 4096, 64, 1024, 50_304),
    "glm-10b-chinese": (48, 4096, 64, 1024, 50_048),
}
KEYS = ("num_layers", "hidden_size", "num_attention_heads", "max_sequence_length", "vocab_size")

FAMILY = Family(
    name="glm",
    architectures=("GLMModel", "GLMForConditionalGeneration"),
    from_hf=from_hf,
    to_hf=to_hf,
    tensors=tensors,
    prefix="glm.",
    idle=("attention_scale", "parallel_output", "checkpoint_activations", "checkpoint_num_layers"),
    presets={name: from_hf(dict(zip(KEYS, sizes, strict=True))) for name, sizes in SIZES.items()},
    num_params={  # published as 110M, 335M, 410M, 515M, 2B and 10B
        "glm-base": 109_338_624,
        "glm-large": 334_688_256,
        "glm-410m": 410_265_600,
        "glm-515m": 514_632_960,
        "glm-2b": 1_920_122_880,
        "glm-10b": 9_880_682_496,
        "glm-10b-chinese": 9_879_633_920,
    },
)
