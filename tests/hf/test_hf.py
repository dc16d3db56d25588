"""In and out of Hugging Face's format: every byte comes back, and every mistake has its line.

Files are written and read by the safetensors library, which shares no code with our writer.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import yaml
from flax import nnx

import jaxlm
from jaxlm import cli
from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.core.config import UserError, type_name
from jaxlm.core.tree import flatten
from jaxlm.hf import exporting
from jaxlm.hf.config_files import say
from jaxlm.hf.folder import new_folder
from jaxlm.hf.importing import import_model, read_config
from jaxlm.hf.matching import match_tensors
from jaxlm.hf.reading import read_params as read_sharded
from jaxlm.hf.shards import Header, split, write_shards
from jaxlm.hf.stored import Stored
from jaxlm.hf.token_ids import eos_ids, lacking_ids
from jaxlm.mesh import MeshConfig
from jaxlm.models.bag_of_words import BagOfWordsConfig
from jaxlm.models.families import families, family_of
from jaxlm.models.families.shared.table import read_params, write_tensors
from jaxlm.models.presets import Preset, render
from jaxlm.models.transformer import TransformerConfig
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.run import load_run, load_saved
from jaxlm.runs.folder import RunDir
from jaxlm.training.loading import load_trained, one_device_program
from jaxlm.training.program import make_program
from tests.models.golden_families import load_case
from tests.models.parity import batch_of, computed, known, real_of, with_slow

safetensors = pytest.importorskip("safetensors")
tokenizers = pytest.importorskip("tokenizers")
from safetensors.numpy import load_file, save_file  # noqa: E402

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "configs/smoke/transformer.yaml")
ONE = ("mesh.data=1", "mesh.fsdp=1", "mesh.num_devices=1")
export_run = partial(exporting.export_run, check=False)  # bytes are compared here, not logits
OURS = known()
GPT2 = load_case("gpt2")

Arrays = Mapping[str, np.ndarray]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def write_model(folder: Path, config: Mapping[str, Any], arrays: Arrays, shards: int = 1) -> Path:
    """A folder as transformers writes it; tensors go to the shards in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if shards == 1:
        save_file(dict(arrays), folder / "model.safetensors", {"format": "pt"})
        return folder
    index = {}
    for i in range(shards):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(arrays.items())[i::shards])
        save_file(part, folder / name, {"format": "pt"})
        index |= dict.fromkeys(part, name)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


def gpt2_weights(dtype: str = "float32") -> dict[str, np.ndarray]:
    return {name: array.astype(dtype) for name, array in GPT2.weights().items()}


