"""What `jaxlm data inspect` prints is what is in the rows."""

from __future__ import annotations

import json
import re

import pytest

from jaxlm.core.config import UserError
from jaxlm.data.augment.word_dropout import WordDropout
from jaxlm.data.inspect import inspect, inspected_page, segments
from jaxlm.data.records import RecordData
from jaxlm.data.sources.jsonl import JsonLines
from jaxlm.data.sources.text import TextFiles
from jaxlm.data.text import TextData
from jaxlm.data.tokenizers.base import Bytes
from jaxlm.tasks.base import Task
from jaxlm.tasks.chat import Chat
from jaxlm.tasks.classification import Classification
from jaxlm.tasks.fill_mask import FillMask
from jaxlm.tasks.pair import Pair
from jaxlm.tasks.preference import Preference
from jaxlm.tasks.question_answering import QuestionAnswering
from jaxlm.tasks.tagging import Tagging


def prepared(make_corpus, tmp_path, **changes):
    data = TextData(source=TextFiles(files=(make_corpus(12),)), seq_len=128, **changes)
    return data.prepare(Bytes(), tmp_path / "cache", report=lambda line: None)


def test_rows_are_decoded_by_segment(make_corpus, tmp_path) -> None:
    ready = prepared(make_corpus, tmp_path, order="stream")
    text = inspect(ready, "train", rows=3, batch_size=1)
    dataset = ready.rows("train", batch_size=1, seed=0)
    for i in range(3):
        row = dataset[i]
        assert f"row {i}, id {row['id']}: 129 tokens, {row['segment_ids'].max()} segments" in text
        for part in segments(row):
            assert repr(ready.tokenizer.decode(part["tokens"])) in text
    assert "né 漢字" in text


def test_counts_and_padding(make_corpus, tmp_path) -> None:
    ready = prepared(make_corpus, tmp_path, packing="whole")
    dataset = ready.rows("train", batch_size=1, seed=0)
    n = dataset.rows_per_epoch
    share = sum(float((dataset[i]["segment_ids"] == 0).mean()) for i in range(n)) / n
    text = inspect(ready, "train", rows=n)
    assert f"{share:.2%} padding" in text.splitlines()[0]
    assert f"{n:,} rows" in text.splitlines()[0]
    shown = [int(m) for m in re.findall(r"segments, (\d+) padding", text)]
    assert sum(shown) == round(share * n * 129)


def test_windows_report_their_padding(make_corpus, tmp_path) -> None:
    ready = prepared(make_corpus, tmp_path)
    dataset = ready.rows("train", batch_size=1, seed=0)
    n = dataset.rows_per_epoch
    share = sum(float((dataset[i]["segment_ids"] == 0).mean()) for i in range(n)) / n
    assert abs(ready.splits["train"].counts["padding"] - share) < 1e-5


def chats(tmp_path, **changes):
    path = tmp_path / "chats.jsonl"
    talk = [
        {"role": "user", "content": "Hi <b>"},
        {"role": "assistant", "content": "Hé", "weight": 0.5},
    ]
    path.write_text(json.dumps({"messages": talk}) + "\n")
    data = RecordData(
        source=JsonLines(files=(str(path),)),
        task=Chat(template="plain"),
        validation_fraction=0,
        seq_len=64,
        **changes,
    )
    return data.prepare(Bytes(), tmp_path / "cache", report=lambda line: None)


@pytest.mark.parametrize("packing", [None, "whole"])
def test_tokens_are_shown_with_their_weight_and_author(tmp_path, packing) -> None:
    text = inspect(chats(tmp_path, packing=packing), "train", rows=1)
    # Assistant: Hé</s> without the mark of the role, of 30 tokens
    assert ", 16.7% trained" in text.splitlines()[1]
    assert text.splitlines()[3:] == [
        "         template  '<s>|U|s|e|r|:| '",
        "         user      'Hi <b>'",
        r"         template  '\nAssistant:'",
        "  + 0.5  template  ' '",
        "  + 0.5  assistant 'H|<C3>|<A9>'",
        "  + 0.5  template  '</s>'",
        r"         template  '\n'",
    ]


def test_colours_are_for_terminals(tmp_path) -> None:
    ready = chats(tmp_path)
    plain, coloured = inspect(ready, rows=1), inspect(ready, rows=1, colour=True)
    assert "\x1b[" not in plain and "\x1b[32m" in coloured
    assert re.sub("\x1b\\[[0-9;]*m", "", coloured).replace(" ", "") == plain.replace(" ", "")


