"""What `jaxlm data inspect` prints is what is in the rows."""

from __future__ import annotations

import json
import re

import pytest

from jaxlm.core.config import UserError
from jaxlm.data.inspect import inspect, inspected_page, segments
from jaxlm.data.records import RecordData
from jaxlm.data.sources.jsonl import JsonLines
from jaxlm.data.sources.text import TextFiles
from jaxlm.data.text import TextData
from jaxlm.data.tokenizers.base import Bytes
from jaxlm.tasks.chat import Chat


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