def load_all(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder, and a check that its index tells the truth."""
    files = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        told = json.loads(index.read_text())["weight_map"]
        assert told == {name: file for file, arrays in files.items() for name in arrays}
    return {name: array for arrays in files.values() for name, array in arrays.items()}


def assert_same_bytes(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def gpt2_run(tmp_path_factory) -> Path:
    """GPT-2 with a byte-pair tokenizer of 83 ids, imported on one device."""
    folder = tmp_path_factory.mktemp("gpt2")
    write_model(folder / "model", GPT2.config, gpt2_weights())
    write_bpe(folder / "model")
    import_model(folder / "model", folder / "run", ONE, report=quiet)
    return folder / "run"


def write_bpe(folder: Path) -> None:
    """vocab.json and merges.txt: a few letters and two merges."""
    letters = [*"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ċ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ.,"]
    pieces = ["<|endoftext|>", *letters, "th", "the", "Ġthe"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\nĠ the\n")
    said = {"bos_token": "<|endoftext|>", "tokenizer_class": "GPT2Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    said = {"eos_token": {"content": "<|endoftext|>", "lstrip": False}}
    (folder / "special_tokens_map.json").write_text(json.dumps(said))


# ------------------------------------------------------------------------------------- round trips


# By the table's form: fused and split arrays, stacks of experts, two stacks, heads over tokens.
WHOLE = ("bert", "chatglm3", "deepseek_v3", "gemma3", "glm_10b", "gpt2", "mixtral", "t5")


@pytest.mark.parametrize("name", with_slow([name for name in OURS if name not in WHOLE]))
def test_other_shapes_are_read_as_their_table_says_and_written_back(name, tmp_path):
    case = load_case(name)
    arrays = {key: array.astype("bfloat16") for key, array in case.weights().items()}
    folder = write_model(tmp_path / "model", case.config, arrays, shards=3)
    family, model = read_config(folder / "config.json", case.config)
    model = family.completed(model, case.tensors)
    mesh = MeshConfig(data=1, num_devices=1).build()
    program = make_program(mesh=mesh, model=model, objective=CausalLM())
    shapes = {path: leaf.shape for path, leaf in flatten(program.abstract_params).items()}
    stored = Stored.open(folder)
    match = match_tensors(family, model, shapes, stored)
    found = flatten(
        read_sharded(stored, match.pieces, program.abstract_params, chunk_bytes=1 << 20)
    )
    expected = read_params(match.pieces, shapes, arrays.__getitem__)
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        assert np.array_equal(found[path], array.astype(np.float32)), path
    written = write_tensors(match.pieces, found.__getitem__)
    assert_same_bytes({key: array.astype("bfloat16") for key, array in written}, arrays)


@pytest.mark.parametrize("name", WHOLE)
def test_a_family_comes_in_and_goes_out_whole(name, tmp_path):
    """By the verbs' own functions, from shards, over a run, by a config.json of our own."""
    case = load_case(name)
    arrays = {key: array.astype("bfloat16") for key, array in case.weights().items()}
    folder = write_model(tmp_path / "model", case.config, arrays, shards=2)
    import_model(folder, tmp_path / "run", ONE, report=quiet)
    (tmp_path / "run/hf/config.json").unlink()
    export_run(tmp_path / "run", tmp_path / "out", report=quiet)
    assert_same_bytes(load_all(tmp_path / "out"), arrays)


@pytest.mark.parametrize(
    ("name", "architecture", "without", "relations"),
    [
        ("bert", "BertForMaskedLM", ("cls.seq_relationship",), 0),
        ("roberta", "RobertaForMaskedLM", (), 0),
    ],
)
def test_encoders_as_they_are_published(tmp_path, name, architecture, without, relations):
    """By config.json a head over the vocabulary alone; the file has a pooler, and old names."""
    case = load_case(name)
    older = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    arrays = {
        re.sub("|".join(older), lambda found: older[found[0]], key): array
        for key, array in case.weights().items()
        if not key.startswith(without)
    }
    width = case.config["hidden_size"]
    shapes = {f"{name}.pooler.dense.weight": (width, width), f"{name}.pooler.dense.bias": (width,)}
    rng = np.random.default_rng(0)
    arrays |= {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    folder = write_model(
        tmp_path / "model", {**case.config, "architectures": [architecture]}, arrays
    )
    import_model(folder, tmp_path / "run", ONE, report=quiet)
    head = load_saved(tmp_path / "run").config.model.head
    assert (head.transform, head.pooler, head.num_relations) == ("gelu", True, relations)
    for kept in (True, False):  # as it came, and by a config.json of our own
        if not kept:
            (tmp_path / "run/hf/config.json").unlink()
        export_run(tmp_path / "run", tmp_path / f"out{kept}", report=quiet)
        assert_same_bytes(load_all(tmp_path / f"out{kept}"), arrays)
        import_model(tmp_path / f"out{kept}", tmp_path / f"again{kept}", ONE, report=quiet)
        assert load_saved(tmp_path / f"again{kept}").config.model.head == head


def test_a_head_that_config_json_names_must_be_in_the_file(tmp_path):
    case = load_case("bert")
    arrays = {k: v for k, v in case.weights().items() if "seq_relationship" not in k}
    folder = write_model(tmp_path / "model", case.config, arrays)
    with pytest.raises(UserError, match="missing: cls.seq_relationship.bias, cls.seq_relat"):
        import_model(folder, tmp_path / "run", ONE, report=quiet)


def test_what_predicts_a_second_token_is_left_out_and_said(tmp_path):
    case, told = load_case("deepseek_v3"), []
    layers = case.config["num_hidden_layers"]
    more = {f"model.layers.{layers}.eh_proj.weight": np.ones((2, 2), np.float32)}
    folder = write_model(tmp_path / "model", case.config, case.weights() | more)
    import_model(folder, tmp_path / "run", ONE, report=told.append)
    assert any(f"left out, not of the language model: model.layers.{layers}.eh" in t for t in told)
    export_run(tmp_path / "run", tmp_path / "out", report=quiet)
    assert_same_bytes(load_all(tmp_path / "out"), case.weights())


def test_the_text_of_a_gemma_that_sees_images_keeps_its_dtype(tmp_path):
    case = load_case("gemma3")
    arrays = {name: array.astype("bfloat16") for name, array in case.weights().items()}
    file = {f"language_model.{name}": array for name, array in arrays.items()}
    file["vision_tower.weight"] = np.ones(3, np.float32)
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": case.config}
    folder = write_model(tmp_path / "model", config, file)
    import_model(folder, tmp_path / "run", ONE, report=quiet)
    export_run(tmp_path / "run", tmp_path / "out", report=quiet)
    assert_same_bytes(load_all(tmp_path / "out"), arrays)


def test_a_glm_that_fills_blanks_writes_no_plain_text(tmp_path):
    case = load_case("glm_10b")
    folder = write_model(tmp_path / "model", case.config, case.weights())
    import_model(folder, tmp_path / "run", ONE, report=quiet)
    assert type_name(type(load_saved(tmp_path / "run").config.objective)) == "none"


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_an_embedding_that_is_stored_again_must_be_the_same(tmp_path, side):
    case = load_case("t5")
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    arrays = case.weights() | {name: case.weights()["shared.weight"] for name in names}
    import_model(
        write_model(tmp_path / "model", case.config, arrays), tmp_path / "run", ONE, report=quiet
    )
    export_run(tmp_path / "run", tmp_path / "out", report=quiet)
    assert_same_bytes(load_all(tmp_path / "out"), arrays)
    arrays[f"{side}.embed_tokens.weight"] = arrays["shared.weight"] + np.float32(1e-3)
    folder = write_model(tmp_path / "other", case.config, arrays)
    with pytest.raises(UserError, match=f"{side}.embed_tokens.weight is not shared.weight"):
        import_model(folder, tmp_path / "none", ONE, report=quiet)


@pytest.mark.parametrize(("dtype", "shards"), [("float32", 1), ("bfloat16", 3)], ids=str)
def test_what_came_in_goes_out(tmp_path, dtype, shards):
    """Fused q, k, v; a mask that is not a parameter; a stored tied head, and one odd dtype."""
    arrays = gpt2_weights(dtype)
    arrays["transformer.ln_f.weight"] = arrays["transformer.ln_f.weight"].astype(np.float32)
    arrays["lm_head.weight"] = arrays["transformer.wte.weight"]
    mask = {"transformer.h.0.attn.bias": np.tril(np.ones((1, 1, 4, 4), dtype))}
    config = {**GPT2.config, "torch_dtype": dtype, "dtype": dtype, "ours": [1]}
    folder = write_model(tmp_path / "model", config, arrays | mask, shards)
    options = {"eos_token_id": [5, 7], "do_sample": True, "top_k": 9, "typical_p": 0.5}
    (folder / "generation_config.json").write_text(json.dumps(options))
    said: list[str] = []
    import_model(folder, tmp_path / "run", ONE, report=said.append)
    sample = load_saved(tmp_path / "run").config.sample
    assert (sample.eos_ids, sample.top_k, sample.temperature) == ((5, 7), 9, 1.0)
    assert any("generation_config.json: left out" in s and "typical_p (0.5)" in s for s in said)
    assert any("left out" in line and "h.0.attn.bias" in line for line in said)
    small = {"max_bytes": 30_000} if shards > 1 else {}
    export_run(tmp_path / "run", tmp_path / "out", report=said.append, **small)
    assert_same_bytes(load_all(tmp_path / "out"), arrays)
    assert (len(list((tmp_path / "out").glob("*.safetensors"))) > 1) == (shards > 1)
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    # and it can be read again, to the same parameters
    import_model(tmp_path / "out", tmp_path / "again", ONE, report=quiet)
    assert sha256_of(tmp_path / "again") == sha256_of(tmp_path / "run")
    assert not list(tmp_path.glob(".*"))


def sha256_of(run: Path) -> str:
    return param_sha256(load_trained(str(run), overrides=ONE, report=quiet)[2])


def test_any_mesh_imports_the_same(tmp_path, gpt2_run):
    model = gpt2_run.parent / "model"
    wide = ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "model.vocab_size=83")
    with pytest.raises(UserError, match="vocab.*of size 83 cannot be split"):
        import_model(model, tmp_path / "odd", wide, report=quiet)
    # 1 KiB at a time: every large parameter is filled in many pieces
    words = ("mesh.fsdp=4", "mesh.data=2")
    import_model(model, tmp_path / "fsdp", words, report=quiet, chunk_bytes=1024)
    assert load_saved(tmp_path / "fsdp").config.mesh.fsdp == 4
    assert sha256_of(tmp_path / "fsdp") == sha256_of(gpt2_run)


def test_a_file_without_the_prefix_keeps_its_names(tmp_path):
    """GPT-2's own file calls wte what others call transformer.wte."""
    arrays = {name.removeprefix("transformer."): a for name, a in gpt2_weights("float16").items()}
    write_model(tmp_path / "model", GPT2.config, arrays)
    import_model(tmp_path / "model", tmp_path / "run", ONE, report=quiet)
    export_run(tmp_path / "run", tmp_path / "out", report=quiet)
    assert_same_bytes(load_all(tmp_path / "out"), arrays)


def test_a_t5_whose_head_is_the_embedding_without_a_factor(tmp_path):
    """As transformers 5 saves a new T5 1.1: tied, not scaled, and no lm_head.weight in the file."""
    case = load_case("t5_v1_1")
    assert case.config["tie_word_embeddings"] and not case.config["scale_decoder_outputs"]
    arrays = {name: a for name, a in case.weights().items() if name != "lm_head.weight"}
    folder = write_model(tmp_path / "model", case.config, arrays)
    import_model(folder, tmp_path / "run", ONE, report=quiet)
    head = load_saved(tmp_path / "run").config.model.head
    assert (head.tied, head.scale) == (True, 1.0)
    export_run(tmp_path / "run", tmp_path / "out", report=quiet)
    assert_same_bytes(load_all(tmp_path / "out"), arrays)
    both = [(path / "config.json").read_bytes() for path in (tmp_path / "out", folder)]
    assert both[0] == both[1]
    (tmp_path / "run/hf/config.json").unlink()
    export_run(tmp_path / "run", tmp_path / "ours", report=quiet)
    said = json.loads((tmp_path / "ours/config.json").read_text())
    assert (said["tie_word_embeddings"], said["scale_decoder_outputs"]) == (True, False)
    import_model(tmp_path / "ours", tmp_path / "again", ONE, report=quiet)
    assert load_saved(tmp_path / "again").config.model.head == head


def test_files_beside_the_model_are_kept_or_named(tmp_path):
    folder = write_model(tmp_path / "model", GPT2.config, gpt2_weights())
    kept = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json")
    kept += ("additional_chat_templates/tools.jinja", "config_sentence_transformers.json")
    for name in (*kept, "onnx/model.onnx", ".gitattributes"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"{name}\n")
    said: list[str] = []
    import_model(folder, tmp_path / "run", ONE, report=said.append)
    assert [line for line in said if "not kept" in line] == [
        "not kept, so an export will not have them: onnx/model.onnx"
    ]
    assert not any("computes in" in line for line in said)  # float32 there, and on a CPU
    import_model(folder, tmp_path / "narrow", ONE, dtype="bfloat16", report=said.append)
    assert any("computes in bfloat16" in line and "--dtype float32" in line for line in said)
    export_run(tmp_path / "run", tmp_path / "out", report=quiet)
    for name in kept:
        assert (tmp_path / "out" / name).read_text() == f"{name}\n"


def test_float64_is_rounded_and_said(tmp_path):
    rng, exact = np.random.default_rng(0), gpt2_weights("float64")
    exact = {name: array + 1e-10 * rng.normal(size=array.shape) for name, array in exact.items()}
    write_model(tmp_path / "model", GPT2.config, exact)
    said: list[str] = []
    import_model(tmp_path / "model", tmp_path / "run", ONE, report=said.append)
    assert any("rounded from float64" in line for line in said)
    export_run(tmp_path / "run", tmp_path / "out", report=quiet)
    rounded = {name: array.astype("float32").astype("float64") for name, array in exact.items()}
    assert_same_bytes(load_all(tmp_path / "out"), rounded)
    assert any((rounded[name] != array).any() for name, array in exact.items())


def test_another_dtype_is_stated_in_the_config(tmp_path, gpt2_run):
    export_run(gpt2_run, tmp_path / "out", dtype="bfloat16", report=quiet)
    assert_same_bytes(load_all(tmp_path / "out"), gpt2_weights("bfloat16"))
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config == {**GPT2.config, "dtype": "bfloat16"}


def test_an_encoder_is_kept(tmp_path, capsys):
    case = load_case("bert")
    arrays = case.weights()
    write_model(tmp_path / "model", case.config, arrays)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "to", "be", "##s", "!"]
    (tmp_path / "model/vocab.txt").write_text("\n".join(vocabulary) + "\n")
    run = tmp_path / "run"
    import_model(tmp_path / "model", run, ONE, report=quiet)
    tokenizer = cli_tokenizer(run)
    assert tokenizer.encode("To bes!") == [5, 6, 7, 8]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (2, 3, 0)
    assert cli.main(["generate", str(run)]) == 2
    assert "objective is masked_lm, which fills masks and writes no text" in capsys.readouterr().err
    export_run(run, tmp_path / "out", report=quiet)
    assert_same_bytes(load_all(tmp_path / "out"), arrays)
    same = (tmp_path / "out/vocab.txt").read_bytes(), (tmp_path / "model/vocab.txt").read_bytes()
    assert same[0] == same[1]


