"""A run that was imported from Hugging Face's format predicts: its labels are in config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import jaxlm
from jaxlm import cli
from jaxlm.evals.run import evaluate_run
from jaxlm.hf.exporting import export_run
from jaxlm.hf.importing import import_model
from tests.hf.test_hf import ONE, quiet, write_model
from tests.models.golden_families import FIXTURES, load_case

pytest.importorskip("safetensors")
tokenizers = pytest.importorskip("tokenizers")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "met", "ana", "bo", "?", ".", "##s", "an")
LABELS = ("low", "middle", "high")


def write_tokenizer(folder: Path) -> None:
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({w: n for n, w in enumerate(WORDS)}, unk_token="[UNK]")
    )
    made.add_special_tokens(list(WORDS[:4]))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.save(str(folder / "tokenizer.json"))


@pytest.fixture
def imported(request: Any, tmp_path: Path) -> jaxlm.Run:
    name, said = request.param if isinstance(request.param, tuple) else (request.param, {})
    case = load_case(name, FIXTURES.parent / "heads")
    write_model(tmp_path / "model", {**case.config, **said}, case.weights())
    write_tokenizer(tmp_path / "model")
    import_model(tmp_path / "model", tmp_path / "run", (*ONE, "model.dtype=float32"), report=quiet)
    return jaxlm.load(tmp_path / "run")


def logits(run: jaxlm.Run, ids: list[int], types: list[int] | None = None) -> np.ndarray:
    """Scores of one row, without padding."""
    row = {
        "tokens": np.array([ids]),
        "positions": np.arange(len(ids))[None],
        "segment_ids": np.ones((1, len(ids)), np.int32),
    }
    if types is not None:
        row["token_types"] = np.array([types])
    with jax.set_mesh(run.program.mesh):
        model = nnx.merge(run.program.graphdef, run.params)
        return np.asarray(run.program.objective.scores(model, row)[0][0], np.float64)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("imported", ["bert_classify"], indirect=True)
def test_a_classifier(imported: jaxlm.Run, tmp_path: Path) -> None:
    (found,) = imported.predict(["Ana met Bos."])
    want = softmax(logits(imported, [2, 6, 5, 7, 10, 9, 3]))
    assert found["scores"] == pytest.approx(dict(zip(LABELS, want, strict=True)), abs=1e-5)

    (tmp_path / "new.csv").write_text("id,text\n1,Ana met Bos.\n2,who?\n")
    out = tmp_path / "out.jsonl"
    words = ["predict", str(imported.path), "--input", str(tmp_path / "new.csv")]
    assert cli.main([*words, "--output", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines[0]["label"] == found["label"] and len(lines) == 2


@pytest.mark.parametrize(
    "imported", [("bert_classify", {"problem_type": "multi_label_classification"})], indirect=True
)
def test_a_classifier_of_several_labels(imported: jaxlm.Run, tmp_path: Path) -> None:
    (found,) = imported.predict(["who?"])
    want = 1 / (1 + np.exp(-logits(imported, [2, 4, 8, 3])))
    assert found["scores"] == pytest.approx(dict(zip(LABELS, want, strict=True)), abs=1e-5)
    assert found["labels"] == [name for name, p in zip(LABELS, want, strict=True) if p > 0.5]

    (imported.path / "hf/config.json").unlink()  # so that our own config.json is written
    export_run(imported.path, tmp_path / "out", report=quiet)
    said = json.loads((tmp_path / "out/config.json").read_text())
    assert said["problem_type"] == "multi_label_classification"


@pytest.mark.parametrize("imported", ["bert_tag"], indirect=True)
def test_a_tagger(imported: jaxlm.Run, tmp_path: Path) -> None:
    (found,) = imported.predict([{"tokens": ["Ana", "met", "Bos", "?"]}])
    best = logits(imported, [2, 6, 5, 7, 10, 8, 3])[[1, 2, 3, 5]]
    path = tmp_path / "tagged.jsonl"
    path.write_text(json.dumps({"tokens": "Ana met Bos ?", "tags": "low low low high"}))
    measured = {m.name: m.value for m in evaluate_run(str(imported.path), files=(str(path),))[1]}
    right = np.mean(np.array(found["tags"]) == ["low", "low", "low", "high"])
    assert measured["eval/token_accuracy"] == measured["eval/accuracy"] == right
    assert found["tags"] == [LABELS[i] for i in best.argmax(-1)]
    assert found["scores"] == pytest.approx(softmax(best).max(-1), abs=1e-5)


@pytest.mark.parametrize("imported", ["bert_span"], indirect=True)
def test_answers(imported: jaxlm.Run) -> None:
    """The scores of the spans, found one by one."""
    context = "Ana  met Bos . "
    (found,) = imported.predict([{"question": "who?", "context": context}])
    z = logits(imported, [2, 4, 8, 3, 6, 5, 7, 10, 9, 3], [0] * 4 + [1] * 6)[4:9]
    offsets = [(0, 3), (5, 8), (9, 11), (11, 12), (13, 14)]
    spans = {
        (offsets[s][0], offsets[e][1]): z[s, 0] + z[e, 1] for s in range(5) for e in range(s, 5)
    }
    (begin, end), _ = max(spans.items(), key=lambda item: item[1])
    assert (found["start"], found["answer"]) == (begin, context[begin:end])
    probs = softmax(np.array([*spans.values()]))
    assert found["score"] == pytest.approx(probs.max(), abs=1e-5)
    assert len(found["n_best"]) == 15
