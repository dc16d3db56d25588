"""Decoders against what transformers computes for them, and properties that each of them has.

A case is a fixture of a decoder whose architecture has a family: a new family adds a fixture and
nothing here. Encoders and what infills blanks: test_encoder_families.py. The numbers as a table:
python -m tests.models.parity.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import re
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jaxlm.config import UserError
from jaxlm.generate import Generator, Sampling
from jaxlm.mesh import MeshConfig, batch_sharding, param_shardings
from jaxlm.models.families import families, family_of, family_of_architecture
from jaxlm.models.families.gpt2 import GPT3
from jaxlm.models.families.table import locate, tensor_shapes, write_tensors
from jaxlm.tree import flatten, unflatten
from tests.golden_nn import assert_close
from tests.models.parity import (
    abstract_of,
    architecture_of,
    batch_of,
    computed,
    decoders,
    errors,
    errors_from,
    forward,
    golden,
    model_of,
    results_of,
)

CASES = decoders()


def firsts() -> list[Any]:
    """One case of each family at once, and the others where there is more time."""
    seen: set[str] = set()
    marked = []
    for name in CASES:
        new = architecture_of(name) not in seen
        seen.add(architecture_of(name))
        marked.append(name if new else pytest.param(name, marks=pytest.mark.slow))
    return marked


# ------------------------------------------------------------------------------- configs and tables


@pytest.mark.parametrize("name", CASES)
def test_configs_old_and_new_say_the_same(name):
    case, family = golden(name), model_of(name).family
    config = family.from_hf(case.config)
    assert family.from_hf(case.published) == config
    assert config.family == family.name
    written = json.loads(json.dumps(family.to_hf(config)))
    assert family.from_hf(written) == config
    assert written["architectures"] == case.config["architectures"]
    # transformers says so of layers without a window, too
    for key in written.keys() & case.config.keys() - {"max_window_layers"}:
        assert written[key] == case.config[key] or case.config[key] is None, key


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


NOT_SAID = {"gpt3-13b"}  # by a config.json
PRESETS = sorted(
    (family.name, preset)
    for family in families()
    if set(family.architectures) & {architecture_of(name) for name in CASES}
    for preset in family.presets
)


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_presets_have_the_published_number_of_parameters(name, preset):
    family = family_of(name)
    config = family.presets[preset]
    _, abstract, _ = abstract_of(config)
    shapes = {path: leaf.shape for path, leaf in abstract.items()}
    assert sum(map(math.prod, shapes.values())) == family.num_params[preset]
    assert locate(family.tensors(config), shapes).keys() == shapes.keys()
    if preset not in NOT_SAID:
        assert family.from_hf(family.to_hf(config)) == config


def test_gpt3_is_as_large_as_the_paper_says():
    counts = family_of("gpt2").num_params
    assert len(GPT3) == 8
    for name, (*_, paper) in GPT3.items():
        assert counts[name] == pytest.approx(paper, rel=0.02)


def scaled(**values: Any) -> dict[str, Any]:
    return {"rope_scaling": values}


SLIDING = {"layer_types": ["sliding_attention"] * 4, "sliding_window": None}
REFUSED = [
    ("llama_mha", {"hidden_size": None}, "lacks hidden_size; take the file that came with"),
    ("llama_mha", {"hidden_act": "mish"}, "hidden_act is 'mish'; known are silu, gelu, "),
    ("llama_mha", {"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}; kn"),
    ("llama_mha", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; known is 1.0"),
    ("llama_mha", scaled(rope_type="longrope", factor=4.0), "rope_type is 'longrope'"),
    ("llama_mha", scaled(type="linear"), "the linear scaling lacks factor; add it"),
    ("llama_mha", scaled(type="linear", factor=2.0, mscale=1.0), "mscale is 1.0 in the linear"),
    ("llama_mha", {"rope_interleaved": True}, "rope_interleaved is True; known is False alone"),
    ("llama_rope_dynamic", {"max_position_embeddings": None}, "the dynamic scaling lacks max_pos"),
    ("mistral", {"attention_bias": True}, "attention_bias is True; known is False alone"),
    ("mistral", {"layer_types": ["full_attention"] * 3}, "layer_types is "),
    ("qwen2", {"use_mrope": True}, "use_mrope is True; known is False alone"),
    ("qwen2_window", SLIDING, "layers have a window, but sliding_window is absent; add it"),
    ("qwen2_window", {"layer_types": ["full_attention"]}, "layer_types names 1 layers, but there"),
    ("qwen3", {"layer_types": ["chunked_attention"] * 3}, "layer_types is 'chunked_attention'; k"),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is true"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0; known is None"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ("gpt2", {"activation_function": "mish"}, "activation_function is 'mish'; known are gelu_ne"),
]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_cannot_be_said_here_is_refused(name, changes, message):
    with pytest.raises(UserError, match=f"^config.json: {message}"):
        model_of(name).family.from_hf({**golden(name).published, **changes})


def changed(preset: str, part: str = "attention", **changes: Any) -> Any:
    config: Any = [f.presets[preset] for f in families() if preset in f.presets][0]
    return config.replace(**{part: getattr(config, part).replace(**changes)})


HOMELESS = [
    ("llama-3-8b", "attention", {"softcap": 5.0}, "5.0 has no place in the config.json of Llama"),
    ("llama-3-8b", "attention", {"qk_norm": True}, "True has no place"),
    ("llama-3-8b", "attention", {"window": (8,)}, ".8.* has no place"),
    ("llama-3-8b", "attention", {"causal": False}, "False has no place"),
    ("llama-3-8b", "ffn", {"activation": "relu"}, "'relu' has no place"),
    ("llama-3-8b", "head", {"bias": True}, "True has no place"),
    ("llama-3-8b", "norm", {"one_plus": True}, "True has no place"),
    ("qwen3-8b", "attention", {"qk_norm": False}, "False has no place"),
    ("qwen2.5-7b", "attention", {"out_bias": True}, "True has no place"),
    ("mistral-7b-v0.3", "attention", {"window": (8, 4)}, ".4, 8. are several windows"),
    ("gemma-2-2b", "embedding", {"scale": 1.0}, "1.0 has no place"),
    ("gemma-2-2b", "attention", {"scale": 0.0619}, "0.0619 has no place"),
    ("gpt2", "attention", {"qk_norm": True}, "True has no place"),
    ("gpt2", "attention", {"head_dim": 32}, "32 has no place"),
    ("gpt2", "ffn", {"activation": "swiglu"}, "'swiglu' has no place"),
    ("gpt3-13b", "attention", {"head_dim": 128}, "128 has no place"),
]


@pytest.mark.parametrize(("preset", "part", "changes", "message"), HOMELESS)
def test_what_has_no_place_in_a_file_is_refused(preset, part, changes, message):
    config = changed(preset, part, **changes)
    (field,) = changes
    with pytest.raises(UserError, match=f"^model.{part}.{field}.*: {message}"):
        family_of(config.family).to_hf(config)


def test_what_a_run_alone_decides_is_not_in_the_file():
    config = changed("qwen3-8b", dropout=0.1, impl="reference", window=(None, None))
    config = config.replace(dropout=0.1, dtype="float32", remat="full", initializer_range=None)
    family = family_of("qwen3")
    assert family.from_hf(family.to_hf(config)) == family.presets["qwen3-8b"]


TRAINED = {"original_max_position_embeddings": 64}
SCALINGS = [
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "dynamic", "factor": 3.0},
    {"rope_type": "llama3", "factor": 3.0, **TRAINED, "low_freq_factor": 2.0},
    {"rope_type": "yarn", "factor": 3.0, **TRAINED, "truncate": False, "attention_factor": 1.5},
    {"rope_type": "yarn", **TRAINED},  # 512 positions of 64 are a factor of 8
]


@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
def test_a_scaling_of_positions_reads_back_from_both_forms(scaling):
    family, values = family_of("llama"), golden("llama_mha").published
    config = family.from_hf({**values, "rope_scaling": scaling})
    newer = {"rope_parameters": {"rope_theta": 10_000.0, **scaling}}
    assert family.from_hf({**values, "rope_theta": None, **newer}) == config
    assert family.from_hf(family.to_hf(config)) == config
    assert config.position[0].scaling.factor == scaling.get("factor", 8.0)


def test_mscales_are_another_way_to_say_a_factor():
    scaling = {"type": "yarn", "factor": 40.0, **TRAINED, "mscale": 0.7, "mscale_all_dim": 2.0}
    config = family_of("llama").from_hf({**golden("llama_mha").published, "rope_scaling": scaling})
    want = (0.07 * math.log(40) + 1) / (0.2 * math.log(40) + 1)
    assert config.position[0].scaling.attention_factor == pytest.approx(want, rel=1e-12)


def test_of_a_gemma_that_sees_images_the_text_is_read():
    images = family_of_architecture("Gemma3ForConditionalGeneration")
    text = {"hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34}
    text |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
    config = images.from_hf({"text_config": text, "vision_config": {"hidden_size": 1152}})
    assert config == family_of("gemma3").presets["gemma-3-4b"]
    assert images.to_hf(config)["architectures"] == ["Gemma3ForCausalLM"]
    names = [row.name for row in images.tensors(config)]
    assert names == [f"language_model.{r.name}" for r in family_of("gemma3").tensors(config)]
    tower = "vision_tower.vision_model.embeddings.patch_embedding.bias"
    assert any(re.search(pattern, tower) for pattern in images.ignored)


# ----------------------------------------------------------------------------------------- numbers


def assert_small(found: dict[str, float]) -> None:
    assert found["logits"] < 1e-4
    assert found["hidden"] < 1e-5
    assert found["loss"] < 1e-4
    assert found["gradients"] < 1e-4


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


def again(name: str, **changes: Any) -> Any:
    """What the case's own program gives for a batch that differs."""
    return jax.device_get(forward(name)(model_of(name).params, {**batch_of(name), **changes}))