def cli_tokenizer(run: Path) -> Any:
    from jaxlm.data.tokenizers.base import load_tokenizer

    return load_tokenizer(run / "tokenizer")


# ---------------------------------------------------------------------------------- an imported run


def test_logits_are_those_of_the_family(gpt2_run):
    """The whole way, against what transformers computed."""
    from tests.models.golden_families import layout, sketch

    run = load_trained(str(gpt2_run), overrides=(*ONE, "model.dtype=float32"), report=quiet)
    _, program, params, _ = run
    segments, positions = layout()
    model = nnx.merge(program.graphdef, params)
    tokens = jnp.asarray(GPT2.arrays["tokens"])
    hidden = model(tokens, positions=positions, segment_ids=segments).hidden
    logits = np.asarray(model.logits(hidden))
    expected = GPT2.arrays["logits_sketch"]
    real = segments > 0
    found = sketch(logits, expected.shape[-1], GPT2.seed)
    np.testing.assert_allclose(found[real], expected[real], rtol=1e-4, atol=1e-4)


def test_verbs_work_on_an_imported_run(gpt2_run, tmp_path, monkeypatch, capsys):
    def out(*words: object) -> str:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        answer = capsys.readouterr()
        assert code == 0, answer.err
        return answer.out

    found = json.loads(out("info", gpt2_run, "--json"))
    assert (found["step"], found["total_steps"], found["data"]) == (0, 0, None)
    assert found["imported"]["architecture"] == "GPT2LMHeadModel"
    assert found["num_params"] == sum(a.size for a in gpt2_weights().values())
    assert "GPT2LMHeadModel" in out("info", gpt2_run)
    assert "gpt2" in out("config", "show", gpt2_run / "config.yaml")
    assert "the" in out("generate", gpt2_run, "--prompt", "the", "--max-tokens", "3", *ONE)
    out("report", gpt2_run)
    data = "data={type: text, source: {type: synthetic, num_documents: 30}, seq_len: 16}"
    result = json.loads(out("eval", gpt2_run, data, "train.batch_size=8", "--json", *ONE))
    assert 0 < result["final"]["eval/loss"] < 20
    stage = tmp_path / "stage"
    words = ["train.steps=1", "optimizer.schedule.warmup=0", "sample.prompts=[]", "model=null"]
    config = yaml.safe_load(Path(SMOKE).read_text())
    for key in ("model", "tokenizer"):
        del config[key]
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(config))
    model = gpt2_run.parent / "model"  # a folder in Hugging Face's format is a start as it is
    words = [*words[:3], f"init.from={model}", f"run_dir={stage}", "eval.at_end=false"]
    words += ["logging.tensorboard=false", *ONE]
    out("finetune", tmp_path / "stage.yaml", *words)
    assert load_saved(stage).config.init.from_ == str(jaxlm.load(model).path)
    with monkeypatch.context() as patch:  # a version that keeps its imports elsewhere
        patch.setattr("jaxlm.hf.cached.__version__", "next")
        assert str(jaxlm.load(model).path) != load_saved(stage).config.init.from_
        assert "done already" in out("finetune", tmp_path / "stage.yaml", *words)
        assert "done already" in out("resume", stage, f"init.from={model}")
        other = shutil.copytree(model, tmp_path / "other")
        save_file({k: x * 2 for k, x in gpt2_weights().items()}, other / "model.safetensors")
        changed = [*words, f"init.from={other}"]
        assert cli.main(["finetune", str(tmp_path / "stage.yaml"), *changed]) == 2
        assert "another config" in (told := capsys.readouterr().err) and "init.from: " in told
    with pytest.raises(UserError, match=r"init.from: .*Hugging Face's format; `jaxlm import hf"):
        load_run(tmp_path / "stage.yaml", words)
    line = out("export", "hf", stage, "--out", tmp_path / "tuned")
    assert "float32" in line and "step 1" in line
    tuned, before = load_all(tmp_path / "tuned"), gpt2_weights()
    assert tuned.keys() == before.keys()
    assert not np.array_equal(tuned["transformer.wte.weight"], before["transformer.wte.weight"])
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        original = gpt2_run.parent / "model" / name
        assert (tmp_path / "tuned" / name).read_bytes() == original.read_bytes()


