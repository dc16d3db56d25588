"""Augmentations: exact rates, answers and tags that stay, Chinese, draws that a seed and a place
decide alone.
"""

from __future__ import annotations

import json
import math
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.core.config_parse import parse
from jaxlm.data.augment.base_replacement import dressed, table_of
from jaxlm.data.augment.character_noise import NEIGHBOURS, CharacterNoise
from jaxlm.data.augment.cilin import Cilin
from jaxlm.data.augment.homophones import Homophones
from jaxlm.data.augment.random_insertion import RandomInsertion
from jaxlm.data.augment.random_swap import RandomSwap
from jaxlm.data.augment.synonyms import Synonyms
from jaxlm.data.augment.token_cutoff import TokenCutoff
from jaxlm.data.augment.word_dropout import WordDropout
from jaxlm.data.inspect import inspect
from jaxlm.data.reading.wordnet import synsets
from jaxlm.data.reading.words import cut, joined
from jaxlm.data.records import RecordData
from jaxlm.data.sources.jsonl import JsonLines
from jaxlm.data.tokenizers.base import Bytes, ByteTokenizer
from jaxlm.tasks.classification import Classification
from jaxlm.tasks.entities import entities
from jaxlm.tasks.prompt_completion import PromptCompletion
from jaxlm.tasks.question_answering import QuestionAnswering
from jaxlm.tasks.tagging import Tagging

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
ZH = "这家酒店的服务员态度非常好，房间也很干净。下次还会再来！"


@pytest.fixture
def table(tmp_path):
    """A table that has a synonym for each of WORDS, and for some Chinese words."""
    lines = [f"{word} {word}like {word}ish" for word in WORDS] + ["酒店\t旅馆", "干净\t清洁\t洁净"]
    (tmp_path / "table.txt").write_text("\n".join(lines), encoding="utf-8")
    return str(tmp_path / "table.txt")


def all_of(table: str, rate: float) -> list:
    synonyms = Synonyms(rate=rate, file=table)
    return [
        synonyms,
        RandomInsertion(rate=rate, words=synonyms),
        RandomSwap(rate=rate),
        WordDropout(rate=rate),
        CharacterNoise(rate=rate),
    ]


# --------------------------------------------------------------------------------------- how much


@pytest.mark.parametrize("rate", [0.07, 0.25])
def test_the_number_of_changes_is_the_rate(table, rate) -> None:
    """Each draw is rate * words rounded down or up, and the mean is exact."""
    text = " ".join(f"{word}{'.' * (i % 3)}" for i, word in enumerate(WORDS * 3))
    before = text.split()
    letters = sum(len(word.strip(".")) - 1 for word in before)
    synonyms, insertion, swap, _, noise = all_of(table, rate)
    replaced = lambda new: sum(a != b for a, b in zip(before, new.split(), strict=True))  # noqa: E731
    swapped = CharacterNoise(rate=rate, edits=("replace",))
    unequal = [f"w{i}" for i in range(30)]
    counted = {
        "synonyms": (synonyms, text, replaced, 30 * rate, 1),
        "insertion": (insertion, text, lambda new: len(new.split()) - 30, 30 * rate, 1),
        "swap": (
            swap,
            " ".join(unequal),
            lambda new: sum(a != b for a, b in zip(unequal, new.split(), strict=True)),
            30 * rate,
            2,
        ),
        "delete": (
            CharacterNoise(rate=rate, edits=("delete",)),
            text,
            lambda new: len(text) - len(new),
            letters * rate,
            1,
        ),
        "insert": (
            CharacterNoise(rate=rate, edits=("insert",)),
            text,
            lambda new: len(new) - len(text),
            letters * rate,
            1,
        ),
        "replace": (
            swapped,
            text,
            lambda new: sum(a != b for a, b in zip(text, new, strict=True)),
            letters * rate,
            1,
        ),
    }
    rng = np.random.RandomState(1)
    for name, (change, given, count, mean, step) in counted.items():
        found = [count(change(given, rng)) / step for _ in range(600)]
        low = math.floor(mean / step)
        assert {*found} <= {low, low + 1}, name
        rest = mean / step - low
        error = 4 * math.sqrt(rest * (1 - rest) / 600) + 1e-9
        assert np.mean(found) == pytest.approx(mean / step, abs=error), name
    assert all(text == change(text, rng) for change in all_of(table, 0.0))


