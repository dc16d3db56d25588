"""Classifiers, taggers and span models in Hugging Face's format: their logits, and every byte.

The fixtures are from tools/make_golden_heads.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from jaxlm import cli
from jaxlm.core.config import UserError, diff
from jaxlm.core.tree import flatten
from jaxlm.hf.config_files import Contents
from jaxlm.hf.exporting import export_run
from jaxlm.hf.importing import import_model, read_config
from jaxlm.models.families import families, family_of
from jaxlm.models.families.shared.head_classes import TaskClass, linear, task_for
from jaxlm.nn.heads.base import TaskHeadConfig
from jaxlm.nn.heads.classify import Classify
from jaxlm.nn.heads.scalar import Scalar
from jaxlm.nn.heads.span import Span
from jaxlm.nn.heads.tag import Tag
from jaxlm.run import load_saved
from jaxlm.training.loading import load_trained
from tests.hf.test_hf import ONE, SMOKE, assert_same_bytes, load_all, quiet, write_model
from tests.models.golden_families import FIXTURES, Case, load_case

pytest.importorskip("safetensors")
HEADS = FIXTURES.parent / "heads"
CASES = sorted(path.stem for path in HEADS.glob("*.npz"))
LABELS = ("low", "middle", "high")


def imported(name: str, folder: Path) -> tuple[Case, Path]:
    case = load_case(name, HEADS)
    write_model(folder / "model", case.config, case.weights())
    import_model(folder / "model", folder / "run", (*ONE, "model.dtype=float32"), report=quiet)
    return case, folder / "run"


def logits_of(run: Path, case: Case) -> np.ndarray:
    """What the run's own model and head give for the batch of the case."""
    _, program, params, _ = load_trained(str(run), overrides=ONE, report=quiet)
    tokens = case.arrays["tokens"]
    real = np.arange(tokens.shape[1]) < case.arrays["lengths"][:, None]
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    batch = {"tokens": tokens, "positions": positions, "segment_ids": real.astype(np.int32)}

    @jax.jit  # one program is sooner compiled than each operation
    def scores(params, batch):
        return program.objective.scores(nnx.merge(program.graphdef, params), batch)[0]

    with jax.set_mesh(program.mesh):
        return np.asarray(scores(params, batch))


def test_there_is_a_fixture_of_every_kind_of_head():
    kinds = {type(head) for name in CASES for head in [head_of(load_case(name, HEADS))]}
    assert kinds == {Classify, Scalar, Span, Tag}


def head_of(case: Case):
    family, _ = read_config(Path("config.json"), case.config)
    return family.task_called(case.config["architectures"][0]).read(case.config)[0]


# Heads are BERT's here, one of each kind; other backbones with one head each.
LIKE_OTHERS = {"gpt2_span", "llama_tag", "roberta_classify"}
COMPARED = [pytest.param(n, marks=[pytest.mark.slow] * (n in LIKE_OTHERS)) for n in CASES]


@pytest.mark.parametrize("name", COMPARED)
def test_logits_are_those_of_transformers_and_every_byte_comes_back(name, tmp_path):
    case, run = imported(name, tmp_path)
    objective = load_saved(run).config.objective
    labelled = isinstance(objective.head, Tag) or type(objective.head) is Classify
    assert objective.labels == (LABELS if labelled else ())
    found, want = logits_of(run, case), case.arrays["logits"]
    real = np.arange(found.shape[1]) < case.arrays["lengths"][:, None]
    if isinstance(objective.head, Tag | Span):
        found, want = found[real], want[real]
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * max(1, np.abs(want).max()))

    export_run(run, tmp_path / "out", check=False, report=quiet)
    assert_same_bytes(load_all(tmp_path / "out"), case.weights())
    texts = [(tmp_path / part / "config.json").read_text() for part in ("model", "out")]
    assert texts[0] == texts[1]

    (run / "hf/config.json").unlink()  # so that our own config.json is written
    export_run(run, tmp_path / "again", check=False, report=quiet)
    assert_same_bytes(load_all(tmp_path / "again"), case.weights())
    said = json.loads((tmp_path / "again/config.json").read_text())
    assert said["architectures"] == case.config["architectures"]
    import_model(
        tmp_path / "again", tmp_path / "third", (*ONE, "model.dtype=float32"), report=quiet
    )
    configs = [load_saved(path).config for path in (run, tmp_path / "third")]
    changed = diff(*(c.replace(run_dir=None, tokenizer=None, sample=configs[0].sample)
                     for c in configs))  # fmt: skip
    assert [line for line in changed if "head.dropout" not in line] == []