@pytest.mark.parametrize("name", CASES)
def test_a_token_influences_no_earlier_one(name):
    """By the gradient: up to a place the row has some ids, behind it the others."""
    batch = batch_of(name)
    half = model_of(name).config.vocab_size // 2
    table = next(path for path in model_of(name).shapes if path.startswith("embed/"))
    rng = np.random.default_rng(0)
    for place in (0, 70, 318):
        later = np.arange(batch["tokens"].shape[1]) > place
        tokens = batch["tokens"] % half + half * later
        probe = np.zeros_like(batch["probe"])
        probe[0, place] = rng.normal(size=probe.shape[-1])
        nothing = np.zeros_like(batch["weights"])
        (_, _), gradients = again(name, tokens=tokens, probe=probe, weights=nothing)
        of_ids = np.abs(gradients[table]).max(axis=1)
        assert not of_ids[half:].any()
        assert of_ids[tokens[0, place]] > 0
        assert place == 0 or np.count_nonzero(of_ids) > 5  # the last layer alone sees 13 tokens


@pytest.mark.parametrize("name", CASES)
def test_neither_padding_nor_another_document_is_seen(name):
    batch, ((loss, results), _) = batch_of(name), computed(name)
    tokens, segment_ids = batch["tokens"], batch["segment_ids"]
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


