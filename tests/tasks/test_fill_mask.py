"""Masked fill: an imported BERT and a run of one's own, against the model's own logits."""

from __future__ import annotations

import json
import math
from collections import Counter

import jax
import numpy as np
import pytest
from flax import nnx

import jaxlm
from jaxlm import cli
from jaxlm.core.config import UserError, parse
from jaxlm.data.augment.character_noise import CharacterNoise
from jaxlm.data.augment.random_swap import RandomSwap
from jaxlm.data.augment.token_cutoff import TokenCutoff
from jaxlm.data.augment.word_dropout import WordDropout
from jaxlm.data.store.prepared import DataConfig
from jaxlm.data.tokenizers.base import Bytes, ByteTokenizer
from jaxlm.data.tokenizers.huggingface import HuggingFaceTokenizer
from jaxlm.evals.one_pass import OnePass
from jaxlm.evals.run import evaluate_run
from jaxlm.hf.importing import import_model
from jaxlm.tasks.fill_mask import FillMask
from tests import tiny
from tests.hf.test_hf import ONE, quiet, write_model
from tests.models.golden_families import load_case

tokenizers = pytest.importorskip("tokenizers")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "met", "ana", "bo", "##s", ".")
MASK = WORDS.index("[MASK]")
BYTES = ByteTokenizer()


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> jaxlm.Run:
    folder, case = tmp_path_factory.mktemp("bert"), load_case("bert")
    write_model(folder / "model", case.config, case.weights())
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({w: n for n, w in enumerate(WORDS)}, unk_token="[UNK]")
    )
    made.add_special_tokens(list(WORDS[:5]))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.save(str(folder / "model" / "tokenizer.json"))
    words = (*ONE, "model.dtype=float32", "eval.batch_size=4")
    import_model(folder / "model", folder / "run", words, report=quiet)
    return jaxlm.load(folder / "run")


def log_probs(run: jaxlm.Run, ids: list[int]) -> np.ndarray:
    """[T, V] of one row, without padding."""
    with jax.set_mesh(run.program.mesh):
        model = nnx.merge(run.program.graphdef, run.params)
        positions, segments = np.arange(len(ids))[None], np.ones((1, len(ids)), np.int32)
        out = model(np.array([ids]), positions=positions, segment_ids=segments)
        return np.asarray(jax.nn.log_softmax(model.logits(out.hidden))[0], np.float64)


def test_masks_get_their_likeliest_tokens(bert):
    one, two = bert.predict(["Ana met [MASK].", "[MASK] who [MASK]"])
    for found, ids in ((one, [2, 7, 6, MASK, 10, 3]), (two, [2, MASK, 5, MASK, 3])):
        want = log_probs(bert, ids)[np.array(ids) == MASK]
        best = np.argsort(-want, axis=-1)[:, :5]
        assert [[each["id"] for each in fill] for fill in found["fills"]] == best.tolist()
        scores = [[each["score"] for each in fill] for fill in found["fills"]]
        np.testing.assert_allclose(scores, np.exp(np.take_along_axis(want, best, -1)), rtol=1e-4)
        assert found["score"] == pytest.approx(want.max(-1).sum(), rel=1e-4)


def test_a_text_without_masks_has_a_pseudo_log_likelihood(bert):
    ids, texts = [2, 7, 6, 8, 9, 3], ["ana met bos", "[MASK] met", "who"]
    want = 0.0
    for place in range(1, 5):
        hidden = [MASK if n == place else i for n, i in enumerate(ids)]
        want += log_probs(bert, hidden)[place, ids[place]]
    found, other, short = bert.predict(texts)
    assert found["score"] == pytest.approx(want, rel=1e-4) and found["text"] == "ana met bos"
    assert found["perplexity"] == pytest.approx(math.exp(-want / 4), rel=1e-4)
    assert len(other["fills"]) == 1 and short["perplexity"] > 1


def test_the_verb_writes_a_line_a_record(bert, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "ana [MASK] bo"}\n{"text": "who met"}\n')
    words = ["--input", f"{tmp_path}/in.jsonl", "--output", f"{tmp_path}/out.jsonl"]
    assert cli.main(["predict", str(bert.path), *words]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [*lines[0]] == ["text", "score", "fills"] and [*lines[1]] == [
        "text",
        "score",
        "perplexity",
    ]


def test_the_accuracy_of_masks(bert, tmp_path):
    ids = [2, 7, 6, MASK, 10, 3]
    rows = log_probs(bert, ids)[3]
    words = [WORDS[int(i)] for i in np.argsort(-rows) if 5 <= i < 9][:2]
    lines = [json.dumps({"text": "Ana met [MASK].", "answer": word}) for word in words]
    (tmp_path / "cloze.jsonl").write_text("\n".join(lines) + "\n")
    _, measures = evaluate_run(str(bert.path), files=(f"{tmp_path}/cloze.jsonl",), report=quiet)
    found = {m.name: m.value for m in measures}
    want = -np.mean([rows[WORDS.index(word)] for word in words])
    assert found["eval/loss"] == pytest.approx(want, rel=1e-4)
    right = [rows.argmax() == WORDS.index(word) for word in words]
    assert found["eval/accuracy"] == np.mean(right)


def test_the_mask_has_two_spellings():
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, "?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<mask>"])
    tokenizer = HuggingFaceTokenizer(made.to_str().encode(), {})
    task = FillMask(add_bos=False, add_eos=False)
    for text in ("a <mask> b", "a [MASK] b"):
        (window,) = task.windows(task.unanswered({"text": text}), tokenizer)
        assert task.encode(window, tokenizer, 9)["tokens"].tolist() == [0, 3, 1]