def test_the_page_escapes_texts(tmp_path, make_corpus) -> None:
    page = inspected_page(chats(tmp_path), "train", rows=1)
    assert "<b>user</b>" in page and "16.7% of its tokens are trained" in page
    assert '<i title="id 60, weight 0, user">&lt;</i>' in page
    assert 'trained" style="--w: 0.5"' in page
    with pytest.raises(UserError, match="--html: shows the loss weights"):
        inspected_page(prepared(make_corpus, tmp_path), "train")


CLASSES = ("x", "y")
PAIR = {"text": "ab", "text_b": "cde", "label": "x"}
SPAN = {"question": "ab?", "context": "c de f", "answers": {"text": ["de"], "answer_start": [2]}}
SIDES = {"prompt": "ab", "chosen": "cde", "rejected": "fghij"}
TAGS = {"tokens": ["ab", "c"], "tags": ["B-X", "O"]}
CASES: dict[str, tuple[Task, dict, list[str]]] = {
    "classification": (
        Classification(classes=CLASSES),
        {"text": "ab", "label": "x"},
        ["  template '<s>'", "  text 'ab'", "  template '</s>'"],
    ),
    "pair": (
        Pair(classes=CLASSES),
        PAIR,
        [
            "  template '<s>'",
            "  text 'ab'",
            "  template '</s>'",
            "  text_b 'cde'",
            "  template '</s>'",
        ],
    ),
    "question_answering": (
        QuestionAnswering(doc_stride=2),
        SPAN,
        [
            "  template '<s>'",
            "  question 'ab?'",
            "  template '</s>'",
            "  context 'c '",
            "+ 1 answer 'de'",
            "  context ' f'",
            "  template '</s>'",
        ],
    ),
    "tagging": (
        Tagging(),
        TAGS,
        [
            "  template '<s>'",
            "+ 1 B-X 'a'",
            "  B-X 'b'",
            "+ 1 O ' '",
            "  O 'c'",
            "  template '</s>'",
        ],
    ),
    "preference": (
        Preference(),
        SIDES,
        [
            "  chosen: template '<s>'",
            "  chosen: prompt 'ab'",
            "+ 1 chosen: completion 'cde'",
            "+ 1 chosen: template '</s>'",
            "  rejected: template '<s>'",
            "  rejected: prompt 'ab'",
            "+ 1 rejected: completion 'fghij'",
            "+ 1 rejected: template '</s>'",
        ],
    ),
    "fill_mask": (
        FillMask(mask=300),
        {"text": "ab[MASK]", "answer": "c"},
        ["  template '<s>'", "  text 'ab'", "+ 1 mask '<300>'", "  template '</s>'"],
    ),
}


def of_task(tmp_path, task, record, **changes):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(record) + "\n")
    options = {"validation_fraction": 0, "seq_len": 32} | changes
    data = RecordData(source=JsonLines(files=(str(path),)), task=task, **options)
    return data.prepare(Bytes(), tmp_path / "cache", report=lambda line: None)


@pytest.mark.parametrize("name", CASES)
def test_each_token_has_its_column_or_tag_or_side(tmp_path, name) -> None:
    task, record, want = CASES[name]
    ready = of_task(tmp_path, task, record)
    shown = [re.sub(r"(?<=\S) +", " ", line[2:]) for line in inspect(ready, rows=1).splitlines()]
    found = [re.sub(r"^  +", "  ", line) for line in shown if line.startswith(("    ", "+"))]
    assert found == want
    page = inspected_page(ready, "train", rows=1)
    assert f"<b>{want[1].rpartition(' ')[0].lstrip('+1 ')}</b>" in page
    assert ("are trained</h2>" in page) == (name in ("tagging", "preference"))


def test_what_is_cut_keeps_its_column_or_side(tmp_path) -> None:
    """The longer text of a pair, and the longer side, lose their ends."""
    (tmp_path / "sides").mkdir()
    long = {**PAIR, "text_b": "cde" * 20}
    text = inspect(of_task(tmp_path, Pair(classes=CLASSES), long, seq_len=12), rows=1)
    assert re.search(r"text_b +'cdecdec'\n +template +'</s>'$", text)
    sides = {**SIDES, "rejected": "fghij" * 9}
    text = inspect(of_task(tmp_path / "sides", Preference(), sides, seq_len=20), rows=1)
    assert "chosen: completion 'cde'" in re.sub(" +", " ", text)
    assert re.search(r"rejected: completion +'(fghij)+f?g?h?i?'$", text)


def test_the_text_of_an_augmented_row_has_no_columns(tmp_path) -> None:
    record = {"text": "ab cd ef", "label": "x"}
    plain, changed = (
        inspect(of_task(tmp_path, Classification(classes=CLASSES), record, augment=augment), rows=1)
        for augment in ((), (WordDropout(rate=0.9),))
    )
    assert "  text " in plain and "  text " not in changed and "before augmentation" in changed