def trained(tmp_path: Path, *words: str) -> Path:
    """A classifier that was trained here for one step, of the shape of a Llama."""
    texts = "".join(f"{'a' * n}b,x\n{'b' * n}a,y\n" for n in range(1, 15))
    (tmp_path / "rows.csv").write_text("text,label\n" + texts)
    rows = f"source: {{type: csv, files: {tmp_path}/rows.csv, label_column: label}}"
    words = (
        "train.steps=1",
        f"run_dir={tmp_path / 'run'}",
        "sample.prompts=[]",
        "logging.tensorboard=false",
        "optimizer.schedule.warmup=0",
        "model.family=llama",
        f"data={{type: examples, {rows}, seq_len: 16}}",
        "eval.at_end=false",
        "eval.every_steps=null",
        "model.head.tied=false",
        *words,
    )
    assert cli.main(["train", SMOKE, *words, *ONE]) == 0
    return tmp_path / "run"


def test_a_classifier_that_was_trained_here_goes_out_and_comes_back(tmp_path):
    """Its head over the vocabulary has no place there, and is left out."""
    head = "{pool: last, bias: false}"
    run, said = trained(tmp_path, f"objective={{type: classification, head: {head}}}"), []
    export_run(run, tmp_path / "out", report=said.append)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["label2id"] == {"x": 0, "y": 1}
    assert config["problem_type"] == "single_label_classification"
    assert isinstance(config["pad_token_id"], int)
    tensors = load_all(tmp_path / "out")
    assert tensors["score.weight"].shape[0] == 2 and "lm_head.weight" not in tensors
    import_model(tmp_path / "out", tmp_path / "back", ONE, report=quiet)
    before, after = (flatten(load_trained(str(r), overrides=ONE, report=quiet)[2])
                     for r in (run, tmp_path / "back"))  # fmt: skip
    assert before.keys() - after.keys() == {"unembed/kernel"}
    for path, value in after.items():
        np.testing.assert_array_equal(before[path], value, err_msg=path)
    assert load_saved(tmp_path / "back").config.objective.classes == ("x", "y")


@pytest.mark.parametrize(
    ("family", "head", "says"),
    [
        ("llama", Classify(), "no class of llama has a head with type classify, bias true, pool "
         "mean; .*LlamaForSequenceClassification: type classify, bias false, pool last"),
        ("llama", Classify(pool="last"), "train with one of these"),
        ("bert", Classify(pool="mean"), "BertForTokenClassification: type tag"),
        ("t5", Classify(), "no class of t5 has a head for a task"),
    ],
)  # fmt: skip
def test_a_head_that_no_class_has_is_one_error(family, head, says):
    with pytest.raises(UserError, match=says) as error:
        task_for(family_of(family).tasks, family, head)
    assert "\n" not in str(error.value)


@dataclass(frozen=True, kw_only=True)
class Ordered(TaskHeadConfig):
    """A head of one's own: classes in an order."""

    def problem_type(self, several: bool) -> str:
        return "single_label_classification"


def test_a_head_of_ones_own_is_said_and_read():
    task = TaskClass("MyForOrder", "MyModel", Ordered(bias=False), linear("order"))
    head = Ordered(bias=False, dropout=0.3)
    assert task_for((task,), "mine", head) is task
    said = task.say(head, ("low", "high"))
    assert said["id2label"] == {"0": "low", "1": "high"}
    assert said["problem_type"] == "single_label_classification"
    assert task.read({**said, "classifier_dropout": 0.3}) == (head, ("low", "high"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"problem_type": "ranking"}, "problem_type is 'ranking'; known are"),
        ({"problem_type": "regression"}, "problem_type is regression of 3 numbers"),
        ({"id2label": {"1": "a"}}, "id2label is .*names of the labels 0, 1"),
        ({"id2label": None, "num_labels": 0}, "num_labels is 0"),
        (
            {"architectures": ["T5ForSequenceClassification"]},
            "T5ForSequenceClassification reads one text in both",
        ),
    ],
)
def test_what_cannot_be_read_is_one_error(changes, says, tmp_path):
    case = load_case("bert_classify", HEADS)
    write_model(tmp_path / "model", {**case.config, **changes}, case.weights())
    with pytest.raises(UserError, match=f"{tmp_path}/model/config.json: {says}") as error:
        import_model(tmp_path / "model", tmp_path / "run", ONE, report=quiet)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("pool", "pad", "noted"), [("last", 2, True), ("last", 0, False),
                                                     ("first", 2, False)])  # fmt: skip
def test_a_padding_that_ends_texts_is_reported(pool, pad, noted):
    contents = Contents(family_of("llama"), None, head=Classify(pool=pool))
    note = contents.padding_note(SimpleNamespace(pad_id=pad, eos_id=2))
    assert bool(note) == noted
    assert not noted or "pad_token_id is 2, which also ends a text" in note


def test_no_class_has_two_meanings():
    names = [name for family in families() for name in dict.fromkeys(family.classes)]
    assert len(names) == len({*names})
