"""What `jaxlm data inspect` prints is what is in the rows."""

from __future__ import annotations

import re

from jaxlm.data.inspect import inspect, segments
from jaxlm.data.sources.text import TextFiles
from jaxlm.data.text import TextData
from jaxlm.data.tokenizers.base import Bytes


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
