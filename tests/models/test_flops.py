"""FLOPs from the module tree against the compiler's count of the lowered program, at full width.

Two layers (more where they differ) of a preset of every family, nothing allocated or compiled.
Which experts a token passes is not known to a compiler: their place is taken by one dense ffn as
wide as those that a token passes, and their router's product is counted by hand.
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
    for name, config in list(family.presets.items())[:1]  # the others are larger
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

    def logits(params: Any, tokens: Any, source: Any) -> Any:
        model = nnx.merge(graphdef, params)
        rows = lambda x: {"positions": x, "segment_ids": x}  # noqa: E731
        encoded = model.encode(source, **rows(source)) if few.encodes else None
        return model.logits(model(tokens, **rows(tokens), encoded=encoded).hidden)

    def count(source_len: int) -> float:
        ids = (jax.ShapeDtypeStruct((1, size), jnp.int32) for size in (LENGTH, source_len))
        return jax.jit(logits).lower(params, *ids).cost_analysis()["flops"]

    counted = count(LENGTH)
    # the program forms the scores of all pairs, and masks those out of a window or in the future
    masked = config.attention.score_flops(config.hidden_size) * sum(
        LENGTH - keys_met(LENGTH, few.attention.windows[i % len(few.attention.windows)], False)
        for i in range(few.num_layers)
    )
    said = module.flops_per_token(LENGTH, causal=False)
    assert counted / LENGTH + routing == pytest.approx(said + masked, rel=0.02)
    assert said >= module.flops_per_token(LENGTH)
    if few.encodes:  # another length of source, by what it adds to the same one
        more = module.flops_per_token(LENGTH, causal=False, source_len=5 * LENGTH // 2) - said
        assert (count(5 * LENGTH // 2) - counted) / LENGTH == pytest.approx(more, rel=0.02)


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
    if config.encodes:

        def read(params: Any, tokens: Any, segment_ids: Any) -> Any:
            model = nnx.merge(graphdef, params)
            encoded = model.encode(tokens, positions=tokens, segment_ids=segment_ids)
            return model.decoder.attention.prepare(encoded.hidden, segment_ids)

        of_source = jax.jit(read).lower(params, row, row).cost_analysis()["flops"]
        row_of = lambda size: size * module.flops_per_token(size, source_len=1)  # noqa: E731
        assert of_source == pytest.approx(2 * row_of(1) - row_of(2), rel=0.02)


def dense_twin(config: Any) -> tuple[Any, float]:
    """The model with a dense ffn in place of its experts, and the FLOPs a token of its routers."""
    if not isinstance(config.ffn, MoEConfig):
        return config, 0.0
    moe, dim = config.ffn, config.hidden_size
    width = moe.experts_per_token * moe.width(dim) + (moe.shared_size or 0)
    dense = DenseConfig(intermediate_size=width, activation=moe.activation)
    return config.replace(ffn=dense), config.num_layers * 2.0 * dim * moe.num_experts