def test_a_folder_is_loaded_and_is_imported_once(gpt2_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    model = shutil.copytree(gpt2_run.parent / "model", tmp_path / "model")
    run = jaxlm.load(model)
    texts = ["the", "a the"]
    np.testing.assert_allclose(run.logits(texts), jaxlm.load(gpt2_run).logits(texts), atol=1e-5)
    before = run.path.stat()
    keys: list[str] = []

    def decide(key: str, mine: str, combine: Callable[[list[str]], str]) -> str:
        keys.append(key)
        return combine([mine])

    with monkeypatch.context() as patch:
        patch.setattr("jaxlm.hf.cached.decide", decide)
        assert jaxlm.load(model).path == jaxlm.load(model).path == run.path
    assert len({*keys}) == 2, "several processes read the answer to an earlier call otherwise"
    assert run.path.stat().st_mtime_ns == before.st_mtime_ns, "nothing was imported again"
    words = ["--prompt", "the", "--max-tokens", "3", "--temperature", "0", *ONE]
    assert cli.main(["generate", str(model), *words]) == 0
    assert "the" in capsys.readouterr().out
    assert [p.name for p in run.path.parent.iterdir() if p.is_dir()] == [run.path.name]

    config = {**GPT2.config, "layer_norm_epsilon": 1e-3}
    (model / "config.json").write_text(json.dumps(config))
    assert jaxlm.load(model).path != run.path, "other files are another run"
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError, match="safetensors"):
        jaxlm.load(model)


def test_an_imported_run_is_not_resumed(gpt2_run, capsys):
    for words in (["resume", str(gpt2_run)], ["train", SMOKE, f"run_dir={gpt2_run}"]):
        assert cli.main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "no optimizer state" in line and f"finetune CONFIG init.from={gpt2_run}" in line


def test_import_json_says_where_everything_came_from(gpt2_run):
    from jaxlm.core.files import file_sha256

    record = json.loads((gpt2_run / "import.json").read_text())
    model = gpt2_run.parent / "model"
    assert record["source"] == str(model) and record["family"] == "gpt2"
    assert record["tokenizer"] == cli_tokenizer(gpt2_run).fingerprint()
    assert record["files"].keys() == {path.name for path in model.iterdir()}
    for name, file in record["files"].items():
        assert file == {
            "size": (model / name).stat().st_size,
            "sha256": file_sha256(model / name),
        }