@pytest.mark.parametrize("name", firsts())
def test_the_usual_kernel_and_unrolled_layers_give_the_same(name):
    config = model_of(name).config
    usual = config.attention.replace(impl="auto")
    graphdef, _, _ = abstract_of(config.replace(attention=usual, scan_layers=False))
    found = jax.device_get(results_of(graphdef, name)(model_of(name).params, batch_of(name)))
    assert_small(errors_from(golden(name), model_of(name).pieces, found))
    assert_same(found, computed(name), batch_of(name)["segment_ids"][..., None] > 0)


MESHES = (MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(fsdp=3, num_devices=3))


@pytest.mark.parametrize("name", firsts())
def test_neither_a_mesh_nor_remat_changes_anything(name):
    """Split over data, fsdp and tensor; for odd sizes over fsdp. The vocabulary is filled up."""
    model, batch = model_of(name), batch_of(name)
    vocab_size = model.config.vocab_size + model.config.vocab_size % 2
    config = model.config.replace(vocab_size=vocab_size, remat="full")
    graphdef, abstract, axes = abstract_of(config)
    mesh, shardings = first_that_divides(unflatten(abstract), unflatten(axes))
    params = {path: filled(array, abstract[path].shape) for path, array in model.params.items()}
    copies = math.lcm(2, mesh.size // mesh.shape["tensor"]) // 2
    rows = {key: np.concatenate([x] * copies) for key, x in batch.items()}
    with jax.set_mesh(mesh):
        placed = flatten(jax.tree.map(jax.device_put, unflatten(params), shardings))
        rows = {k: jax.device_put(x, batch_sharding(mesh, x.ndim)) for k, x in rows.items()}
        (loss, results), gradients = jax.device_get(results_of(graphdef, name)(placed, rows))
    results = {"logits": results["logits"][:2], "hidden": results["hidden"][:, :2]}
    for path, array in model.params.items():
        inside = tuple(slice(size) for size in array.shape)
        assert gradients[path].sum() == pytest.approx(gradients[path][inside].sum(), abs=1e-6)
        gradients[path] = gradients[path][inside]
    real = batch["segment_ids"][..., None] > 0
    assert_same(((loss, results), gradients), computed(name), real)


def first_that_divides(abstract: Any, axes: Any) -> Any:
    for config in MESHES:
        mesh = config.build()
        try:
            return mesh, param_shardings(abstract, axes, mesh)
        except UserError:
            continue
    raise AssertionError("no mesh divides these sizes")


def filled(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array with zeros up to a shape."""
    sizes = zip(array.shape, shape, strict=True)
    return np.pad(array, [(0, wide - size) for size, wide in sizes])