def test_words_keep_their_marks_and_capitals(table) -> None:
    rng = np.random.RandomState(0)
    synonyms = Synonyms(rate=1, file=table)
    assert synonyms('"Alpha", (BETA)\n  gamma! other', rng).lower() != '"alpha", (beta)\n  gamma!'
    found = {synonyms('"Alpha", (BETA)\n  gamma! other', rng) for _ in range(60)}
    ends = [(a, b, c) for a in ("like", "ish") for b in ("LIKE", "ISH") for c in ("like", "ish")]
    assert found == {f'"Alpha{a}", (BETA{b})\n  gamma{c}! other' for a, b, c in ends}
    assert dressed("movie", "A") == "Movie" and dressed("movie", "it's") == "movie"


def test_a_swap_moves_each_word_once_and_loses_none() -> None:
    rng = np.random.RandomState(0)
    text = " ".join(WORDS)
    for _ in range(100):
        new = RandomSwap(rate=1)(text, rng).split()
        assert sorted(new) == sorted(WORDS) and all(a != b for a, b in zip(new, WORDS, strict=True))


def test_slips_are_on_neighbouring_keys_and_spare_the_first_letter() -> None:
    rng = np.random.RandomState(0)
    assert sorted(NEIGHBOURS["g"]) == sorted("fhtyvb") and sorted(NEIGHBOURS["q"]) == sorted("12wa")
    for _ in range(100):
        new = CharacterNoise(rate=1, edits=("replace",))("Going GG été", rng)
        assert new[0] == "G" and new[6] == "G" and new[9] == "é" and new[7] in "FHTYVB"
        assert CharacterNoise(rate=1, edits=("swap",))('ab c "film"', rng) == 'ab c "fmil"'
        quoted = CharacterNoise(rate=1)('"film" (x)', rng)
        assert quoted.startswith('"f') and quoted.endswith('" (x)')
        words, _ = CharacterNoise(rate=1).of_words(["中国人民", "银行ab"], [], rng)
        assert words[0] == "中国人民" and words[1].startswith("银行") and words[1] != "银行ab"
    with pytest.raises(UserError, match="edits is empty"):
        parse(CharacterNoise, {"edits": []})


# -------------------------------------------------------------------------------- what never breaks


def random_context(rng) -> tuple[str, list[tuple[int, int]]]:
    """A text of words, marks and Chinese, and one or two spans of its characters."""
    pieces = [*WORDS, "New", "York,", "-", "(1999)", "北京", "很好。", "a"]
    gaps = [" ", " ", "  ", "\n\n"]
    size = rng.randint(3, 30)
    text = " " * rng.randint(2) + "".join(
        pieces[rng.randint(len(pieces))] + gaps[rng.randint(len(gaps))] for _ in range(size)
    )
    spans = []
    while len(spans) < 1 + rng.randint(2):
        a = rng.randint(len(text) - 1)
        b = a + 1 + rng.randint(min(25, len(text) - a))
        if text[a:b].strip():
            spans.append((a, b))
    return text, spans


def test_spans_of_a_text_are_as_they_were_in_hundreds_of_cases(table) -> None:
    rng, moved, changed = np.random.RandomState(0), 0, Counter()
    for _ in range(150):
        text, spans = random_context(rng)
        for change in all_of(table, 0.5):
            new, places = change.around(text, spans, rng)
            for (a, b), (c, d) in zip(spans, places, strict=True):
                assert new[c:d] == text[a:b], (type(change), text, spans, new, places)
                moved += (a, b) != (c, d)
            changed[type(change).__name__] += new != text
    assert moved > 100 and min(changed.values()) > 75, changed


