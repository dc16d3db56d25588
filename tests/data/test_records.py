"""Records: rows, classes, truncation, a split that no text crosses; packing and augmentation."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.data.augment.word_dropout import WordDropout
from jaxlm.data.records import RecordData
from jaxlm.data.sources.csv import Csv
from jaxlm.data.sources.jsonl import JsonLines
from jaxlm.data.store import preparation
from jaxlm.data.store.records import RecordStore, prepare_records
from jaxlm.data.tokenizers.base import Bytes, ByteTokenizer
from jaxlm.tasks.classification import Classification
from jaxlm.tasks.prompt_completion import PromptCompletion
from jaxlm.tasks.translation import Translation
from tests.tasks.toy_tasks import Continuation


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


def records(source, *, classes=(), task=None, **options) -> RecordData:
    return RecordData(source=source, task=task or Classification(classes=classes), **options)


def prepare(data: RecordData, tmp_path, tokenizer=None):
    return data.prepare(tokenizer or Bytes(), tmp_path / "cache", report=lambda line: None)


def test_rows_are_the_texts(reviews, tmp_path) -> None:
    rows, source = reviews
    data = records(source, seq_len=24, validation_fraction=0, shuffle=False)
    prepared = prepare(data, tmp_path)
    tokenizer, dataset = prepared.tokenizer, prepared.rows("train", batch_size=4, seed=0)
    assert prepared.facts["classes"] == ["n", "p"] and dataset.rows_per_epoch == len(rows)
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
        assert (
            row["labels"] == ["n", "p"].index(label)
            and row["example_weights"] == 1
            and row["id"] == i
        )
        assert row["labels"].dtype == np.int32 and row["example_weights"].dtype == np.float32
    counts = prepared.splits["train"].counts
    assert 0 < cut == counts["truncated"] < len(rows)
    assert counts["classes"] == {"n": 40, "p": 40}


def test_equal_texts_are_on_one_side(reviews, tmp_path) -> None:
    rows, source = reviews
    prepared = prepare(records(source, seq_len=128), tmp_path)
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


def test_duplicates_are_dropped(reviews, tmp_path) -> None:
    rows, _ = reviews
    write(tmp_path / "more.csv", [*rows, (rows[30][0], "n"), (rows[31][0], "n")])  # it is p; n
    source = Csv(files=(str(tmp_path / "more.csv"),), label_column="label")

    def found(duplicates, **options):
        lines: list[str] = []
        data = records(source, duplicates=duplicates, seq_len=128, **options)
        prepared = data.prepare(Bytes(), tmp_path / "cache", report=lines.append)
        splits = {name: list(split.rows.records) for name, split in prepared.splits.items()}
        return splits, [line for line in lines if "as duplicates" in line]

    labels = dict(rows[:60])
    for duplicates, number in (("keep", 82), ("drop", 61), ("drop_conflicts", 59)):
        splits, lines = found(duplicates)
        each = [(r["text"], r["label"]) for split in splits.values() for r in split]
        dropped = f"{82 - number} of 82 records are left out as duplicates"
        assert len(each) == number and lines == ([dropped] if number < 82 else [])
        assert len({*each}) == (61 if duplicates == "keep" else number)
        assert {text for text, _ in each} == labels.keys() - (
            {rows[30][0]} if duplicates == "drop_conflicts" else set()
        )
        texts = [{record["text"] for record in split} for split in splits.values()]
        assert not texts[0] & texts[1]
    whole, _ = found("drop_conflicts", validation_fraction=0)
    assert [record["text"] for record in whole["train"]] == [t for t in labels if t != rows[30][0]]
    held = found("drop", validation=source)[0]["validation"]
    assert len(held) == 61
    write(tmp_path / "more.csv", [("one", "n"), ("one", "p")])
    with pytest.raises(UserError, match=r"data\.duplicates: drop_conflicts leaves no record"):
        found("drop_conflicts")


def test_the_split_does_not_depend_on_the_order_of_the_file(reviews, tmp_path) -> None:
    rows, source = reviews
    write(tmp_path / "turned.csv", rows[::-1])
    turned = Csv(files=(str(tmp_path / "turned.csv"),), text_column="text", label_column="label")
    sides = []
    for which in (source, turned):
        data = records(which)
        sides.append(sorted(data.training_texts()))
    assert sides[0] == sides[1] and len(sides[0]) < len(rows)
    other = records(source, split_salt=1)
    assert sorted(other.training_texts()) != sides[0]


def test_given_classes_keep_their_order(reviews, tmp_path) -> None:
    _, source = reviews
    data = records(source, classes=("p", "n"), shuffle=False, validation_fraction=0)
    assert prepare(data, tmp_path).rows("train", batch_size=1, seed=0)[0]["labels"] == 0
    with pytest.raises(UserError, match=r"reviews.csv:\d+: labels that are not classes: p"):
        prepare(data.replace(task=Classification(classes=("n", "q"))), tmp_path)


def test_the_first_label_that_training_never_saw_is_named(reviews, tmp_path) -> None:
    _, source = reviews
    rows = [("good", "p"), ("bad", "n"), ("what", "strange"), ("odd", "other")]
    write(tmp_path / "new.csv", rows)
    new = Csv(files=(str(tmp_path / "new.csv"),), text_column="text", label_column="label")
    says = r"new\.csv:4: labels that are not classes: other, strange \(classes: n, p\); drop"
    with pytest.raises(UserError, match=says):
        prepare(records(source, validation_fraction=0).replace(validation=new), tmp_path)
    with pytest.raises(UserError, match=says):
        facts = {"classes": ["n", "p"]}
        records(source).measured(new, ByteTokenizer(), tmp_path, facts)


@pytest.mark.parametrize(
    ("task", "row", "says"),
    [
        (PromptCompletion(), {"prompt": "q", "completion": "NEW"}, "prompt"),
        (Classification(), {"text": "q", "label": "NEW"}, "text"),
        (Translation(), {"source": "q", "target": "NEW"}, "source"),
    ],
)
def test_what_records_have_in_common_is_named(tmp_path, task, row, says) -> None:
    line = json.dumps(row)
    (tmp_path / "x.jsonl").write_text("\n".join(line.replace("NEW", f"a{n}") for n in range(9)))
    data = records(JsonLines(files=(str(tmp_path / "x.jsonl"),)), task=task)
    with pytest.raises(UserError, match=f"9 records, all with the same {says}, stay together"):
        prepare(data, tmp_path)


def test_one_label_only_is_an_error(tmp_path) -> None:
    write(tmp_path / "one.csv", [(f"text {i}", "yes") for i in range(9)])
    source = Csv(files=(str(tmp_path / "one.csv"),), text_column="text", label_column="label")
    with pytest.raises(UserError, match="one label only"):
        prepare(records(source), tmp_path)


def test_shuffled_in_every_epoch(reviews, tmp_path) -> None:
    rows, source = reviews
    prepared = prepare(records(source), tmp_path)
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
        records(source).prepare(Bytes(), tmp_path / "cache", report=said.append)
    assert said.count("60 documents or rows left out: 60 unlabelled") == 2


# ------------------------------------------------------------------------------------ augmentation


def test_augmented_rows_depend_on_seed_and_place_alone(reviews, tmp_path) -> None:
    rows, source = reviews
    plain = prepare(records(source), tmp_path)
    changed = prepare(records(source, augment=(WordDropout(rate=0.5),)), tmp_path)
    train = changed.rows("train", batch_size=4, seed=3)
    again = pickle.loads(pickle.dumps(train))
    before = plain.rows("train", batch_size=4, seed=3)
    n, decode = train.rows_per_epoch, plain.tokenizer.decode
    texts = {}
    for i in [*range(2 * n), 10**6]:
        row = train[i]
        same = again[i]
        assert all(np.array_equal(row[key], same[key]) for key in row)
        assert row["id"] == before[i]["id"] and row["labels"] == before[i]["labels"]
        text = decode(row["tokens"][row["segment_ids"] > 0].tolist())
        whole = decode(before[i]["tokens"][before[i]["segment_ids"] > 0].tolist())
        assert text.strip() and {*text.split()} <= {*whole.split()}
        texts.setdefault(int(row["id"]), []).append(text)
    drawn_again = [len({*found}) > 1 for found in texts.values()]
    assert 0.3 < np.mean(drawn_again) < 1  # of three words
    held, own = (p.rows("validation", batch_size=1, seed=0) for p in (plain, changed))
    for i in range(held.rows_per_epoch):
        assert np.array_equal(held[i]["tokens"], own[i]["tokens"])


def test_word_dropout_leaves_out_its_share_and_never_all() -> None:
    rng = np.random.RandomState(0)
    change, text = WordDropout(rate=0.2), " ".join(map(str, range(50)))
    kept = [len(change(text, rng).split()) for _ in range(2000)]
    assert np.mean(kept) == pytest.approx(40, abs=4 * np.sqrt(50 * 0.2 * 0.8 / 2000))
    almost_all = WordDropout(rate=0.99)
    found = [almost_all("one\ttwo  three", rng).strip() for _ in range(300)]
    assert {*found} == {"one", "two", "three"}
    assert change("", rng) == "" and change("word", rng) == "word"


# ----------------------------------------------------------------------------------------- packing


def test_packed_records_keep_tokens_and_weights(tmp_path) -> None:
    pairs = [(f"q{i}" * (i % 4 + 1), "a" * (i % 7 + 1)) for i in range(40)]
    write(tmp_path / "qa.csv", pairs)
    source = Csv(files=(f"{tmp_path}/qa.csv",))
    task = Continuation(given_text="text", answer="label")
    options = {"task": task, "seq_len": 32, "validation_fraction": 0, "shuffle": False}
    alone = prepare(records(source, **options), tmp_path)
    packed = prepare(records(source, **options, packing="whole"), tmp_path)
    assert alone.row_spec == packed.row_spec and alone.row_spec.shape("tokens") == (33,)
    one, many = (p.rows("train", batch_size=1, seed=0) for p in (alone, packed))
    assert one.rows_per_epoch == 40 and many.rows_per_epoch < 20
    wanted = sorted(_examples(one, 40))
    assert sorted(_examples(many, many.rows_per_epoch)) == wanted and len(wanted) == 40
    counts = packed.splits["train"].counts
    assert counts["padding"] < 0.2 < alone.splits["train"].counts["padding"]


def _examples(rows, count: int):
    """(tokens, weights) of every segment; positions count from 0 in each."""
    for i in range(count):
        row = rows[i]
        assert not row["loss_weights"][row["segment_ids"] == 0].any()
        for segment in range(1, row["segment_ids"].max() + 1):
            of = row["segment_ids"] == segment
            assert row["positions"][of].tolist() == [*range(of.sum())]
            yield row["tokens"][of].tolist(), row["loss_weights"][of].tolist()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"packing": "whole"}, "task classification gives labels, example_weights once a row"),
        ({"augment": (WordDropout(columns=("txt",)),)}, "no text in txt; set its columns to some"),
    ],
)
def test_what_does_not_go_together(reviews, options, says) -> None:
    with pytest.raises(UserError, match=says):
        records(reviews[1], **options).validate()


# ---------------------------------------------------------------------------------------- the store


def test_a_table_without_the_asked_column_names_the_nearest(reviews, tmp_path) -> None:
    task = Classification(text="txt")
    with pytest.raises(UserError, match=r"reviews.csv:2: no column 'txt'; did you mean text"):
        prepare(records(reviews[1].replace(label_column=None), task=task), tmp_path)


def test_columns_are_asked_for_by_name(tmp_path) -> None:
    (tmp_path / "r.jsonl").write_text(
        "".join(json.dumps({"review": f"no {i}", "good": bool(i % 2)}) + "\n" for i in range(30))
    )
    source = JsonLines(files=(f"{tmp_path}/r.jsonl",))
    prepared = prepare(records(source, task=Classification(text="review", label="good")), tmp_path)
    assert prepared.facts == {"classes": ["false", "true"]}


def test_the_bytes_do_not_depend_on_workers_and_damage_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(preparation, "SMALL_BYTES", 0)  # processes for few bytes too
    for number in range(3):
        rows = [(f"text {number} {i}", "ab"[i % 2]) for i in range(20)]
        write(tmp_path / f"{number}.csv", rows)
    source = Csv(files=(f"{tmp_path}/*.csv",), label_column="label")
    found = []
    for workers in (0, 2):
        prepared = records(source).prepare(
            Bytes(), tmp_path / f"cache{workers}", workers=workers, report=lambda line: None
        )
        folder = Path(prepared.manifest["stores"]["train"]["folder"])
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert found[0] == found[1] and {"column0.bin", "column1.npy"} < found[0].keys()
    for name in ("column0.bin", "column1.npy", "lengths.npy"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 4]))
        with pytest.raises(UserError, match=f"{name}: does not match its SHA-256; delete"):
            RecordStore.open(folder)
        (folder / name).write_bytes(data)
    assert RecordStore.open(folder).manifest["columns"] == ["text", "label"]


class Stopped(ByteTokenizer):
    """Stops at one of its calls."""

    calls = 0

    def encode(self, text: str) -> list[int]:
        type(self).calls += 1
        if type(self).calls == 45:
            raise KeyboardInterrupt
        return super().encode(text)


def test_a_stopped_preparation_continues_where_it_was(tmp_path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.csv", [(f"text {number} {i}", "ab"[i % 2]) for i in range(20)])
    source = {"source": Csv(files=(f"{tmp_path}/*.csv",), label_column="label")}
    tokenizer, cache = Stopped(), tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        prepare_records(source, Classification(), tokenizer, cache, report=lambda line: None)
    assert len([*cache.glob("stores/*.partial/parts/00000?")]) == 2
    store = prepare_records(source, Classification(), tokenizer, cache, report=lambda line: None)
    assert Stopped.calls == 45 + 20 and store.manifest["records"] == 60
    assert store.records(np.arange(60))[59] == {"text": "text 2 19", "label": "b"}