def test_a_run_without_a_tokenizer_says_what_is_missing(tmp_path, capsys):
    write_model(tmp_path / "model", GPT2.config, gpt2_weights())
    run = tmp_path / "run"
    words = ["import", "hf", str(tmp_path / "model"), "--out", str(run), *ONE]
    assert cli.main([*words, "--dtype", "float32"]) == 0
    assert "no tokenizer" in capsys.readouterr().err
    assert load_saved(run).config.model.dtype == "float32"
    assert cli.main(["generate", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "without a tokenizer" in line and "tokenizer.json" in line
    data = "data={type: text, source: {type: synthetic, num_documents: 30}, seq_len: 16}"
    assert cli.main(["eval", str(run), data, *ONE]) == 2
    assert "tokenizer: null" in capsys.readouterr().err
    assert cli.main(["eval", str(run), *ONE]) == 2
    assert "data: null" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- tokenizers


def test_tokenizers_are_found_in_order(tmp_path, gpt2_run):
    from jaxlm.hf.vocabularies import files_of, read_tokenizer

    model = tmp_path / "model"
    shutil.copytree(gpt2_run.parent / "model", model)
    pairs = read_tokenizer(model, {})
    spelt = [pairs.spelling(i) for i in pairs.encode("the the.")]
    assert spelt == ["the", "Ġthe", "."] and pairs.decode(pairs.encode("the the.")) == "the the."
    assert (pairs.bos_id, pairs.eos_id) == (0, 0)
    for name, content in files_of(pairs).items():
        (model / name).write_bytes(content)
    (model / "vocab.json").write_text("{")  # not looked at: there is a tokenizer.json
    assert read_tokenizer(model, {}).encode("the the.") == pairs.encode("the the.")
    # null in the files is an answer: no token of a usual name takes its place
    (model / "tokenizer_config.json").write_text('{"bos_token": null, "eos_token": "."}')
    again = read_tokenizer(model, {"bos_token_id": 7})
    assert (again.bos_id, again.spelling(again.eos_id)) == (None, ".")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (model / name).unlink()
    assert read_tokenizer(model, {"bos_token_id": 7, "eos_token_id": [8, 9]}).bos_id == 7
    (model / "tokenizer_config.json").write_text('{"bos_token": "<nowhere>"}')
    with pytest.raises(UserError, match="has no bos token '<nowhere>'"):
        read_tokenizer(model, {})
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer.json"):
        read_tokenizer(model, {})
    assert read_tokenizer(tmp_path, {}) is None


def test_sentencepiece_comes_and_goes(tmp_path):
    from jaxlm.data.tokenizers.sentencepieces import SentencePiece
    from jaxlm.hf.vocabularies import files_of, read_tokenizer

    config = SentencePiece(vocab_size=300, byte_fallback=True)
    text = lambda: iter(["to be or not to be, that is the question"] * 50)  # noqa: E731
    ours = config.build(text, "corpus", tmp_path / "cache")
    for name, content in files_of(ours).items():
        (tmp_path / name).write_bytes(content)
    assert (tmp_path / "tokenizer.model").read_bytes() == ours.files()["sentencepiece.model"]
    there = read_tokenizer(tmp_path, {})
    assert there.encode("to be") == ours.encode("to be")
    assert (there.bos_id, there.eos_id, there.pad_id) == (ours.bos_id, ours.eos_id, ours.pad_id)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "\\n", "bos_token": null}')
    other = read_tokenizer(tmp_path, {})
    assert other.spelling(other.eos_id) == "\n" and other.bos_id is None
    other.save(tmp_path / "saved")
    from jaxlm.data.tokenizers.base import load_tokenizer

    assert load_tokenizer(tmp_path / "saved").eos_id == other.eos_id
    (tmp_path / "added_tokens.json").write_text('{"<|im_start|>": 300}')
    with pytest.raises(UserError, match="added_tokens.json: adds '<.im_start.>' to tokenizer.mod"):
        read_tokenizer(tmp_path, {})
    (tmp_path / "added_tokens.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        read_tokenizer(tmp_path, {})


# ---------------------------------------------------------------------------------------- mistakes


@pytest.fixture
def fails(tmp_path) -> Callable[..., str]:
    """Imports a changed GPT-2, which must fail with one line and leave no file."""

    def run(
        change: Callable[[dict[str, np.ndarray]], Any] = lambda arrays: None,
        config: Mapping[str, Any] | None = None,
        after: Callable[[Path], Any] = lambda folder: None,
        shards: int = 1,
    ) -> str:
        arrays = gpt2_weights()
        change(arrays)
        folder = write_model(tmp_path / "model", {**GPT2.config, **(config or {})}, arrays, shards)
        after(folder)
        with pytest.raises(UserError) as error:
            import_model(folder, tmp_path / "run", ONE, report=quiet)
        line = str(error.value)
        assert "\n" not in line and "; " in line and "model" in line
        assert {path.name for path in tmp_path.iterdir()} <= {"model"}
        return line

    return run


def test_tensors_that_do_not_fit_are_listed_once(fails):
    def change(arrays):
        del arrays["transformer.ln_f.weight"]
        for i in range(6):
            arrays[f"transformer.h.{i}.extra.weight"] = np.zeros(3, np.float32)
            arrays[f"other{i}"] = np.zeros(3, np.float32)
        arrays["transformer.wte.weight"] = np.zeros((82, 32), np.float32)
        arrays["transformer.wpe.weight"] = arrays["transformer.wpe.weight"].astype(np.int32)

    line = fails(change)
    assert "missing: transformer.ln_f.weight;" in line
    others = ", ".join(f"other{i}" for i in range(6))
    assert f"not known: {others}, transformer.h.*.extra.weight (6);" in line
    assert "transformer.wte.weight [82, 32], by config.json [83, 32]" in line
    assert "dtype that is not read: transformer.wpe.weight I32" in line


def test_a_tied_head_that_differs_is_an_error(fails):
    def change(arrays):
        head = arrays["transformer.wte.weight"].copy()
        head[-1, -1] += 1
        arrays["lm_head.weight"] = head

    line = fails(change)
    assert "lm_head.weight is not transformer.wte.weight" in line and "tie_word_embeddings" in line


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architectures": ["GPT3LMHeadModel"]}, "did you mean GPT2LMHeadModel"),
        ({"architectures": None}, "names no architectures"),
        ({"activation_function": "swosh"}, "activation_function is 'swosh'"),
        ({"quantization_config": {"bits": 4}}, "unquantised"),
        ({"n_head": 5}, "heads"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_configs_that_cannot_be(fails, config, says):
    assert says in fails(config=config)


def test_a_config_that_lacks_something(fails):
    def less(folder):
        values = json.loads((folder / "config.json").read_text())
        del values["n_embd"]
        (folder / "config.json").write_text(json.dumps(values))

    assert "config.json: lacks n_embd" in fails(after=less)
    assert "is not JSON" in fails(after=lambda f: (f / "config.json").write_text("{"))
    assert "no config.json" in fails(after=lambda f: (f / "config.json").unlink())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": [5]}, "architectures is .5., where a list of words is expected"),
        ({"model_type": "llama"}, "model_type is 'llama', but GPT2LMHeadModel is of type gpt2"),
        ({"n_embd": "32"}, "n_embd is '32', where a whole number from 1 on is expected"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(fails, changes, says):
    assert re.search(f"model/config.json: {says}", fails(config=changes))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_numbers_are_refused_by_name(fails, value):
    def change(arrays):
        arrays["transformer.ln_f.bias"][1] = value
        arrays["transformer.h.0.attn.c_attn.weight"][0, -1] = value

    line = fails(change)
    assert "NaN or infinite values in " in line
    assert "transformer.ln_f.bias" in line and "h.0.attn.c_attn.weight" in line


def headless(folder: Path, name: str, architecture: str) -> tuple[Path, Arrays]:
    """A case as its base class saves it: no head, and names without the prefix."""
    case = load_case(name)
    arrays = {k.removeprefix("model."): a for k, a in case.weights().items() if "lm_head" not in k}
    config = {**case.config, "architectures": [architecture]}
    return write_model(folder, config, arrays), arrays


def test_a_head_that_the_class_has_must_be_in_the_file(tmp_path):
    folder, _ = headless(tmp_path / "model", "llama_mha", "LlamaForCausalLM")
    with pytest.raises(UserError, match="has no lm_head.weight.*architectures names LlamaModel"):
        import_model(folder, tmp_path / "run", ONE, report=quiet)


@pytest.mark.parametrize(
    ("name", "architecture", "objective", "says"),
    [
        ("llama_mha", "LlamaModel", "none", "LlamaModel has no head .*: it comes in as a backbone"),
        ("qwen2", "Qwen2Model", "causal_lm", "Qwen2Model: the output head is the embedding, to"),
    ],
)
def test_a_class_without_a_head_comes_in_and_goes_out(
    tmp_path, name, architecture, objective, says
):
    folder, arrays = headless(tmp_path / "model", name, architecture)
    run, said = tmp_path / "run", []
    import_model(folder, run, ONE, report=said.append)
    assert len([line for line in said if re.search(says, line)]) == 1
    config = load_saved(run).config
    assert (type_name(type(config.objective)), config.model.head.tied) == (objective, True)
    export_run(run, tmp_path / "out", report=quiet)
    assert_same_bytes(load_all(tmp_path / "out"), arrays)
    same = [(path / "config.json").read_bytes() for path in (tmp_path / "out", folder)]
    assert same[0] == same[1]


def test_a_backbone_is_tuned_to_classify(tmp_path, capsys):
    folder, _ = headless(tmp_path / "model", "llama_mha", "LlamaModel")
    write_bpe(folder)
    run = tmp_path / "run"
    import_model(folder, run, ONE, report=quiet)
    texts = "".join(f"{'a' * n}b,x\n{'b' * n}a,y\n" for n in range(1, 15))
    (tmp_path / "rows.csv").write_text("text,label\n" + texts)
    rows = {"type": "csv", "files": str(tmp_path / "rows.csv"), "label_column": "label"}
    config = yaml.safe_load(Path(SMOKE).read_text())
    del config["model"], config["tokenizer"]
    config["sample"] = {"prompts": []}
    config["objective"] = {"type": "classification"}
    config["data"] = {"type": "examples", "source": rows, "seq_len": 16}
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(config))
    words = [f"init.from={run}", f"run_dir={tmp_path / 'stage'}", "train.steps=1"]
    words += ["optimizer.schedule.warmup=0", "eval.at_end=false", "logging.tensorboard=false"]
    code = cli.main(["finetune", str(tmp_path / "stage.yaml"), *words, *ONE])
    assert code == 0, capsys.readouterr().err
    paths = set(flatten(load_trained(str(tmp_path / "stage"), overrides=ONE, report=quiet)[2]))
    backbone = flatten(load_trained(str(run), overrides=ONE, report=quiet)[2])
    assert paths == {"task_head/kernel", "task_head/bias", *backbone}


def test_a_backbone_with_a_loss_over_tokens_goes_out_with_its_head(tmp_path):
    folder, arrays = headless(tmp_path / "model", "llama_mha", "LlamaModel")
    words = (*ONE, "objective.type=causal_lm")
    import_model(folder, tmp_path / "run", words, report=quiet)
    export_run(tmp_path / "run", tmp_path / "out", report=quiet)
    said = json.loads((tmp_path / "out/config.json").read_text())
    assert (said["architectures"], said["tie_word_embeddings"]) == (["LlamaForCausalLM"], True)
    assert_same_bytes(load_all(tmp_path / "out"), arrays)


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("config.json", {"bos_token_id": [1]}, "bos_token_id is .1.; it must be an id, or null"),
        ("config.json", {"pad_token_id": True}, "pad_token_id is True; it must be an id, or null"),
        ("config.json", {"decoder_start_token_id": 83}, "decoder_start_token_id is 83, but the mo"),
        ("generation_config.json", {"eos_token_id": "</s>"}, "eos_token_id is '</s>'; it must be"),
    ],
)
def test_what_is_not_an_id_is_refused(tmp_path, file, changes, says):
    values = changes if file == "config.json" else {}
    (tmp_path / "generation_config.json").write_text(json.dumps({} if values else changes))
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path / file))}: {says}"):
        lacking_ids(tmp_path, values, 83)