@pytest.mark.parametrize(
    "drawn",
    [
        ["O", "B-PER", "I-PER", "B-LOC"],  # BIO
        ["O", "I-PER", "I-LOC"],  # IOB1
        ["O", "S-PER", "B-LOC", "I-LOC", "E-LOC"],  # IOBES
    ],
)
def test_entities_and_tags_move_along(table, drawn) -> None:
    rng = np.random.RandomState(0)
    task = Tagging(classes=tuple(drawn))
    for _ in range(100):
        tags = [drawn[i] for i in rng.randint(len(drawn), size=15) * rng.randint(2, size=15)]
        words = [f"{WORDS[i]}{n}" for n, i in enumerate(rng.randint(10, size=15))]
        record = {"tokens": words, "tags": tags}
        told = [(kind, words[a : b + 1]) for kind, a, b in entities(tags)]
        for change in [*all_of(table, 0.5), Synonyms(rate=0.5, file=table)]:
            new = task.changed(record, "tokens", change, rng)
            assert len(new["tokens"]) == len(new["tags"])
            found = [(k, new["tokens"][a : b + 1]) for k, a, b in entities(new["tags"])]
            assert found == told, (type(change), tags, new)


def test_words_keep_their_parts_of_speech(table) -> None:
    """Without entities every word may change, and takes its tag along."""
    rng = np.random.RandomState(0)
    task = Tagging(classes=("NN", "VB", "JJ"))
    tags = ["NN", "VB", "JJ", "NN", "VB", "JJ", "NN", "VB", "JJ", "NN"]
    of = dict(zip(WORDS, tags, strict=True))
    of |= {f"{word}{end}": tag for word, tag in of.items() for end in ("like", "ish")}
    for change in [*all_of(table, 0.4)[:4]]:
        for _ in range(40):
            new = task.changed({"tokens": WORDS, "tags": tags}, "tokens", change, rng)
            assert [of[word] for word in new["tokens"]] == new["tags"], type(change)


