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

from jaxlm.adapters.base import Adapter
from jaxlm.adapters.freeze import Freeze
from jaxlm.adapters.lora import LoRA
from jaxlm.core.tree import flatten, join
from jaxlm.models.families import families
from jaxlm.models.rnn import RNNConfig
from jaxlm.models.rnn_encoder import EncoderConfig
from jaxlm.models.rnn_seq2seq import RNNSeq2SeqConfig
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.ffn import DenseConfig
from jaxlm.nn.flops import keys_met, matmul_flops
from jaxlm.nn.heads.classify import Classify
from jaxlm.nn.moe import MoEConfig
from jaxlm.nn.params import split
from jaxlm.objectives.classification import Classification
from tests import tiny

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
        encoded = model.encode(source, **rows(source)) if few.is_encoder_decoder else None
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
    said = module.flops_per_token(LENGTH, is_causal=False)
    assert counted / LENGTH + routing == pytest.approx(said + masked, rel=0.02)
    assert said >= module.flops_per_token(LENGTH)
    if few.is_encoder_decoder:  # another length of source, by what it adds to the same one
        more = module.flops_per_token(LENGTH, is_causal=False, source_len=5 * LENGTH // 2) - said
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
        encoded = {"encoded": model.encode(tokens, **rows)} if config.is_encoder_decoder else {}
        return model.logits(model(tokens, **rows, **encoded).hidden)

    counted = jax.jit(logits).lower(params, row, row).cost_analysis()["flops"]
    assert counted == pytest.approx(module.flops_per_token(1, is_causal=False), rel=0.02)
    assert module.flops_per_token(1) == module.flops_per_token(1, is_causal=False)
    if config.is_encoder_decoder:

        def read(params: Any, tokens: Any, segment_ids: Any) -> Any:
            model = nnx.merge(graphdef, params)
            encoded = model.encode(tokens, positions=tokens, segment_ids=segment_ids)
            return model.decoder.attention.prepare(encoded.hidden, segment_ids)

        of_source = jax.jit(read).lower(params, row, row).cost_analysis()["flops"]
        row_of = lambda size: size * module.flops_per_token(size, source_len=1)  # noqa: E731
        assert of_source == pytest.approx(2 * row_of(1) - row_of(2), rel=0.02)


STEPS = [
    # (the model, the adapter, whether the head is the embedding)
    ("transformer", LoRA(rank=4), True),
    ("transformer", LoRA(rank=4, train=("embed",)), False),
    ("transformer", Freeze(train=("embed", "ffn")), True),
    ("lstm", LoRA(rank=4, train=("embed",)), False),
]


@pytest.mark.parametrize(("name", "adapter", "tied"), STEPS)
def test_flops_of_a_step_with_frozen_kernels_are_those_of_the_lowered_gradient(
    name: str, adapter: Adapter, tied: bool
) -> None:
    """Loops of the LSTM run once: rows of one token."""
    config, length = tiny.load("transformer").config, 64
    if name == "transformer":
        head = config.model.head.replace(tied=tied)
        model = shortened(config.model, 2).replace(vocab_size=512, hidden_size=256, head=head)
    else:
        model, length = RNNConfig(num_layers=1, tie_embeddings=tied, **SIZES), 1
        model = model.replace(vocab_size=4096)
    program = tiny.program(config, model=model, adapter=adapter)
    shapes = program.abstract_params

    def loss(trained: Any, base: Any, tokens: Any) -> jax.Array:
        module = nnx.merge(program.graphdef, join(trained, base))
        rows = {"positions": jnp.zeros_like(tokens), "segment_ids": jnp.ones_like(tokens)}
        return module.logits(module(tokens, **rows).hidden).sum()

    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
    step = jax.jit(jax.value_and_grad(loss))
    lowered = step.lower(program.trained(shapes), program.base(shapes), ids)
    counted = lowered.cost_analysis()["flops"]
    half = program.step_flops_per_token(length)  # of the pairs of tokens
    module = nnx.merge(program.graphdef, shapes)
    forward = module.flops_per_token(length, is_causal=False)
    masked = 3 * (forward - module.flops_per_token(length))  # scores that the program forms
    # the kernels that read a frozen embedding need no gradient of it
    first = 0.0
    if not any("embed" in path for path in flatten(program.trained(shapes))):
        attention = module.layers.attention
        parts = (attention.query, attention.key, attention.value)
        first = sum(matmul_flops(part) for part in parts) / 2
        first -= sum(2.0 * part.adapter.lora_b.size for part in parts) / 2
    # the change of a recurrent kernel, once a step: A B and its gradients, scaled and added
    change = (3 * 2.0 * 4 + 3) * 512 * 2048 if name == "lstm" else 0.0
    wanted = half + masked - first + change / length
    assert counted / length == pytest.approx(wanted, rel=0.02)
    assert half < 3 * program.flops_per_token(length)


def test_a_step_that_trains_a_head_alone_is_a_forward_pass() -> None:
    config = tiny.load("transformer").config
    plain = tiny.program(config)
    assert plain.step_flops_per_token(32) == 3 * plain.flops_per_token(32)
    objective = Classification(classes=("a", "b"))
    probe = tiny.program(config, objective=objective, adapter=Freeze())
    assert probe.step_flops_per_token(32) == probe.flops_per_token(32) > 0


@pytest.mark.parametrize(("name", "length"), [("transformer", 64), ("bert", 32), ("lstm", 1)])
def test_a_classifier_does_not_count_an_output_embedding(name: str, length: int) -> None:
    config = tiny.load(name).config
    if name == "lstm":  # its loop runs once
        model = RNNConfig(num_layers=1, **SIZES).replace(vocab_size=4096)
    else:
        model = shortened(config.model, 2).replace(vocab_size=4096, hidden_size=256)
    objective = Classification(classes=("a", "b"), head=Classify(pool="mean"))
    program = tiny.program(config, model=model, objective=objective)
    row = jax.ShapeDtypeStruct((1, length), jnp.int32)
    batch = dict.fromkeys(("tokens", "positions", "segment_ids"), row)

    def scores(params: Any, batch: Any) -> jax.Array:
        return objective.scores(nnx.merge(program.graphdef, params), batch)[0]

    counted = jax.jit(scores).lower(program.abstract_params, batch).cost_analysis()["flops"]
    module = nnx.merge(program.graphdef, program.abstract_params)
    masked = module.flops_per_token(length, is_causal=False) - module.flops_per_token(length)
    said = program.flops_per_token(length)
    # the program has norms and activations as well
    assert said + masked == pytest.approx(counted / length, rel=0.06)
    assert module.flops_per_token(length) - said >= 2 * 4096 * model.output_size


def dense_twin(config: Any) -> tuple[Any, float]:
    """The model with a dense ffn in place of its experts, and the FLOPs a token of its routers."""
    if not isinstance(config.ffn, MoEConfig):
        return config, 0.0
    moe, dim = config.ffn, config.hidden_size
    width = moe.experts_per_token * moe.width(dim) + (moe.shared_size or 0)
    dense = DenseConfig(intermediate_size=width, activation=moe.activation)
    return config.replace(ffn=dense), config.num_layers * 2.0 * dim * moe.num_experts
