"""Translation and summaries: rows, long texts, languages, metrics, guesses without a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.core.measures import Measure, notes_of
from jaxlm.data.prompt_formats.base import Ends
from jaxlm.data.prompt_formats.source import Source
from jaxlm.data.records import RecordData
from jaxlm.data.sources.jsonl import JsonLines
from jaxlm.data.tokenizers.base import Bytes, ByteTokenizer
from jaxlm.evals.baselines.copy import Copy
from jaxlm.evals.baselines.lead import Lead, sentences
from jaxlm.evals.baselines.nearest import Nearest
from jaxlm.evals.similar_texts import SimilarTexts
from jaxlm.objectives.seq2seq import Seq2Seq
from jaxlm.tasks.classification import Classification
from jaxlm.tasks.sources import SourceTask
from jaxlm.tasks.summarisation import Summarisation
from jaxlm.tasks.text_metrics import bleu, language_of, rouge
from jaxlm.tasks.translation import Translation

BYTES = ByteTokenizer()
BOS, EOS = 257, 258
PAIR = {"source": "ab", "target": "xyz"}


class Listed(list[Any]):
    def column(self, name: str) -> Any:
        return (record[name] for record in self)


def prepared(task: SourceTask, record: dict[str, Any]) -> dict[str, Any]:
    (found,) = task.windows(task.expand(record)[0], BYTES)
    return found


def ids(text: str) -> list[int]:
    return [*text.encode()]


def test_an_encoder_has_the_source_and_a_decoder_the_target() -> None:
    task = Translation(encoder=True, prefix="t:").fitted(8)
    row = task.encode(prepared(task, PAIR), BYTES, 8)
    assert row["source_tokens"].tolist() == [BOS, *ids("t:ab"), EOS]
    assert row["tokens"].tolist() == [*ids("xyz"), EOS]
    spec = task.row_spec(8)
    assert spec.sizes == {"S": 8, "T": 8}
    padded = {key: spec.padding()[key] for key in spec}
    padded["tokens"][:4], padded["segment_ids"][:4] = row["tokens"], 1
    padded["positions"][:4] = range(4)
    batch = Seq2Seq(start=7).host_transform(BYTES, 0)(padded, 0)
    assert batch["tokens"].tolist() == [7, *ids("xyz"), *[BYTES.pad_id] * 4]
    assert batch["targets"][:4].tolist() == [*ids("xyz"), EOS]
    assert batch["loss_weights"].tolist() == [1] * 4 + [0] * 4


def test_one_text_has_both_and_the_target_counts() -> None:
    task = Translation(separator="=").fitted(12)
    row = task.encode(prepared(task, PAIR), BYTES, 13)
    assert row["tokens"].tolist() == [BOS, *ids("ab=xyz"), EOS]
    assert row["loss_weights"].tolist() == [0] * 4 + [1] * 4
    assert task.authors(prepared(task, PAIR), BYTES) == ["source"] * 4 + ["target"] * 3 + [
        "template"
    ]
    assert (found := task.extent(prepared(task, PAIR), BYTES)).trained == 4 and found.first == 4


@pytest.mark.parametrize("encoder", [True, False])
def test_a_prompt_has_the_ids_of_a_source_in_training(encoder: bool) -> None:
    task = Translation(encoder=encoder, prefix="p ", too_long="cut").fitted(16)
    form = Source(**task.prompt_options)
    for text in ("ab", "a source that is too long for it"):
        record = prepared(task, {"source": text, "target": "x"})
        row = task.encode(record, BYTES, 17)
        source = row["source_tokens"] if encoder else row["tokens"][:-2]
        assert form.encode(BYTES, task.prompt(record), Ends(True, True)) == source.tolist()
    with pytest.raises(UserError, match="prompt: has 37 tokens, and a source had room for 16"):
        Source(max_source=16).encode(BYTES, "a" * 35, Ends(True, True))


def test_what_has_no_room_is_an_error_cut_or_left_out_and_never_silent() -> None:
    long, far = {"source": "a" * 30, "target": "x"}, {"source": "a", "target": "x" * 30}
    task = Translation(encoder=True).fitted(16)
    error = "the source 'a+' has 32 tokens, and there is room for 16; raise data.task.max_source"
    with pytest.raises(UserError, match=error):
        prepared(task, long)
    with pytest.raises(UserError, match="the target 'x+' has 31 tokens"):
        prepared(task, far)
    cut = task.replace(too_long="cut")
    records = Listed(prepared(cut, record) for record in (long, far, PAIR))
    row = cut.encode(records[0], BYTES, 16)
    assert row["source_tokens"].tolist() == [BOS, *ids("a" * 14), EOS]
    assert cut.remarks(cut.counts(records)) == [
        "1 sources are cut to 16 tokens",
        "1 targets are cut to 16 tokens",
    ]
    arrays = [{"text": np.array("y"), "score": np.array(-1.0)}]
    for each in (cut, task.replace(too_long="leave_out")):
        asked = each.windows(each.unanswered({"source": "a" * 30}), BYTES)
        assert each.answer(asked, arrays, BYTES) == {"text": "y", "score": -1.0, "cut": True}
    with pytest.raises(UserError, match="task.max_source: sources of 15 tokens and targets of 2"):
        Translation(max_source=15).fitted(16)


def test_what_is_left_out_of_training_is_measured(tmp_path: Path) -> None:
    """Then the records that a figure is of do not depend on the tokenizer."""
    texts = ["a", "b" * 30, "c"]
    pairs = [json.dumps({"source": text, "target": text}) for text in texts]
    (tmp_path / "pairs.jsonl").write_text("\n".join(pairs) + "\n")
    source = JsonLines(files=(str(tmp_path / "pairs.jsonl"),))
    task, said = Translation(encoder=True, too_long="leave_out"), list[str]()
    data = RecordData(source=source, validation=source, task=task, seq_len=16)
    found = data.prepare(Bytes(), tmp_path / "cache", report=said.append)
    train, held_out = (found.splits[name] for name in ("train", "validation"))
    assert [r["source"] for r in train.rows.records] == ["a", "c"]  # type: ignore[attr-defined]
    assert [r["target"] for r in held_out.rows.records] == texts  # type: ignore[attr-defined]
    assert found.manifest["splits"]["train"]["too_long"] == 1
    assert "train: 1 records are left out, which are too long" in said
    assert "validation: 1 sources are cut to 16 tokens" in said
    own = data.measured(source, found.tokenizer, tmp_path / "cache", found.facts)
    assert own.splits["validation"].counts["documents"] == 3
    with pytest.raises(UserError, match="data.task: all 2 training records are too long"):
        (tmp_path / "pairs.jsonl").write_text(f"{pairs[1]}\n" * 2)
        data.replace(validation_fraction=0).prepare(Bytes(), tmp_path / "cache", report=said.append)


def test_pairs_that_fit_one_side_of_a_row_fit_the_other() -> None:
    task = Translation(encoder=True, max_source=20).fitted(10)
    assert task.extent(prepared(task, {"source": "a" * 9, "target": "x"}), BYTES).tokens == 6
    assert task.extent(prepared(task, {"source": "a", "target": "x" * 8}), BYTES).tokens == 9


def test_the_language_of_the_targets_chooses_how_they_are_compared() -> None:
    assert (
        language_of(["保存文件 File", "打开"]) == "zh" and language_of(["ファイルを開く"]) == "ja"
    )
    assert language_of(["Datei 文 speichern"]) == language_of([]) == ""
    chinese = Listed({"target": "保存文件。"} for _ in range(3))
    assert Translation().resolve(chinese) == {"bleu_tokenizer": "zh"}
    assert Translation(bleu_tokenizer="char").resolve(chinese) == {"bleu_tokenizer": "char"}
    assert Summarisation().resolve(chinese) == {"language": "zh"}
    task = Translation().given({"bleu_tokenizer": "zh"})
    found = task.score(["保存了文件。"], chinese[:1])
    assert "tok:zh" in notes_of(found)["bleu"] and "nc:6" in notes_of(found)["chrf"]
    by_character = {m.name: m.value for m in rouge(["红楼梦"], ["红楼"], "zh")}
    assert by_character == pytest.approx({"rouge1": 80, "rouge2": 200 / 3, "rougeL": 80})


def test_texts_are_compared_in_their_order_and_empty_ones_count() -> None:
    texts = ["the cat sat on the mat", "a dog ran in the park"]
    records = [{"target": text} for text in texts]
    task = Translation(bleu_tokenizer="13a")
    value = lambda said: task.score(said, records)[0].value  # noqa: E731
    assert value(texts) == pytest.approx(100) and value(texts[::-1]) < 30
    assert 0 < value([texts[0], ""]) < 100 and value(["", ""]) == 0
    assert bleu([], [], "13a").value == 0
    assert [m.value for m in Summarisation().score(["", ""], records)] == [0, 0, 0]
    # the mean over texts, words without inflections: F1 of 3 of 3 and 3 of 6 words is 2/3
    records[1] = {"target": "cats run"}
    found = Summarisation().score(["the cat sat", "cat runs"], records)
    assert found[0].value == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    for task in (Translation(), Summarisation()):
        with pytest.raises(UserError, match=r"pip install 'jaxlm\[metrics\]'"):
            task.check_score()


def test_guesses_without_a_model() -> None:
    train = Listed(
        {"source": source, "target": target}
        for source, target in (
            ("Save the file. Then close it.", "Datei sichern."),
            ("Open a new window.", "Ein Fenster."),
            ("", ""),
        )
    )
    asked = {"source": "Save all files. And go. Now."}
    translation, summary = Translation(), Summarisation()
    copied, nearest = Copy().fit(translation, train), Nearest().fit(summary, train)
    lead = Lead().fit(summary, train)
    assert copied and copied(asked) == asked["source"]
    assert nearest and nearest(asked) == "Datei sichern."
    assert lead and lead(asked) == "Save all files."
    assert Copy().fit(summary, train) is Lead().fit(translation, train) is None
    assert Nearest().fit(Classification(), train) is None
    two = Listed([{"source": "a", "target": "One. Two."}])
    own = {"train": SimpleNamespace(rows=SimpleNamespace(records=two))}
    session: Any = SimpleNamespace(prepared=SimpleNamespace(task=summary, splits=own))
    assert Lead().title(session, "validation") == "lead-2"
    assert sentences("一。二！三") == ["一。", "二！", "三"]


def test_the_nearest_text_has_the_largest_cosine_of_tf_idf() -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice([*"abcd "], 12)) for _ in range(40)]

    def grams(text: str) -> list[str]:
        padded = f" {' '.join(text.split())} "
        return [padded[n : n + 3] for n in range(len(padded) - 2)]

    every = sorted({g for text in texts for g in grams(text)})
    counts = np.array([[grams(text).count(g) for g in every] for text in texts], float)
    idf = 1 + np.log((1 + len(texts)) / (1 + (counts > 0).sum(0)))
    vectors = counts * idf
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = SimilarTexts(texts)
    for _ in range(20):
        asked = "".join(rng.choice([*"abcd "], 10))
        own = np.array([grams(asked).count(g) for g in every]) * idf
        scores = vectors @ own
        assert scores[index.nearest(asked)] == pytest.approx(scores.max(), rel=1e-5)


def test_a_note_is_of_the_model_alone() -> None:
    measures = [Measure("bleu", 1.0, note="n"), Measure("copy/bleu", 1.0, note="n", baseline="c")]
    assert notes_of(measures) == {"bleu": "n"}