@pytest.fixture
def squad(tmp_path):
    """40 questions whose answers are one of several words of a context that needs two windows."""
    rng, lines = np.random.RandomState(0), []
    for i in range(40):
        words = [WORDS[n] for n in rng.randint(10, size=12)]
        at = rng.randint(11)
        context, answer = " ".join(words), " ".join(words[at : at + 2])
        answers = {"text": [answer], "answer_start": [context.index(answer)]}
        lines.append({"question": f"who {i}?", "context": context, "answers": answers})
    (tmp_path / "squad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return JsonLines(files=(f"{tmp_path}/squad.jsonl",)), lines


def test_rows_of_answers_have_the_answer(squad, table, tmp_path) -> None:
    source, lines = squad
    tokenizer, read = ByteTokenizer(), 0
    for change in [*all_of(table, 0.4), TokenCutoff(rate=0.4, replace_by="nothing")]:
        data = RecordData(
            source=source,
            task=QuestionAnswering(doc_stride=20),
            seq_len=72,
            validation_fraction=0,
            shuffle=False,
            augment=(change, change),
        )
        prepared = data.prepare(Bytes(), tmp_path / "cache", report=lambda line: None)
        split = prepared.splits["train"]
        rows = prepared.rows("train", batch_size=1, seed=5)
        plain = [split.unchanged(n) for n in range(rows.rows_per_epoch)]
        different = 0
        for n in range(2 * rows.rows_per_epoch):
            row, before = rows[n], plain[n % len(plain)]
            said = [
                tokenizer.decode(r["tokens"][r["start"] : r["end"] + 1].tolist())
                for r in (row, before)
            ]
            assert said[0] == said[1] and bool(row["end"]) == bool(before["end"])
            read += bool(row["end"])
            different += not np.array_equal(row["tokens"], before["tokens"])
        assert different > rows.rows_per_epoch, type(change)
    assert read > 6 * 2 * 40 and {a for line in lines for a in line["answers"]["text"]}


# ----------------------------------------------------------------------------------------- tokens


class Masked(ByteTokenizer):
    """Bytes, with a mask."""

    def id_of(self, token):
        return {"[MASK]": 256}.get(token)


@pytest.mark.parametrize("span", [True, False])
@pytest.mark.parametrize("replace_by", ["mask", "nothing"])
def test_tokens_are_cut_off_at_the_rate(span, replace_by) -> None:
    task, tokenizer = Classification(classes=("n", "p")), Masked()
    text = "".join(map(chr, range(65, 105)))
    arrays = task.encode({"text": text, "label": "p"}, tokenizer, 100)
    change = TokenCutoff(rate=0.21, span=span, replace_by=replace_by)
    rng, counts, runs, spec = np.random.RandomState(0), [], [], task.row_spec(100)
    for _ in range(400):
        new = change.arrays(arrays, task, tokenizer, spec, rng)
        gone = sorted({*arrays["tokens"]} - {*new["tokens"]})
        counts.append(len(gone))
        runs.append(gone[-1] - gone[0] + 1 == len(gone))
        assert new["tokens"][0] == 257 and new["tokens"][-1] == 258 and new["labels"] == 1
        size = 42 if replace_by == "mask" else 42 - len(gone)
        assert len(new["tokens"]) == size and (new["tokens"] == 256).sum() == size - 42 + len(gone)
    assert {*counts} == {8, 9} and np.mean(counts) == pytest.approx(8.4, abs=0.1)
    assert all(runs) if span else np.mean(runs) < 0.1
    with pytest.raises(UserError, match="no mask token; set replace_by"):
        TokenCutoff().prepare(ByteTokenizer())


def test_trained_tokens_are_never_cut_off() -> None:
    task, tokenizer = Tagging(classes=("A", "B")), Masked()
    arrays = task.encode({"tokens": WORDS, "tags": ["A", "B"] * 5}, tokenizer, 200)
    rng, spec = np.random.RandomState(0), task.row_spec(200)
    trained = arrays["loss_weights"] > 0
    for replace_by in ("mask", "nothing"):
        change = TokenCutoff(rate=0.5, replace_by=replace_by)
        for _ in range(50):
            new = change.arrays(arrays, task, tokenizer, spec, rng)
            kept = new["loss_weights"] > 0
            assert new["tokens"][kept].tolist() == arrays["tokens"][trained].tolist()
            assert new["targets"][kept].tolist() == arrays["targets"][trained].tolist()


# ---------------------------------------------------------------------------------------- Chinese


def test_chinese_is_divided_by_the_words_of_the_table(table) -> None:
    rng = np.random.RandomState(0)
    found = {Synonyms(rate=1, file=table)(ZH, rng) for _ in range(40)}
    assert found == {ZH.replace("酒店", "旅馆").replace("干净", new) for new in ("清洁", "洁净")}
    swapped = RandomSwap(rate=0.5)(ZH, rng)
    assert sorted(swapped) == sorted(ZH) and swapped != ZH
    assert [swapped.index(mark) for mark in "，。！"] == [ZH.index(mark) for mark in "，。！"]
    dropped = [WordDropout(rate=0.2)(ZH, rng) for _ in range(400)]
    assert np.mean([len(new) for new in dropped]) == pytest.approx(0.8 * len(ZH), abs=0.5)
    inserted = RandomInsertion(rate=0.2, words=Synonyms(file=table))(ZH, rng)
    assert " " not in inserted and len(inserted) > len(ZH)
    assert joined(*cut(f" \n{ZH} and more\t")) == f" \n{ZH} and more\t"


def test_words_of_another_script_do_not_fuse(table) -> None:
    """Chinese words that go, or change places with others, leave a space between these."""
    rng, text = np.random.RandomState(0), "使用 Save 保存File，再Open它Close酒店Edit"
    words, place = re.findall("[A-Za-z]+", text), text.index("再")
    Path(table).write_text("酒店\thotel\n保存\tkeep\n", encoding="utf-8")
    words += ["hotel", "keep"]
    assert joined(*cut(text)) == text
    for change in all_of(table, 0.7)[:4]:
        for _ in range(200):
            kept, [(a, b)] = change.around(text, [(place, place + 1)], rng)
            assert kept[a:b] == "再"
            for new in (kept, change(text, rng)):
                assert {*re.findall("[A-Za-z]+", new)} <= {*words}, (type(change), new)


def test_homophones_count_characters_alone(monkeypatch) -> None:
    monkeypatch.setattr(Homophones, "table", lambda self: {char: ("中",) for char in "时候地方"})
    text = " ".join(WORDS * 10) + " 时候地方时候地方时候"  # a hundred words, ten characters
    rng = np.random.RandomState(0)
    assert {Homophones(rate=0.1)(text, rng).count("中") for _ in range(50)} == {1}


def test_chinese_tables_of_a_package(table) -> None:
    try:
        homophones, synonyms = Homophones().table(), Cilin().table()
    except UserError as error:
        if error.args[0].startswith("cannot fetch"):
            pytest.skip(str(error))
        raise
    assert "时" in homophones["是"] and "酒" not in homophones["是"]
    assert "酒家" in synonyms["酒店"] and len(synonyms) == 45_367
    rng = np.random.RandomState(0)
    new = Homophones(rate=0.3)(ZH, rng)
    changed = [(a, b) for a, b in zip(ZH, new, strict=True) if a != b]
    assert len(changed) in (7, 8) and all(b in homophones[a] for a, b in changed)
    assert Cilin(rate=0.5)(ZH, rng) != ZH


# ----------------------------------------------------------------------------------------- tables


def test_wordnet_lines_are_read_as_its_manual_says() -> None:
    text = (
        "  1 This software and database is being provided to you\n"
        "06626039 10 n 06 movie 0 film 0 picture 6 moving_picture 0 motion-picture_show 0 flick 3 "
        "011 @ 06625574 n 0000 | a form of entertainment\n"
        "00001740 00 a 01 able 0 005 = 05207437 n 0000 | having means\n"
        "01586752 00 a 02 galore(ip) 0 Abounding(a) 0 001 & 01588102 a 0000 | in abundance\n"
        "02086458 05 n 0b a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 k 0 000 | eleven\n"
    )
    movie = ["movie", "film", "picture", "moving_picture", "motion-picture_show", "flick"]
    assert [*synsets(text)] == [movie, ["galore", "abounding"], [*"abcdefghijk"]]


def test_tables_are_sorted_and_errors_name_the_file(tmp_path) -> None:
    assert table_of([["b", "a"], ["c", "a"], ["d"]]) == {
        "a": ("b", "c"),
        "b": ("a",),
        "c": ("a",),
    }
    path = tmp_path / "t.txt"
    with pytest.raises(UserError, match="t.txt: No such file"):
        Synonyms(file=str(path)).prepare(ByteTokenizer())
    path.write_text("one\n\ntwo\n")
    with pytest.raises(UserError, match="t.txt: no line has two words"):
        Synonyms(file=str(path)).prepare(ByteTokenizer())


# ------------------------------------------------------------------------------------------- rows


@pytest.fixture
def reviews(tmp_path):
    lines = [{"text": f"{' '.join(WORDS)} {i}", "label": "np"[i % 2]} for i in range(20)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return JsonLines(files=(f"{tmp_path}/r.jsonl",))


def test_rows_follow_from_seed_and_place_in_any_process(reviews, table, tmp_path) -> None:
    changes = (*all_of(table, 0.2), TokenCutoff(rate=0.1, replace_by="nothing"))
    data = RecordData(source=reviews, task=Classification(), augment=changes)
    prepared, same = (
        data.prepare(Bytes(), tmp_path / "cache", report=lambda line: None) for _ in range(2)
    )
    rows = prepared.rows("train", batch_size=1, seed=3)
    again = pickle.loads(pickle.dumps(same.rows("train", batch_size=1, seed=3)))
    other = prepared.rows("train", batch_size=1, seed=4)
    size, texts = rows.rows_per_epoch, Counter()
    for i in [10**6, *reversed(range(3 * size))]:  # as a run that resumes: from any place
        assert all(np.array_equal(value, again[i][key]) for key, value in rows[i].items())
        texts[bytes(rows[i]["tokens"].astype(np.uint16))] += 1
    assert len(texts) > 2.9 * size  # drawn again in each epoch
    assert any(not np.array_equal(rows[i]["tokens"], other[i]["tokens"]) for i in range(3))


def test_another_table_is_other_data(reviews, table, tmp_path) -> None:
    """The table is part of the identity of the training split, whichever augmentation reads it."""

    def content(*changes) -> dict:
        data = RecordData(source=reviews, task=Classification(), augment=changes)
        prepared = data.prepare(Bytes(), tmp_path / "cache", report=lambda line: None)
        row = prepared.splits["train"].rows.encoded(0, np.random.RandomState(0))
        return prepared.manifest["content"] | {"row": row["tokens"].tolist()}

    for change in (
        Synonyms(rate=1, file=table),
        RandomInsertion(rate=1, words=Synonyms(file=table)),
    ):
        plain, before, again = content(), content(change), content(change)
        text = Path(table).read_text(encoding="utf-8")
        Path(table).write_text(text.replace("like", "kind"), encoding="utf-8")
        after = content(change)
        Path(table).write_text(text, encoding="utf-8")
        assert before == again and before["row"] != after["row"]
        hashes = [each["train"]["sha256"] for each in (plain, before, after)]
        assert len({*hashes}) == 3
        assert before["train"]["files"][table] != after["train"]["files"][table]
        assert plain["validation"] == before["validation"] == after["validation"]


def test_inspect_shows_before_and_after(reviews, table, tmp_path) -> None:
    data = RecordData(
        source=reviews, task=Classification(), augment=(Synonyms(rate=1, file=table),)
    )
    prepared = data.prepare(Bytes(), tmp_path / "cache", report=lambda line: None)
    shown = inspect(prepared, "train", rows=1).splitlines()
    assert shown[2].startswith("  before augmentation: 'alpha beta gamma") and "like" in shown[3]
    assert "before" not in inspect(prepared, "validation", rows=1)


def test_a_question_that_grows_keeps_the_answer_in_its_row() -> None:
    """Its context would lose the end, where the answer is: the row stays as it was."""
    task, rng = QuestionAnswering(doc_stride=0).fitted(40), np.random.RandomState(0)
    record = {"question": "who spoke?", "context": "so it was then said Ana",
              "answers": {"text": ["Ana"], "answer_start": [20]}}  # fmt: skip
    (window,) = task.windows(record, ByteTokenizer())
    before = task.encode(window, ByteTokenizer(), 40)
    noise = CharacterNoise(rate=1, edits=("insert",))
    changed = task.changed(window, "question", noise, rng)
    assert len(changed["question"]) > len("who spoke?") + 5
    row = task.encode(changed, ByteTokenizer(), 40)
    assert before["end"] > 0 and (row["start"], row["end"]) == (before["start"], before["end"])
    slips = CharacterNoise(rate=1, edits=("replace",))
    other = task.encode(task.changed(window, "question", slips, rng), ByteTokenizer(), 40)
    assert (other["tokens"] != before["tokens"]).any() and other["end"] == before["end"]


def test_a_list_of_messages_is_not_changed() -> None:
    change = WordDropout(columns=("prompt",))
    record = {"prompt": [{"role": "user", "content": "a b"}], "completion": "c"}
    change.check(PromptCompletion())
    with pytest.raises(UserError, match="augment: column 'prompt' holds a list, not text; name"):
        change.record(record, PromptCompletion(), np.random.RandomState(0))


@pytest.mark.parametrize(
    ("task", "change", "says"),
    [
        (Classification(), {"type": "word_dropout", "columns": ["label"]}, "set its columns to"),
        (QuestionAnswering(), {"type": "synonyms", "columns": ["answers"]}, "no text in answers"),
        (Classification(), {"type": "token_cutoff", "columns": ["text"]}, "remove columns"),
    ],
)
def test_what_does_not_go_together(reviews, task, change, says) -> None:
    from jaxlm.data.augment.base import Augment

    data = RecordData(source=reviews, task=task, augment=(parse(Augment, change),))
    with pytest.raises(UserError, match=says):
        data.validate()
