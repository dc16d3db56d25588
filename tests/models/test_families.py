"""Decoders against what transformers computes for them, and properties that each of them has.

A case is a fixture of a decoder whose architecture has a family: a new family adds a fixture and
nothing here. Encoders and what infills blanks: test_encoder_families.py. What config.json says and
cannot say: test_family_configs.py. The numbers as a table: python -m tests.models.parity.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jaxlm.generate import Generator, Sampling
from jaxlm.mesh import MeshConfig, batch_sharding
from jaxlm.models.families.table import tensor_shapes, write_tensors
from jaxlm.tree import flatten, unflatten
from tests.golden_nn import assert_close
from tests.models.parity import (
    abstract_of,
    again,
    architecture_of,
    assert_small,
    batch_of,
    computed,
    decoders,
    errors,
    errors_from,
    first_that_divides,
    firsts,
    golden,
    model_of,
    real_of,
    results_of,
    with_attention,
)

CASES = decoders()


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


@pytest.mark.parametrize("name", CASES)
def test_logits_states_loss_and_gradients(name):
    """Rows are packed, while each document ran alone where the stored numbers come from."""
    assert_small(errors(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_what_is_installed_computes_what_is_stored(name, monkeypatch):
    """The same with transformers itself, where it and torch are."""
    for needed in ("torch", "safetensors"):
        pytest.importorskip(needed)
    transformers = pytest.importorskip("transformers")
    tool, case = importlib.import_module("tools.make_golden_families"), golden(name)
    monkeypatch.setattr(tool, "generate", lambda *_: {})
    architecture = architecture_of(name)
    cls = tool.PLAIN.get(architecture) or getattr(transformers, architecture)
    row = {k: v for k, v in case.published.items() if k not in ("architectures", "model_type")}
    arrays = tool.decoder_arrays(tool.load(cls, row, case.weights()), case.seed)
    live = dataclasses.replace(case, arrays=arrays)
    assert_small(errors_from(live, model_of(name).pieces, computed(name)))


@pytest.mark.parametrize("name", CASES)
def test_greedy_generation_through_the_cache(name):
    """Of each prompt alone, and of both as a batch of unequal lengths."""
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


@pytest.mark.parametrize("name", CASES)
def test_a_token_influences_no_earlier_one(name):
    """By the gradient: each document has ids of its own up to its place, and others behind it."""
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
    for (upto, behind), (row, start, _, place) in zip(found, PLACES, strict=True):
        assert not behind.any()
        assert upto[tokens[row, place] % span] > 0
        assert place == start or np.count_nonzero(upto) > 5  # the last layer alone sees 13 tokens


@pytest.mark.parametrize("name", CASES)
def test_neither_padding_nor_another_document_is_seen(name):
    batch, ((loss, results), _) = batch_of(name), computed(name)
    tokens, segment_ids = batch["tokens"], batch["how"]["segment_ids"]
    (other_loss, others), _ = again(name, tokens=np.where(segment_ids > 0, tokens, 7))
    assert other_loss == loss
    np.testing.assert_array_equal(
        others["logits"][segment_ids > 0], results["logits"][segment_ids > 0]
    )
    second = segment_ids == 2
    changed = np.where(second, tokens, (tokens + 5) % model_of(name).config.vocab_size)
    (_, others), _ = again(name, tokens=changed)
    np.testing.assert_array_equal(others["logits"][second], results["logits"][second])
    assert (others["logits"][~second] != results["logits"][~second]).any()


# ------------------------------------------------------------------ properties, by another program


def assert_same(found: Any, want: Any, real: np.ndarray) -> None:
    """Loss, results and gradients are equal up to rounding."""
    ((loss, results), gradients), ((want_loss, want_results), want_gradients) = found, want
    assert float(loss) == pytest.approx(float(want_loss), rel=1e-5)
    for key, array in want_results.items():
        assert_close(results[key] * real, array * real, 2e-5)
    for path, gradient in want_gradients.items():
        bound = 1e-4 * max(np.abs(gradient).max(), 1e-3)
        np.testing.assert_allclose(gradients[path], gradient, rtol=0, atol=bound, err_msg=path)


@pytest.mark.parametrize("name", firsts(CASES))
def test_the_usual_kernel_and_unrolled_layers_give_the_same(name):
    config = model_of(name).config
    graphdef, _, _ = abstract_of(with_attention(config.replace(scan_layers=False), "auto"))
    found = jax.device_get(results_of(graphdef, name)(model_of(name).params, batch_of(name)))
    assert_small(errors_from(golden(name), model_of(name).pieces, found))
    assert_same(found, computed(name), real_of(name))


MESHES = (MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(fsdp=3, num_devices=3))


@pytest.mark.parametrize("name", firsts(CASES))
def test_neither_a_mesh_nor_remat_changes_anything(name):
    """Split over data, fsdp and tensor; for odd sizes over fsdp. The vocabulary is filled up."""
    model, batch = model_of(name), batch_of(name)
    vocab_size = model.config.vocab_size + model.config.vocab_size % 2
    config = model.config.replace(vocab_size=vocab_size, remat="full")
    graphdef, abstract, axes = abstract_of(config)
    mesh, shardings = first_that_divides(MESHES, unflatten(abstract), unflatten(axes))
    params = {path: filled(array, abstract[path].shape) for path, array in model.params.items()}
    copies = math.lcm(2, mesh.size // mesh.shape["tensor"]) // 2
    rows = jax.tree.map(lambda x: np.concatenate([x] * copies), batch)
    with jax.set_mesh(mesh):
        placed = flatten(jax.tree.map(jax.device_put, unflatten(params), shardings))
        rows = jax.tree.map(lambda x: jax.device_put(x, batch_sharding(mesh, x.ndim)), rows)
        (loss, results), gradients = jax.device_get(results_of(graphdef, name)(placed, rows))
    results = {"logits": results["logits"][:2], "hidden": results["hidden"][:, :2]}
    for path, array in model.params.items():
        inside = tuple(slice(size) for size in array.shape)
        assert gradients[path].sum() == pytest.approx(gradients[path][inside].sum(), abs=1e-6)
        gradients[path] = gradients[path][inside]
    assert_same(((loss, results), gradients), computed(name), real_of(name))


def filled(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array with zeros up to a shape."""
    sizes = zip(array.shape, shape, strict=True)
    return np.pad(array, [(0, wide - size) for size, wide in sizes])