def test_ids_beyond_the_vocabulary_are_named_and_end_nothing(tmp_path):
    said = {"bos_token_id": 83, "eos_token_id": [2, 99], "pad_token_id": -1}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [82, 50256]}')
    assert lacking_ids(tmp_path, said, 83) == [
        "config.json: bos_token_id 83",
        "config.json: eos_token_id 99",
        "config.json: pad_token_id -1",
        "generation_config.json: eos_token_id 50256",
    ]
    assert eos_ids(tmp_path, said, 83) == [82]
    assert eos_ids(tmp_path / "nowhere", said, 83) == [2]


def test_keys_that_no_such_model_reads_are_named(tmp_path):
    folder = write_model(tmp_path / "model", {**GPT2.config, "logit_scale": 0.5}, gpt2_weights())
    said: list[str] = []
    import_model(folder, tmp_path / "run", ONE, report=said.append)
    assert any(
        line.endswith("no GPT2LMHeadModel depends on it: logit_scale (0.5)") for line in said
    )
    ids = "config.json: bos_token_id 50256, config.json: eos_token_id 50256"
    assert f"not among the model's 83 ids, so taken as none: {ids}" in said


def test_all_shards_of_pickles_are_converted(fails):
    def pickles(folder):
        (folder / "model.safetensors").unlink()
        for name in ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"):
            (folder / name).write_bytes(b"")
        (folder / "training_args.bin").write_bytes(b"")

    line = fails(after=pickles)
    shards = "['pytorch_model-00001-of-00002.bin', 'pytorch_model-00002-of-00002.bin']"
    assert f"for n in {shards} for k, v in torch.load(n, " in line


