"""Decoders against what transformers computes for them, and properties that each of them has.

A case is a fixture of a decoder whose architecture has a family: a new family adds a fixture and
nothing here. Encoders and what infills blanks: test_encoder_families.py. What config.json says and
cannot say: test_family_configs.py. The numbers as a table: python -m tests.models.parity.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jaxlm.core.tree import unflatten
from jaxlm.generate import Generator, Sampling
from jaxlm.mesh import MeshConfig
from jaxlm.models.families.shared.table import tensor_shapes, write_tensors
from tests.models.parity import (
    abstract_of,
    again,
    assert_same,
    assert_small,
    batch_of,
    computed,
    decoders,
    errors,
    errors_from,
    errors_of_values,
    firsts,
    golden,
    live_errors,
    model_of,
    results_of,
    spread,
    with_attention,
    with_slow,
)

CASES = decoders()
# Each has layers that no other of its list has; the rest of the families are made of the same.
WRITTEN = (  # by what is in the cache; latent and shared heads, windows in turns: test_beam.py
    "gpt2",  # a table of positions
    "llama_rope_dynamic",  # a rotation that follows the length
    "mixtral",
    "qwen2_window",  # a window in the last layers
)
KERNELS = (  # by what attention's kernel is asked for, and the order of unlike layers
    "deepseek_v3",  # latent; the first layer has no experts
    "smollm3",  # a layer without positions
)
SPLIT = (  # by the arrays that a mesh splits; low ranks: nn/test_latent.py
    "chatglm3",  # biases of queries, keys and values: slow, for GPT-2 has them
    "qwen3",  # norms of queries and keys
    "gpt2",  # biases everywhere, a table of positions, a tied head
    "mixtral",
)


# ----------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_and_parameter_is_read_and_written_back(name):
    case, _, _, _, _, shapes, pieces, params = model_of(name)
    assert pieces.keys() == shapes.keys()  # every parameter has its place in the file
    stored = {key: shape for key, (shape, _) in case.tensors.items()}
    assert tensor_shapes(pieces) == stored  # and every tensor its use
    assert {path: array.shape for path, array in params.items()} == shapes
    written, weights = dict(write_tensors(pieces, params.__getitem__)), case.weights()
    assert written.keys() == weights.keys()
    for key, array in written.items():
        assert array.tobytes() == weights[key].tobytes(), key


@pytest.mark.parametrize("name", [n for n in CASES if n not in firsts(CASES)])
def test_logits_states_and_loss(name):
    assert_small(errors_of_values(name))


@pytest.mark.parametrize("name", with_slow(CASES))
def test_logits_states_loss_and_gradients(name):
    """Rows are packed, while each document ran alone where the stored numbers come from."""
    assert_small(errors(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_what_is_installed_computes_what_is_stored(name, monkeypatch):
    """The same with transformers itself, where it and torch are."""
    assert_small(live_errors(name, monkeypatch))


@pytest.mark.parametrize("name", WRITTEN)
def test_greedy_generation_through_the_cache(name):
    """Each prompt alone, and both as a batch of unequal lengths."""
    case, model = golden(name), model_of(name)
    mesh = MeshConfig(data=2, num_devices=2).build()  # so that one and two prompts are one program
    program: Any = SimpleNamespace(graphdef=model.graphdef, mesh=mesh, model=model.config)
    want = case.arrays["greedy"].tolist()
    sampling = Sampling(max_tokens=len(want[0]), temperature=0)
    generate = Generator(program, sampling, eos_id=None, pad_id=0)
    params = unflatten(model.params)
    rows = zip(case.arrays["prompts"], case.arrays["prompt_lengths"], strict=True)
    prompts = [row[:length].tolist() for row, length in rows]
    assert generate(params, prompts) == want
    assert [ids for prompt in prompts for ids in generate(params, [prompt])] == want


# --------------------------------------------------------------- properties, without a new program


# row, first and last token of a document, and a place of it
PLACES = ((0, 0, 320, 318), (1, 0, 2, 0), (1, 2, 320, 72))


@pytest.mark.parametrize("name", firsts(CASES))
def test_a_token_influences_no_earlier_one(name):
    """By the gradient: each document has ids of its own up to its place, and others after it."""
    batch = batch_of(name)
    table = next(path for path in model_of(name).shapes if path.startswith("embed/"))
    span = model_of(name).config.vocab_size // (2 * len(PLACES))
    tokens, segments, positions = (np.zeros_like(batch["tokens"]) for _ in range(3))
    probe, rng = np.zeros_like(batch["probe"]), np.random.default_rng(0)
    for number, (row, start, end, place) in enumerate(PLACES):
        index, here = np.arange(start, end), np.s_[row, start:end]
        tokens[here] = rng.integers(span, size=len(index)) + span * (2 * number + (index > place))
        segments[here], positions[here] = number + 1, index - start
        probe[row, place] = rng.normal(size=probe.shape[-1])
    how = {"positions": positions, "segment_ids": segments}
    nothing = np.zeros_like(batch["weights"])
    _, gradients = again(name, tokens=tokens, how=how, probe=probe, weights=nothing)
    found = np.abs(gradients[table][: 2 * span * len(PLACES)]).max(axis=1).reshape(-1, 2, span)
    for (upto, later), (row, start, _, place) in zip(found, PLACES, strict=True):
        assert not later.any()
        assert upto[tokens[row, place] % span] > 0
        assert place == start or np.count_nonzero(upto) > 5  # the last layer alone sees 13 tokens


@pytest.mark.parametrize("name", firsts(CASES))
def test_neither_padding_nor_another_document_is_seen(name):
    """The first document of a row and its padding change; what is left is the same to the bit. The
    order of tokens hides a later document, and only the segments hide an earlier one.
    """
    batch, ((_, results), _) = batch_of(name), computed(name)
    tokens, segment_ids = batch["tokens"], batch["how"]["segment_ids"]
    second, padding = segment_ids == 2, segment_ids == 0
    first = second.any(axis=1, keepdims=True) & (segment_ids == 1)
    assert np.flatnonzero(first)[-1] < np.flatnonzero(second)[0]
    changed = np.where(first, (tokens + 5) % model_of(name).config.vocab_size, tokens)
    (_, others), _ = again(name, tokens=np.where(padding, 7, changed))
    kept = ~first & ~padding
    assert kept[second].all()
    np.testing.assert_array_equal(others["logits"][kept], results["logits"][kept])
    assert (others["logits"][first] != results["logits"][first]).any()


# ------------------------------------------------------------------ properties, by another program


@pytest.mark.parametrize("name", KERNELS)
def test_the_usual_kernel_and_unrolled_layers_give_the_same(name):
    config = model_of(name).config
    graphdef, _, _ = abstract_of(with_attention(config.replace(scan_layers=False), "auto"))
    found = jax.device_get(results_of(graphdef, name)(model_of(name).params, batch_of(name)))
    assert_small(errors_from(golden(name), model_of(name).pieces, found))
    assert_same(found, name)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "chatglm3")) for n in SPLIT]
)
def test_neither_a_mesh_nor_remat_changes_anything(name):
    """Split over data, fsdp and tensor, two devices each."""
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    assert_same(spread(name, mesh, lambda stack: stack.replace(remat="full")), name)