def test_what_cannot_be_filled(bert):
    with pytest.raises(UserError, match="17 masks; give it at most 16"):
        bert.predict(["[MASK]" * 17])
    with pytest.raises(UserError, match="tokens does not fit rows of"):
        bert.predict(["ana " * 2000])


def test_a_run_of_ones_own_fills(tmp_path):
    settings = (
        "train.steps=2",
        "eval.at_end=false",
        "sample.prompts=[]",
        f"run_dir={tmp_path}/run",
    )
    run = jaxlm.train(tiny.load("bert", *ONE, *settings, "logging.tensorboard=false").config)
    (found,) = run.predict(["ab[MASK]d"])
    mask = run.config.objective.mask
    begin = [run.tokenizer.bos_id] if run.ends.bos else []
    end = [run.tokenizer.eos_id] if run.ends.eos else []
    ids = [*begin, *run.tokenizer.encode("ab"), mask, *run.tokenizer.encode("d"), *end]
    want = log_probs(run, ids)[ids.index(mask)]
    assert [each["id"] for each in found["fills"][0]] == np.argsort(-want)[:5].tolist()


@pytest.mark.parametrize("kind", ["drawn", "given"])
def test_the_floor_of_a_run_is_its_most_frequent_masked_token(tmp_path, kind, caplog):
    """Masks that are drawn in running text, and those of records with their answers."""
    given = [*"aab"] * 8 + [*"bab"] * 2
    lines = [json.dumps({"text": f"{n} [MASK]", "answer": c}) for n, c in enumerate(given)]
    (tmp_path / "cloze.jsonl").write_text("\n".join(lines) + "\n")
    source = f"{{type: jsonl, files: {tmp_path}/cloze.jsonl}}"
    cloze = f"data={{type: records, source: {source}, seq_len: 16, task: {{type: fill_mask}}}}"
    settings = (
        "train.steps=2",
        "eval={every_steps: null, at_end: true, baseline: true}",
        "sample.prompts=[]",
        f"run_dir={tmp_path}/run",
        "logging.tensorboard=false",
        *([cloze, "data.task.mask=263", "objective.mask=263"] if kind == "given" else []),
    )
    run = jaxlm.train(tiny.load("bert", *ONE, *settings).config)
    assert "is left out" not in caplog.text  # baselines of other tasks say nothing
    if kind == "given":
        task = (*settings, "evaluators={own: {type: task}}", f"run_dir={tmp_path}/other")
        with pytest.raises(UserError, match="fill_mask has no measures of its own; use type: loss"):
            jaxlm.train(tiny.load("bert", *ONE, *task).config)
    final = json.loads((tmp_path / "run" / "result.json").read_text())["final"]
    prepared = tiny.prepared(run.config)[1]
    counts = {}
    for split in ("train", "validation"):
        counts[split] = Counter()
        rows = prepared.rows(split, batch_size=8, seed=run.config.seed)
        transform = run.config.objective.host_transform(prepared.tokenizer, 0)
        order = OnePass(rows, prepared.row_spec, spread=True)
        for n in range(rows.rows_per_epoch):
            row = transform(order[n], n)
            counts[split].update(row["targets"][row["loss_weights"] > 0].tolist())
    ((token, _),) = counts["train"].most_common(1)
    if kind == "given":
        assert token == ord("a")
    want = counts["validation"][token] / counts["validation"].total()
    assert final["eval/frequent_token/accuracy"] == pytest.approx(want) and 0 < want < 1
    assert "most frequent token" in (tmp_path / "run" / "report.html").read_text()


def long_cloze(**options) -> FillMask:
    return FillMask(max_length=9, add_eos=False, mask=263, **options)