def test_folders_that_lack_something(fails):
    def pickle(folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    line = fails(after=pickle)
    assert "holds pytorch_model.bin" in line and "weights_only=True" in line
    assert "save_file" in line and "'model.safetensors'" in line
    fresh = lambda folder: (folder / "pytorch_model.bin").unlink(missing_ok=True)  # noqa: E731

    def cut(folder):
        fresh(folder)
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-8])

    assert "damaged" in fails(after=cut)

    def nothing(folder):
        (folder / "model.safetensors").unlink()

    assert "neither model.safetensors nor" in fails(after=nothing)
    name = "model-00002-of-00003.safetensors"
    line = fails(after=lambda f: (f / name).unlink(), shards=3)
    assert f"not there: {name}" in line

    def wrong(folder):
        index = folder / "model.safetensors.index.json"
        values = json.loads(index.read_text())
        values["weight_map"]["nowhere"] = name
        index.write_text(json.dumps(values))

    assert "not in the files: nowhere" in fails(after=wrong, shards=3)
    wrong_index = lambda f: (f / "model.safetensors.index.json").write_text("[]")  # noqa: E731
    assert "is not an index" in fails(after=wrong_index, shards=3)


def test_a_folder_appears_whole_or_not_at_all(tmp_path, gpt2_run):
    with pytest.raises(UserError, match="exists already"):
        export_run(gpt2_run, gpt2_run, report=quiet)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="--out: .*; "):
        export_run(gpt2_run, file / "out", report=quiet)
    out = tmp_path / "out"
    with pytest.raises(KeyError), new_folder(out) as partial:
        (partial / "half").write_text("half")
        with pytest.raises(UserError, match="being written by pid"), new_folder(out):
            pass
        raise KeyError
    assert not out.exists() and list(tmp_path.iterdir()) == [file]
    left = tmp_path / ".out.partial"  # by a killed process
    (left / "old").mkdir(parents=True)
    with new_folder(out) as partial:
        assert [path.name for path in partial.iterdir()] == ["run.lock"]
        (partial / "new").write_text("new")
    assert [path.name for path in out.iterdir()] == ["new"]


# ------------------------------------------------------------------------------------------- export


def test_what_a_format_cannot_say_is_an_error(tmp_path, gpt2_run):
    model = load_saved(gpt2_run).config.model
    assert say(family_of("gpt2"), model)["n_embd"] == 32
    capped = model.replace(attention=model.attention.replace(softcap=30.0, dropout=0.3))
    with pytest.raises(UserError, match="attention.softcap: 30.0 has no place .*--family"):
        say(family_of("gpt2"), capped)
    with pytest.raises(UserError, match="family 'gtp2': not known; did you mean gpt2"):
        export_run(gpt2_run, tmp_path / "out", family="gtp2", report=quiet)
    with pytest.raises(UserError, match="bert"):
        export_run(gpt2_run, tmp_path / "out", family="bert", report=quiet)
    assert not (tmp_path / "out").exists()


