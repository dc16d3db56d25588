"""FLOPs from the module tree against the compiler's count of the lowered program, at full width.

Two layers (more where they differ) of every family's presets, nothing allocated or compiled.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxlm.models.families import families
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.ffn import DenseConfig
from jaxlm.nn.params import split

LENGTH = 256
PRESETS = {
    name: config
    for family in families()
    for name, config in list(family.presets.items())[:3]
    if isinstance(config, TransformerConfig) and isinstance(config.ffn, DenseConfig)
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
    few = few.replace(dtype="float32")
    module = nnx.eval_shape(lambda: few.build(few.vocab_size, rngs=nnx.Rngs(0)))
    graphdef, params, _ = split(module)
    tokens = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)

    def logits(params: Any, tokens: Any, positions: Any, segment_ids: Any) -> Any:
        model = nnx.merge(graphdef, params)
        rows = {"positions": positions, "segment_ids": segment_ids}
        encoded = model.encode(tokens, **rows) if few.encodes else None
        return model.logits(model(tokens, **rows, encoded=encoded).hidden)

    counted = jax.jit(logits).lower(params, tokens, tokens, tokens).cost_analysis()["flops"]
    # the program forms the scores of all pairs, and masks those out of a window or in the future
    whole = few.replace(attention=few.attention.replace(window=()))
    model = nnx.eval_shape(lambda: whole.build(whole.vocab_size, rngs=nnx.Rngs(0)))
    assert counted / LENGTH == pytest.approx(model.flops_per_token(LENGTH, causal=False), rel=0.02)
    assert module.flops_per_token(LENGTH, causal=False) >= module.flops_per_token(LENGTH)