def test_a_long_text_keeps_its_masks_and_what_is_around_them():
    """A row has 9 tokens, the first of which is bos."""
    read = lambda text, answer="": cut.encode(  # noqa: E731
        cut.windows({"text": text, "answer": answer}, BYTES)[0], BYTES, 99
    )
    cut = long_cloze(too_long="cut")
    text = {257: "|", 263: "_"} | {n: chr(n) for n in range(256)}
    shown = lambda row: "".join(text[i] for i in row["tokens"].tolist())  # noqa: E731
    for given, want in (
        ("0123[MASK]56789abc", "|0123_567"),
        ("0123456789[MASK]bcdefghij", "|6789_bcd"),
        ("0123456789a[MASK]c", "|56789a_c"),
        ("0123456[MASK]8[MASK]abcdefg", "|456_8_ab"),
    ):
        row = read(given, "xy"[: given.count("[MASK]")])
        assert shown(row) == want
        assert row["targets"][row["hidden"] > 0].tolist() == [*b"xy"][: given.count("[MASK]")]
    windows = cut.windows({"text": "0123456789", "answer": ""}, BYTES)
    rows = [cut.encode(window, BYTES, 99) for window in windows]
    assert [shown(row) for row in rows] == [
        "|" + "01234567"[:n] + "_" + "01234567"[n + 1 :] for n in range(8)
    ]
    assert all(window["cut"] for window in windows) and [w["first"] for w in windows][:2] == [1, 0]
    with pytest.raises(UserError, match="too few for all of its masks; shorten it"):
        cut.windows({"text": "[MASK]12345678[MASK]", "answer": ""}, BYTES)
    with pytest.raises(
        UserError, match="11 tokens does not fit rows of 9; shorten it, or set data"
    ):
        long_cloze().windows({"text": "0123456789", "answer": ""}, BYTES)


def test_long_texts_are_cut_or_left_out_of_training(tmp_path):
    texts = [f"{n:02} [MASK]" for n in range(40)] + [f"{n:02} and more [MASK]" for n in range(20)]
    lines = [json.dumps({"text": text, "answer": "a"}) for text in texts]
    (tmp_path / "cloze.jsonl").write_text("\n".join(lines) + "\n")
    found, reported = {}, []
    for too_long in ("cut", "leave_out"):
        data = parse(
            DataConfig,
            {
                "type": "records",
                "source": {"type": "jsonl", "files": f"{tmp_path}/cloze.jsonl"},
                "task": {"type": "fill_mask", "mask": 263, "too_long": too_long},
                "seq_len": 9,
            },
        )
        prepared = data.prepare(Bytes(), tmp_path / "cache", report=reported.append)
        found[too_long] = {name: split.counts for name, split in prepared.splits.items()}
    for split in ("train", "validation"):
        assert 0 < found["cut"][split]["texts_cut"] < 20
    assert sum(found["cut"][split]["texts_cut"] for split in found["cut"]) == 20
    left = found["leave_out"]["train"]
    assert (
        left["documents"] == found["cut"]["train"]["documents"] - found["cut"]["train"]["texts_cut"]
    )
    assert "texts_cut" not in left
    assert found["leave_out"]["validation"]["texts_cut"] == found["cut"]["validation"]["texts_cut"]
    assert f"train: {found['cut']['train']['texts_cut']} texts are cut to 9 tokens" in reported
    assert any("records are left out, which are too long" in line for line in reported)
    assert "too_long" not in FillMask().fingerprint() and FillMask().stored == ("text", "answer")


def test_a_prediction_says_that_its_text_was_cut(bert):
    task = FillMask(too_long="cut", max_length=6)
    found = [task.windows({"text": t, "answer": ""}, bert.tokenizer) for t in ("who", "who " * 9)]
    said = [
        task.answer(w, [{"target_log_probs": np.array([-1.0])}] * len(w), bert.tokenizer)
        for w in found
    ]
    assert "cut" not in said[0] and said[1]["cut"] is True and said[1]["score"] == -4.0


@pytest.mark.parametrize(
    "change", [WordDropout(rate=0.4), CharacterNoise(rate=0.4), RandomSwap(rate=0.4)]
)
def test_augmentation_leaves_the_masks(change):
    task, found = FillMask(mask=263, max_length=60), set()
    record = {"text": "the cat [MASK] on the old [MASK] mat today", "answer": "ab"}
    for seed in range(60):
        made = change.record(record, task, np.random.RandomState(seed))
        row = task.encode(made, BYTES, 60)
        assert row["targets"][row["hidden"] > 0].tolist() == [*b"ab"]
        found.add(made["text"])
    assert len(found) > 30


def test_cut_off_tokens_are_not_masks_to_be_filled():
    task = FillMask(mask=263, max_length=60)
    arrays = task.encode({"text": "the cat [MASK] on", "answer": "a"}, BYTES, 60)
    change = TokenCutoff(rate=0.8, span=False, replace_by="nothing")
    spec = task.row_spec(60)
    made = change.arrays(arrays, task, BYTES, spec, np.random.RandomState(0))
    assert len(made["tokens"]) < 8 and made["targets"][made["hidden"] > 0].tolist() == [*b"a"]


def test_masks_that_a_longer_text_loses_lose_their_answers():
    """As an augmentation makes it, after the text was found to fit."""
    task = FillMask(mask=263, max_length=9, add_bos=False, add_eos=False)
    row = task.encode({"text": "[MASK]1234567[MASK]9[MASK]", "answer": "abc"}, BYTES, 9)
    assert row["tokens"].tolist() == [*b"1234567", 263, ord("9")]
    assert row["targets"][row["hidden"] > 0].tolist() == [*b"b"]