def test_a_run_from_a_preset_is_exported(tmp_path, capsys):
    """Trained here with averaged weights: they are what is exported, and that is said."""
    config = yaml.safe_load(Path(SMOKE).read_text())
    config["model"] = {"preset": "gpt2", "hidden_size": 32, "num_layers": 2, "vocab_size": None}
    config["model"]["attention"] = {"num_heads": 4, "head_dim": None}
    config["model"]["position"] = {"max_seq_len": 64}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    run, out = tmp_path / "run", tmp_path / "out"
    words = [f"run_dir={run}", "train.steps=2", "optimizer.ema_decay=0.5", "sample.prompts=[]"]
    words += ["eval.at_end=false", "logging.tensorboard=false", *ONE]
    assert cli.main(["train", str(tmp_path / "tiny.yaml"), *words]) == 0
    saved = yaml.safe_load((run / "config.yaml").read_text())["model"]
    assert "preset" not in saved and saved["family"] == "gpt2" and saved["norm"]["eps"] == 1e-5
    capsys.readouterr()
    small = ["--max-shard-size", "40KB", "--dtype", "bfloat16"]
    assert cli.main(["export", "hf", str(run), "--out", str(out), *small]) == 0
    said = capsys.readouterr().err
    assert "averaged weights" in said and "bytes tokenizer has no file in this format" in said
    values = json.loads((out / "config.json").read_text())
    assert (values["n_embd"], values["vocab_size"], values["dtype"]) == (32, 259, "bfloat16")
    arrays = load_all(out)
    _, _, ema, _ = load_trained(str(run), overrides=ONE, report=quiet)
    table = np.asarray(ema["embed"]["table"]).astype("bfloat16")
    assert arrays["transformer.wte.weight"].tobytes() == table.tobytes()
    assert load_trained(str(run), overrides=ONE, report=quiet)[3] == 2
    import_model(out, tmp_path / "again", ONE, report=quiet)
    assert cli.main(["export", "hf", str(run), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_ids_with_a_meaning_are_those_of_the_tokenizer(tmp_path):
    """Whatever those of the published models are; padding begins a text where nothing else does."""
    case = load_case("t5")
    folder = write_model(tmp_path / "model", case.config, case.weights())
    write_bpe(folder)
    said = {"bos_token": "a", "eos_token": "b", "pad_token": "c"}
    (folder / "special_tokens_map.json").write_text(json.dumps(said))
    (folder / "tokenizer_config.json").write_text("{}")
    import_model(folder, tmp_path / "run", (*ONE, "model.prompt.start_id=null"), report=quiet)
    (tmp_path / "run/hf/config.json").unlink()
    export_run(tmp_path / "run", tmp_path / "out", report=quiet)
    for file in ("config.json", "generation_config.json"):
        values = json.loads((tmp_path / "out" / file).read_text())
        ids = [values[f"{name}_token_id"] for name in ("bos", "eos", "pad", "decoder_start")]
        assert ids == [1, 2, 3, 3]


def test_float16_has_no_room_for_large_values(tmp_path):
    arrays = gpt2_weights()
    arrays["transformer.ln_f.weight"][0] = 1e5
    write_model(tmp_path / "model", GPT2.config, arrays)
    import_model(tmp_path / "model", tmp_path / "run", ONE, report=quiet)
    with pytest.raises(UserError, match="ln_f.weight: has values up to 1e.05.*--dtype bfloat16"):
        export_run(tmp_path / "run", tmp_path / "out", dtype="float16", report=quiet)
    assert not list(tmp_path.glob("*out*"))


def test_shards_are_filled_up_to_their_size(tmp_path):
    headers = {name: Header("bfloat16", (n, 2)) for name, n in {"a": 3, "b": 1, "c": 9}.items()}
    assert [list(shard) for shard in split(headers, 16)] == [["a", "b"], ["c"]]
    arrays = {key: np.full(header.shape, i, ml_dtypes.bfloat16)
              for i, (key, header) in enumerate(headers.items())}  # fmt: skip
    write_shards(tmp_path, headers, arrays.items(), max_bytes=16)
    assert_same_bytes(load_all(tmp_path), arrays)
    with safetensors.safe_open(tmp_path / "model-00001-of-00002.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("family", [f.name for f in families()])
def test_every_preset_can_be_exported(family):
    found = family_of(family)
    for name, config in found.presets.items():
        if name == "gpt3-13b":  # 40 heads of 128 are not as wide as its 5140
            with pytest.raises(UserError, match="head_dim: 128 has no place"):
                say(found, config)
            continue
        assert say(found, config)["architectures"], name


# ------------------------------------------------------------------------------------------ presets


def write_config(tmp_path: Path, model: str) -> Path:
    text = re.sub(r"^model:\n(  .*\n)+", model + "\n", Path(SMOKE).read_text(), flags=re.MULTILINE)
    path = tmp_path / "preset.yaml"
    path.write_text(text)
    return path


def test_what_is_given_overrides_a_preset(tmp_path, capsys):
    path = write_config(tmp_path, "model: {preset: gpt2, dtype: float32}")
    resolved = load_run(path, ["model.num_layers=2", "model.attention.softcap=9"])
    model = resolved.config.model
    assert (model.hidden_size, model.num_layers, model.dtype) == (768, 2, "float32")
    assert (model.attention.num_heads, model.attention.softcap) == (12, 9.0)
    other = load_run(path, ["model.preset=gpt2-medium"]).config.model
    assert (other.hidden_size, other.dtype) == (1024, "float32")
    assert cli.main(["config", "show", str(path), "model.num_layers=2"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^model.hidden_size: 768 +# preset gpt2;", out, re.MULTILINE)
    assert re.search(r"^model.num_layers: 2 +# command line;", out, re.MULTILINE)
    assert re.search(r"^model.dtype: float32 +# preset.yaml:\d+;", out, re.MULTILINE)
    assert re.search(r"^model.norm.eps: 1e-05 +# preset gpt2;", out, re.MULTILINE)
    assert cli.main(["config", "show", str(path), "--yaml"]) == 0
    assert "preset" not in yaml.safe_load(capsys.readouterr().out)["model"]


def test_unknown_presets(tmp_path, capsys):
    path = write_config(tmp_path, "model: {preset: gpt2-mediun}")
    line = rf"{path.name}:\d+: model.preset: there is no 'gpt2-mediun'; did you mean gpt2-medium"
    with pytest.raises(UserError, match=line):
        load_run(path)
    with pytest.raises(UserError, match="command line: model.preset: there is no '7'"):
        load_run(path, ["model.preset=7"])
    with pytest.raises(UserError, match="model.type: 'rnn' but preset gpt2 is a transformer"):
        load_run(path, ["model.preset=gpt2", "model.type=rnn"])


def test_a_run_that_trains_has_steps_and_an_optimizer():
    with pytest.raises(UserError, match="train.steps: 0 trains nothing"):
        load_run(SMOKE, ["train.steps=0"])
    with pytest.raises(UserError, match="optimizer: null trains nothing"):
        load_run(SMOKE, ["optimizer=null"])


def test_presets_are_listed_with_their_sizes(capsys):
    assert cli.main(["presets", "--json"]) == 0
    found = [Preset(**row) for row in json.loads(capsys.readouterr().out)]
    text = render(found)
    assert re.search(r"^gpt2-xl +gpt2 +1,557,611,200 ", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 100
    assert [row.name for row in found] == [name for f in families() for name in f.presets]
    assert all(f.presets.keys() == f.num_params.keys() for f in families())


# --------------------------------------------------------------------------- beside transformers


@pytest.mark.parametrize("name", OURS)
def test_transformers_computes_our_logits_of_what_we_export(tmp_path, name):
    """It finds every tensor, and computes what our model does, on rows without packing."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    case = load_case(name)
    theirs = getattr(transformers, case.config["architectures"][0], None)
    if theirs is None:
        pytest.skip("this transformers has no such class")
    write_model(tmp_path / "model", case.config, case.weights())
    import_model(tmp_path / "model", tmp_path / "run", ONE, report=quiet)
    (tmp_path / "run/hf/config.json").unlink()  # so that our own config.json is what is tried
    export_run(tmp_path / "run", tmp_path / "out", report=quiet)
    model, info = theirs.from_pretrained(
        tmp_path / "out", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    how, rows = batch_of(name)["how"], slice(1 if "prompts" in case.arrays else None)
    given = {"input_ids": case.arrays["tokens"], "token_type_ids": how.get("token_types")}
    given["attention_mask"] = how["segment_ids"]
    if "encoder_tokens" in case.arrays:
        given = {"input_ids": case.arrays["encoder_tokens"]}
        given["attention_mask"] = case.arrays["encoder_mask"]
        given["decoder_input_ids"] = case.arrays["tokens"]
    with torch.no_grad():
        expected = model(
            **{key: torch.tensor(x[rows]).long() for key, x in given.items() if x is not None}
        )[0].numpy()
    found, real = computed(name)[0][1]["logits"][rows], real_of(name)[rows]
    bound = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(found * real, expected * real, rtol=0, atol=bound)


def test_transformers_reads_our_text_and_shards_as_we_do(tmp_path, gpt2_run):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    _, program = one_device_program(gpt2_run)
    params = load_trained(str(gpt2_run), overrides=ONE, report=quiet)[2]
    export_run(gpt2_run, tmp_path / "out", max_bytes=50_000, report=quiet)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("the other the.")["input_ids"]
    assert ids == cli_tokenizer(gpt2_run).encode("the other the.")
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits.numpy()
    config = program.model.replace(dtype="float32")
    model = nnx.merge(nnx.split(nnx.eval_shape(
        lambda: config.build(83, rngs=nnx.Rngs(0))))[0], params)  # fmt: skip
    rows = {
        "positions": jnp.arange(len(ids))[None],
        "segment_ids": jnp.ones((1, len(ids)), jnp.int32),
    }
    found = model.logits(model(jnp.asarray([ids]), **rows).hidden)
    np.testing.assert_allclose(jax.device_get(found), expected, rtol=1e-4, atol=1e-4)


def test_a_model_that_has_no_form_there_is_said_to_have_none():
    with pytest.raises(UserError, match="model.type bag_of_words has no form in Hugging Face's"):
        exporting.family_for(RunDir("runs/bag"), BagOfWordsConfig(), None)
    with pytest.raises(UserError, match="choose a family with --family"):
        exporting.family_for(RunDir("runs/any"), TransformerConfig(), None)
