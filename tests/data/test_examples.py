"""Labelled examples: rows, classes, truncation, and a split that no text crosses."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.data.examples import ExampleData
from jaxlm.data.sources.tables import Csv
from jaxlm.data.tokenizers.base import Bytes


def write(path, rows) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows)


@pytest.fixture
def reviews(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(f"review {i} " + "é" * int(rng.integers(1, 30)), "pn"[i % 2]) for i in range(60)]
    rows += rows[:20]  # the same texts once more
    write(tmp_path / "reviews.csv", rows)
    return rows, Csv(
        files=(str(tmp_path / "reviews.csv"),), text_column="text", label_column="label"
    )


def prepare(data: ExampleData, tmp_path, tokenizer=None):
    return data.prepare(tokenizer or Bytes(), tmp_path / "cache", report=lambda line: None)


def test_rows_are_the_texts(reviews, tmp_path) -> None:
    rows, source = reviews
    data = ExampleData(source=source, seq_len=24, validation_fraction=0, shuffle=False)
    prepared = prepare(data, tmp_path)
    tokenizer, dataset = prepared.tokenizer, prepared.rows("train", batch_size=4, seed=0)
    assert prepared.classes == ("n", "p") and dataset.rows_per_epoch == len(rows)
    cut = 0
    for i, (text, label) in enumerate(rows):
        bos = [tokenizer.bos_id] if tokenizer.bos_id is not None else []
        eos = [tokenizer.eos_id] if tokenizer.eos_id is not None else []
        body = tokenizer.encode(text)
        room = 24 - len(bos) - len(eos)
        cut += len(body) > room
        ids = bos + body[:room] + eos
        row = dataset[i]
        assert row["tokens"].tolist() == ids + [tokenizer.pad_id] * (24 - len(ids))
        assert row["segment_ids"].tolist() == [1] * len(ids) + [0] * (24 - len(ids))
        assert row["positions"].tolist() == [*range(len(ids)), *[0] * (24 - len(ids))]
        assert row["label"] == ["n", "p"].index(label) and row["weight"] == 1 and row["id"] == i
        assert row["label"].dtype == np.int32 and row["weight"].dtype == np.float32
    counts = prepared.splits["train"].counts
    assert 0 < cut == counts["truncated"] < len(rows)
    assert counts["classes"] == {"n": 40, "p": 40}


def test_equal_texts_are_on_one_side(reviews, tmp_path) -> None:
    rows, source = reviews
    prepared = prepare(ExampleData(source=source, seq_len=128), tmp_path)
    texts = {}
    for split in ("train", "validation"):
        dataset = prepared.rows(split, batch_size=1, seed=0)
        texts[split] = [
            prepared.tokenizer.decode(dataset[i]["tokens"][dataset[i]["segment_ids"] > 0].tolist())
            for i in range(dataset.rows_per_epoch)
        ]
    assert sorted(texts["train"] + texts["validation"]) == sorted(t for t, _ in rows)
    assert not set(texts["train"]) & set(texts["validation"])
    assert 0.08 < len(texts["validation"]) / len(rows) < 0.35


def test_the_split_does_not_depend_on_the_order_of_the_file(reviews, tmp_path) -> None:
    rows, source = reviews
    write(tmp_path / "turned.csv", rows[::-1])
    turned = Csv(files=(str(tmp_path / "turned.csv"),), text_column="text", label_column="label")
    sides = []
    for which in (source, turned):
        data = ExampleData(source=which)
        sides.append(sorted(data.training_texts()))
    assert sides[0] == sides[1] and len(sides[0]) < len(rows)
    other = ExampleData(source=source, split_salt=1)
    assert sorted(other.training_texts()) != sides[0]


def test_given_classes_keep_their_order(reviews, tmp_path) -> None:
    _, source = reviews
    data = ExampleData(source=source, classes=("p", "n"), shuffle=False, validation_fraction=0)
    assert prepare(data, tmp_path).rows("train", batch_size=1, seed=0)[0]["label"] == 0
    with pytest.raises(UserError, match="labels that are no class: p"):
        prepare(data.replace(classes=("n", "q")), tmp_path)


def test_one_label_only_is_an_error(tmp_path) -> None:
    write(tmp_path / "one.csv", [(f"text {i}", "yes") for i in range(9)])
    source = Csv(files=(str(tmp_path / "one.csv"),), text_column="text", label_column="label")
    with pytest.raises(UserError, match="one label only"):
        prepare(ExampleData(source=source), tmp_path)


def test_shuffled_in_every_epoch(reviews, tmp_path) -> None:
    rows, source = reviews
    prepared = prepare(ExampleData(source=source), tmp_path)
    train = prepared.rows("train", batch_size=4, seed=0)
    n = train.rows_per_epoch
    epochs = [[int(train[e * n + i]["id"]) for i in range(n)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(n)) and epochs[0] != epochs[1]
    held = prepared.rows("validation", batch_size=4, seed=0)
    assert [int(held[i]["id"]) for i in range(held.rows_per_epoch)] == list(
        range(held.rows_per_epoch)
    )


def test_rows_without_a_label_are_counted_out_loud(tmp_path) -> None:
    rows = "".join(f"text {i},{'' if i % 4 else 'ab'[i % 8 // 4]}\n" for i in range(80))
    (tmp_path / "r.csv").write_text("text,label\n" + rows)
    source = Csv(files=(f"{tmp_path}/r.csv",), label_column="label")
    said: list[str] = []
    for _ in range(2):  # a store that exists already says it, too
        ExampleData(source=source).prepare(Bytes(), tmp_path / "cache", report=said.append)
    assert said.count("60 documents or rows left out: 60 unlabelled") == 2
