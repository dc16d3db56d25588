"""FLOPs from the module tree against the compiler's count of the lowered program, at full width.

Two layers (more where they differ) of every family's presets, nothing allocated or compiled. Which
experts a token passes is not known to a compiler: their place is taken by one dense ffn as wide as
those that a token passes, and their router's product is counted by hand.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxlm.models.families import families
from jaxlm.models.rnn import RNNConfig
from jaxlm.models.rnn_encoder import EncoderConfig
from jaxlm.models.rnn_seq2seq import RNNSeq2SeqConfig
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.ffn import DenseConfig
from jaxlm.nn.flops import keys_met
from jaxlm.nn.moe import MoEConfig
from jaxlm.nn.params import split

LENGTH = 256
SIZES: dict[str, Any] = {"hidden_size": 512, "embedding_size": 512, "dtype": "float32"}
PRESETS = {
    name: config
    for family in families()
    for name, config in list(family.presets.items())[:3]
    if isinstance(config, TransformerConfig)
}


def shortened(config: Any, layers: int) -> Any:
    """A stack of so few layers, unrolled, with all scores: a loop's body is counted once."""
    attention = config.attention.replace(impl="reference")
    return config.replace(num_layers=layers, scan_layers=False, attention=attention)


@pytest.mark.parametrize("name", PRESETS)
def test_flops_are_those_of_the_lowered_program(name: str) -> None:
    config = PRESETS[name]
    few = shortened(config, min(config.num_layers, max(2, config.period)))
    if config.encoder is not None:
        few = few.replace(encoder=shortened(config.encoder, 2))
    few = few.replace(dtype="float32", other_ffn=None)
    module = nnx.eval_shape(lambda: few.build(few.vocab_size, rngs=nnx.Rngs(0)))
    few, routing = dense_twin(few)
    graphdef, params, _ = split(nnx.eval_shape(lambda: few.build(few.vocab_size, rngs=nnx.Rngs(0))))
    tokens = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)

    def logits(params: Any, tokens: Any, positions: Any, segment_ids: Any) -> Any:
        model = nnx.merge(graphdef, params)
        rows = {"positions": positions, "segment_ids": segment_ids}
        encoded = model.encode(tokens, **rows) if few.encodes else None
        return model.logits(model(tokens, **rows, encoded=encoded).hidden)

    counted = jax.jit(logits).lower(params, tokens, tokens, tokens).cost_analysis()["flops"]
    # the program forms the scores of all pairs, and masks those out of a window or in the future
    masked = config.attention.score_flops(config.hidden_size) * sum(
        LENGTH - keys_met(LENGTH, few.attention.windows[i % len(few.attention.windows)], False)
        for i in range(few.num_layers)
    )
    said = module.flops_per_token(LENGTH, causal=False)
    assert counted / LENGTH + routing == pytest.approx(said + masked, rel=0.02)
    assert said >= module.flops_per_token(LENGTH)


RECURRENT = {
    **{
        cell: RNNConfig(cell=cell, num_layers=1, **SIZES)
        for cell in ("lstm", "gru", "elman", "mingru", "rglru")
    },
    **{
        attention: RNNSeq2SeqConfig(
            attention=attention, bridge="zero", encoder=EncoderConfig(hidden_size=512), **SIZES
        )
        for attention in ("bahdanau", "luong_general", "luong_concat")
    },
}


@pytest.mark.parametrize("name", RECURRENT)
def test_flops_of_recurrent_models_are_those_of_the_lowered_program(name: str) -> None:
    """Rows of one token, whose loops run once, as the compiler counts them."""
    config = RECURRENT[name]
    module = nnx.eval_shape(lambda: config.build(4096, rngs=nnx.Rngs(0)))
    graphdef, params, _ = split(module)
    row = jax.ShapeDtypeStruct((1, 1), jnp.int32)

    def logits(params: Any, tokens: Any, segment_ids: Any) -> Any:
        model = nnx.merge(graphdef, params)
        rows = {"positions": jnp.zeros_like(tokens), "segment_ids": segment_ids}
        encoded = {"encoded": model.encode(tokens, **rows)} if config.encodes else {}
        return model.logits(model(tokens, **rows, **encoded).hidden)

    counted = jax.jit(logits).lower(params, row, row).cost_analysis()["flops"]
    assert counted == pytest.approx(module.flops_per_token(1, causal=False), rel=0.02)
    assert module.flops_per_token(1) == module.flops_per_token(1, causal=False)


def dense_twin(config: Any) -> tuple[Any, float]:
    """The model with a dense ffn in place of its experts, and the FLOPs a token of its routers."""
    if not isinstance(config.ffn, MoEConfig):
        return config, 0.0
    moe, dim = config.ffn, config.hidden_size
    width = moe.experts_per_token * moe.width(dim) + (moe.shared_size or 0)
    dense = DenseConfig(intermediate_size=width, activation=moe.activation)
    return config.replace(ffn=dense), config.num_layers * 2.0 * dim * moe.num_experts
