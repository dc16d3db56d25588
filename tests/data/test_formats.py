"""Formats: files of the shapes that users have, and the records that must come of them."""

from __future__ import annotations

import json
import operator
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jaxlm.chat.template import REASONING
from jaxlm.core.config import UserError, parse, to_dict
from jaxlm.data.convert import checked, convert, pieces
from jaxlm.data.detect import detect
from jaxlm.data.formats.base import Format, Record, Row, RowFormat, Sample
from jaxlm.data.formats.openai import OpenAI
from jaxlm.data.formats.recognise import all_formats, format_called
from jaxlm.data.formats.shapes import SHAPES, Shape, last_turn, two_labels
from jaxlm.data.formats.tags import in_bio
from jaxlm.data.formats.text import Text
from jaxlm.data.held_out import measured_source, unanswered_source
from jaxlm.data.reading import compressed
from jaxlm.data.reading import opened as files_opened
from jaxlm.data.reading.json_values import json_rows
from jaxlm.data.records import RecordData
from jaxlm.data.sources.base import Source
from jaxlm.data.sources.files import Files
from jaxlm.data.sources.text import TextFiles
from jaxlm.data.tokenizers.base import Bytes, ByteTokenizer
from jaxlm.tasks.chat import Chat
from jaxlm.tasks.classification import Classification
from jaxlm.tasks.pair import Pair
from jaxlm.tasks.translation import Translation
from tests.data.formats_cases import (
    ALPACA,
    ANSWER,
    CASES,
    HUMAN,
    PARIS,
    WHERE,
    Case,
    jsonl,
    question,
    said,
    spans,
    squad,
)
from tools import formats_table


def source_of(folder: Path, files: dict[str, str], **options: Any) -> Files:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="")
    patterns = tuple(str(folder / name) for name in files)
    return Files(files=patterns, **options)


def records_of(source: Files, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    return [record for _, record in source.records(columns)]


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_recognised_and_read(tmp_path, name):
    case = CASES[name]
    source = source_of(tmp_path, case.files)
    assert f": {case.format}" in source.recognised(case.columns)
    assert sorted(map(str, records_of(source, case.columns))) == sorted(map(str, case.records))
    assert parse(Source, to_dict(source)) == source
    named = source.replace(format=case.format)
    assert records_of(named, case.columns) == records_of(source, case.columns)


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_recognised_without_a_task(tmp_path, name):
    """Its columns alone are enough, except where the task says which of them count."""
    case = CASES[name]
    if case.format == "columns" or name == "a chat of a file for KTO":
        return
    assert f": {case.format}" in source_of(tmp_path, case.files).recognised(())


@pytest.mark.parametrize("name", CASES)
def test_converted_records_come_back(tmp_path, name):
    """From each case to each format of its task that has a place for all, and back, equal."""
    case = CASES[name]
    source = source_of(tmp_path / "from", case.files)
    shape = format_called(case.format).shape
    columns = shape.columns or case.columns
    tried = 0
    for other, form in all_formats().items():
        if form.shape != shape or form.separate:
            continue
        whole = [r for unit in source.units() for r in source.whole(unit, columns, Counter())]
        ending = ".jsonl" if form.reads == "rows" else ".txt"
        out = tmp_path / f"{other}{ending}"
        try:
            text = "".join(pieces(form, checked(whole, form), ending))
        except UserError as error:
            assert "choose" in str(error) or "no " in str(error)
            continue
        out.write_text(text, encoding="utf-8")
        back = Files(files=(str(out),), format=other)
        expected = [{c: record.get(c) for c in columns} for _, record in whole]
        if other == "fasttext":  # one line a text
            for record in expected:
                record["text"] = " ".join(record["text"].split())
        assert records_of(back, columns) == expected, other
        tried += 1
    assert tried or case.format in ("folders", "text", "pairs")


def test_every_format_gives_columns_of_the_table_and_says_what_it_is():
    forms = all_formats()
    unanswered = {"prompt_lines"}  # is never recognised in a file of answers
    assert {case.format for case in CASES.values()} == set(forms) - unanswered
    for name, form in forms.items():
        assert form.shape in SHAPES.values(), name
        assert type(form).__doc__ and "\n" not in type(form).__doc__.strip(), name


@dataclass(frozen=True, kw_only=True)
class Ranking(RowFormat):
    """A format of one's own, for a task of one's own"""

    shape = Shape("ranking", ("query", "documents"), ("note",))
    needs = ("query", "documents")

    def record(self, row: Row, sample: Sample) -> Record:
        return {"query": row["query"], "documents": row["documents"].split("|")}


@dataclass(frozen=True, kw_only=True)
class Misnamed(Ranking):
    """A format whose task has no columns"""

    task = "clasification"
    shape = Format.shape


def test_a_format_of_ones_own_says_its_columns(tmp_path):
    source = source_of(tmp_path, {"a.csv": "query,documents\nq,a|b\n"}, format=Ranking())
    assert source.tasks() == "ranking"
    expected = {"query": "q", "documents": ["a", "b"], "note": None}
    assert records_of(source, (*expected,)) == [expected]
    with pytest.raises(UserError, match="'clasification' .*did you mean classification?"):
        source.replace(format=Misnamed()).tasks()


def test_the_table_of_formats_is_current():
    text = formats_table.PAGE.read_text(encoding="utf-8")
    assert formats_table.page(text) == text, "a format has changed; run: tools/formats_table.py"


def test_a_task_reads_files_of_several_formats_and_says_which(tmp_path):
    files = {"a.csv": "review,stars\nfine,good\ndull,bad\n", "b.txt": "__label__bad poor\n"}
    source, lines = source_of(tmp_path, files), list[str]()
    data = RecordData(source=source, task=Classification(), seq_len=16, validation_fraction=0)
    prepared = data.prepare(Bytes(), tmp_path / "cache", report=lines.append)
    assert prepared.facts["classes"] == ["bad", "good"]
    assert prepared.splits["train"].counts["classes"] == {"bad": 2, "good": 1}
    found = "1 is classification (review, stars), 1 is fasttext (__label__NAME, text)"
    assert any(f"{found}, 3 records -> classification" in line for line in lines), lines


def test_files_to_measure_and_to_predict_for_are_read_in_the_format_of_the_run(tmp_path):
    own = source_of(tmp_path, {"a.csv": "review,stars\nfine,good\n"}, bad_rows="skip")
    data = RecordData(source=own, task=Classification())
    files = {"b.txt": "__label__x a b\n", "b.jsonl": jsonl({"sentence": "a b", "class": "x"})}
    for name, text in files.items():
        path = str(tmp_path / name)
        Path(path).write_text(text)
        found = detect([path], with_text=False)
        measured = measured_source(found, data)
        assert records_of(measured, data.task.columns) == [{"text": "a b", "label": "x"}]
        assert unanswered_source(found, data.task.asked, own) == measured.replace(answered=False)


# ------------------------------------------------------------------------------------------ errors

CHAT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
ERRORS = {
    "an unknown shape": (
        jsonl({"instructions": "a", "outputs": "b"}),
        ("messages",),
        "x.jsonl: has the columns instructions, outputs: no format fits; the nearest is alpaca, "
        "which lacks instruction, output or response; say which column that is, as "
        "data.source.columns={instruction: instructions}, or set data.source.format",
    ),
    "a column that is near to one of another task": (
        jsonl({"txt": "a"}),
        ("tokens", "tags"),
        "the nearest is tokens, which lacks tokens or words",
    ),
    "no known column": (
        jsonl({"foo": "a", "bar": "b"}),
        ("text", "label"),
        "x.jsonl: has the columns foo, bar: no format fits, and none has columns of these names; "
        "the nearest is classification, which lacks text or sentence or content or 6 more, label "
        "or labels or class or 10 more; say which column is which, as data.source.columns={text: "
        "COLUMN, label: COLUMN} (the task reads text and label)",
    ),
    "no known column and no task": (
        jsonl({"foo": "a", "bar": 3}),
        (),
        "data.source.columns={text: COLUMN} (`jaxlm data formats` lists those of each format)",
    ),
    "a table without a header": (
        "3,Wall St. Bears Claw Back,Reuters - Short\n4,Carlyle looks up,Reuters - Private\n",
        ("text", "label"),
        "no format fits, and the first row looks like data; where the file has no header, name its "
        "columns, as data.source.header=[NAME, NAME, NAME]; the nearest is classification, which "
        "needs text or sentence or content or 6 more, label or labels or class or 10 more (the "
        "task reads text and label)",
    ),
    "a table whose first row comes again": (
        "pos,fine\nneg,bad\npos,good\n",
        ("text", "label"),
        "the first row looks like data",
    ),
    "a column of another format's name": (
        jsonl({"instruction": "a", "completion": "b"}),
        ("messages",),
        "the nearest is alpaca, which lacks output or response; say which column that is, as "
        "data.source.columns={output: completion}, or set data.source.format",
    ),
    "a column in another case": (
        "Class Index,Title,Description\n3,Wall,Reuters\n",
        ("text", "label"),
        "data.source.columns={text: Title}",
    ),
    "another task": (
        jsonl({"prompt": "a", "completion": "b"}),
        ("tokens", "tags"),
        "prompt_completion gives prompt and completion, and the task reads tokens and tags",
    ),
    "several formats": (
        jsonl({"messages": said("a", "b"), "instruction": "a", "output": "b"}),
        ("messages",),
        "the formats alpaca (instruction, output) and openai (messages) fit; choose one: "
        "data.source.format=alpaca",
    ),
    "an empty answer": (
        jsonl({"instruction": "a", "output": "b"}, {"instruction": "a", "output": " "}),
        ("messages",),
        "x.jsonl:2: column 'output' is empty; fill it in or remove the row",
    ),
    "an empty answer of a chat": (
        jsonl({"messages": said("a", "")}),
        ("messages",),
        "x.jsonl:1: message 2, an answer of the assistant, is empty",
    ),
    "a role out of order": (
        jsonl(CHAT, {"conversations": CHAT["conversations"][::-1]}),
        ("messages",),
        "x.jsonl:2: message 1 has the role 'assistant' at the beginning, which is out of order",
    ),
    "a role twice": (
        jsonl({"messages": [HUMAN, HUMAN, ANSWER]}),
        ("messages",),
        "x.jsonl:1: message 2 has the role 'user' after 'user', which is out of order",
    ),
    "an unknown role": (
        jsonl({"messages": [HUMAN, {"role": "narrator", "content": "x"}]}),
        ("messages",),
        "x.jsonl:1: message 2 has the role 'narrator'; choose one of system, developer, user",
    ),
    "a picture": (
        jsonl({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]}),
        ("messages",),
        "x.jsonl:1: message 1 has a part of type 'image_url'; only texts can be read",
    ),
    "a bad weight": (
        jsonl({"messages": [HUMAN, {**ANSWER, "weight": -1}]}),
        ("messages",),
        "x.jsonl:1: message 2 weight is -1; use true, false or a number >= 0",
    ),
    "a call that is not JSON": (
        jsonl(
            {
                "conversations": [
                    CHAT["conversations"][0],
                    {"from": "function_call", "value": "f(1)"},
                ]
            }
        ),
        ("messages",),
        "x.jsonl:1: message 2 is a function_call that is not JSON: 'f(1)'; correct it",
    ),
    "half a pair": (
        '{"prompt": "a", "completion": "\\ud800"}\n',
        ("prompt", "completion"),
        "x.jsonl:1: column 'completion': holds half a surrogate pair",
    ),
}


QA = ("id", "context", "question", "answers")
PAIR = ("prompt", "chosen", "rejected")
CMRC = {"query_id": "Q0", "query_text": "谁?", "answers": ["他"]}
ERRORS |= {
    "an answer of CMRC that its context lacks": (
        json.dumps({"context_id": "D", "context_text": "我在北京", "qas": [CMRC]}),
        QA,
        "x.jsonl:1: question 'Q0': the answer '他' is not in its context; correct it",
    ),
    "a question of CMRC without a text": (
        json.dumps({"context_text": "我在北京", "qas": [{**CMRC, "query_text": ""}]}),
        QA,
        "x.jsonl:1: question 'Q0': has no query_text; add it or remove it",
    ),
    "an answer counted in bytes": (
        json.dumps({"data": [squad(question("7", ("here", 21)))]}),
        QA,
        "x.json:1: paragraph 1: question '7': answer_start is not where the text is: 21 is not the "
        "place of 'here', because it counts UTF-8 bytes; set data.source.format.offsets: bytes",
    ),
    "an answer counted in UTF-16": (
        jsonl({**WHERE, "answers": spans(("here", 18))}),
        QA,
        "x.jsonl:1: question '1': answer_start is not where the text is: 18 is not the place of "
        "'here', because it counts UTF-16 units; set data.source.format.offsets: utf16",
    ),
    "an answer elsewhere": (
        jsonl({**WHERE, "answers": spans(("Paris", 2))}),
        QA,
        "2 is not the place of 'Paris', which is at 6; correct it",
    ),
    "an answer that is not there": (
        jsonl({**WHERE, "answers": spans(("London", 2))}),
        QA,
        "2 is not the place of 'London', which is not in its context; correct the answer",
    ),
    "an empty answer of a question": (
        jsonl({**WHERE, "answers": spans(("", 2))}),
        QA,
        "x.jsonl:1: question '1': an answer is empty; write the words of its context, or give the "
        "question an empty list of answers",
    ),
    "equal sides": (
        jsonl(
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            {"prompt": "a", "chosen": "b", "rejected": "b"},
        ),
        PAIR,
        "x.jsonl:2: chosen and rejected are equal, so nothing is preferred; remove the row",
    ),
    "an empty side": (
        jsonl({"chosen": "The sky", "rejected": "The sky is green"}),
        PAIR,
        "x.jsonl:1: column 'chosen' is empty after the prompt; fill it in",
    ),
    "sides without a prompt": (
        jsonl({"chosen": "yes", "rejected": "no"}),
        PAIR,
        "x.jsonl:1: chosen and rejected begin differently, and there is no prompt; add it",
    ),
    "a label that is not known": (
        jsonl({"text": "a", "label": "x"}, {"text": "b", "label": None}),
        ("text", "label"),
        "x.jsonl:2: has no label in column 'label'; fill it in or remove the row",
    ),
    "numbers without names": (
        jsonl({"tokens": ["a"], "ner_tags": [3]}),
        ("tokens", "tags"),
        "x.jsonl:1: column 'ner_tags' holds numbers whose names the file does not have; set "
        "data.source.format={type: tokens, names: [O, B-PER, ...]} in their order",
    ),
    "more tags than tokens": (
        jsonl({"tokens": ["a"], "ner_tags": ["O", "O"]}),
        ("tokens", "tags"),
        "x.jsonl:1: has 1 tokens and 2 tags; correct the row",
    ),
    "a line of other columns": (
        "EU S-ORG\nsays O\n\nPeter\n",
        ("tokens", "tags"),
        "x.txt:4: has 1 columns, and the lines before have 2; correct it",
    ),
    "a word without a tag": (
        "The/at jury\n",
        ("tokens", "tags"),
        "x.txt:1: 'jury' has no tag; write word/TAG",
    ),
    "a line without a label": (
        "__label__x a\nb\n",
        ("text", "label"),
        "x.txt:2: has no label (__label__NAME); add one",
    ),
    "a line of three cells": (
        "a b\tc d\ne f\tg\th\n",
        ("source", "target"),
        "x.tsv:2: has 3 cells; write a source, a tab and its target",
    ),
    "a format that is not the file's": (
        jsonl(ALPACA),
        ("messages",),
        "x.jsonl: has the columns instruction, input, output: is not of the format sharegpt, which "
        "lacks conversations or messages or conversation or dialog here",
    ),
    "a broken file": ('[{"a": 1},\n{"b" 2}]', (), "x.json:2: not JSON (Expecting ':' delimiter)"),
    "a cut file": ('[{"a": 1},\n{"b": 2', (), "x.json:2: not JSON"),
    "no objects": ("[1]", (), "x.json:1: holds a int; a row must be a JSON object"),
    "an empty file": ("", (), "x.txt: holds no rows; name a file with some"),
}
FILES = {
    "an answer counted in bytes": "x.json",
    **dict.fromkeys(("a broken file", "a cut file", "no objects"), "x.json"),
    **dict.fromkeys(("a line of other columns", "a word without a tag"), "x.txt"),
    **dict.fromkeys(("a line without a label", "an empty file"), "x.txt"),
    "a line of three cells": "x.tsv",
    "a table without a header": "x.csv",
    "a table whose first row comes again": "x.csv",
    "a column in another case": "x.csv",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "a line of other columns": {"format": "conll"},
    "a word without a tag": {"format": "brown"},
    "a line without a label": {"format": "fasttext"},
    "a line of three cells": {"format": "tsv_pairs"},
    "a format that is not the file's": {"format": "sharegpt"},
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_one_line_with_the_place(tmp_path, name):
    text, columns, message = ERRORS[name]
    file = FILES.get(name, "x.jsonl")
    source = source_of(tmp_path, {file: text}, **OPTIONS.get(name, {}))
    with pytest.raises(UserError) as caught:
        list(source.records(columns))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_format_that_there_is_not_is_named_by_its_key() -> None:
    with pytest.raises(UserError, match="format: unknown type 'alpacca'; did you mean alpaca"):
        parse(Source, {"type": "files", "files": "x.jsonl", "format": "alpacca"})


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path):
    rows = [{"prompt": "a", "completion": c} for c in ("", "b", "\t", "c")]
    source = source_of(tmp_path, {"x.jsonl": jsonl(*rows)}, bad_rows="skip")
    counts = Counter[str]()
    found = list(source.records(("prompt", "completion"), counts))
    assert [place for place, _ in found] == ["x.jsonl:2", "x.jsonl:4"]
    assert counts == {"bad rows": 2}


def test_the_error_of_a_row_says_how_to_leave_it_out(tmp_path):
    begins = {"messages": [ANSWER, HUMAN, ANSWER]}
    twice = {"messages": [HUMAN, HUMAN, ANSWER]}
    for row in (begins, twice):
        source = source_of(tmp_path, {"x.jsonl": jsonl({"messages": said("a", "b")}, row)})
        with pytest.raises(
            UserError, match=r"out of order.*, or leave .*data\.source\.bad_rows=skip"
        ):
            records_of(source, ("messages",))
        assert len(records_of(source.replace(bad_rows="skip"), ("messages",))) == 1
        with pytest.raises(UserError) as caught:
            records_of(source.replace(answered=False), ("messages",))
        assert "bad_rows" not in str(caught.value)


def test_offsets_that_are_not_characters_are_read_when_they_are_named(tmp_path):
    for offsets, start in (("bytes", 21), ("utf16", 18), ("characters", 17)):
        rows = jsonl({**WHERE, "answers": spans(("here", start))})
        form = parse(
            Files, {"files": "x", "format": {"type": "squad_flat", "offsets": offsets}}
        ).format
        source = source_of(tmp_path, {"x.jsonl": rows}, format=form)
        assert records_of(source, ("answers",)) == [{"answers": spans(("here", 17))}]
        assert PARIS[17:21] == "here"


def test_columns_of_other_names_and_without_a_header_are_named(tmp_path):
    text = "a,b,c\n"
    source = source_of(tmp_path, {"x.csv": text}, header=("one", "two", "three"))
    renamed = source.replace(columns={"prompt": "three", "completion": "one"})
    found = records_of(renamed, ("prompt", "completion", "two"))
    assert found == [{"prompt": "c", "completion": "a", "two": "b"}]


def test_names_of_numbers_come_from_a_parquet_file(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    kinds = {"feature": {"names": ["O", "B-ORG"], "_type": "ClassLabel"}, "_type": "Sequence"}
    about = {b"huggingface": json.dumps({"info": {"features": {"ner_tags": kinds}}}).encode()}
    table = arrow.table({"tokens": [["EU", "rejects"]], "ner_tags": [[1, 0]]})
    parquet.write_table(table.replace_schema_metadata(about), tmp_path / "x.parquet")
    want = [{"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}]
    assert records_of(Files(files=(str(tmp_path / "x.parquet"),)), ("tokens", "tags")) == want
    about[b"huggingface"] = about[b"huggingface"].replace(b"ner_tags", b"mine")
    table = table.rename_columns(["tokens", "mine"]).replace_schema_metadata(about)
    parquet.write_table(table, tmp_path / "y.parquet")
    source = Files(files=(str(tmp_path / "y.parquet"),), columns={"ner_tags": "mine"})
    assert records_of(source, ("tokens", "tags")) == want


def test_files_without_answers_are_read_to_predict_for_them(tmp_path):
    files: dict[str, tuple[str, tuple[str, ...], Any]] = {
        "a.jsonl": (jsonl({"instruction": "Hi"}), ("messages",), [HUMAN]),
        "b.jsonl": (jsonl({"messages": [HUMAN]}), ("messages",), [HUMAN]),
        "c.csv": ("review\nfine\n", ("text",), "fine"),
        "d.jsonl": (jsonl({"context": "c", "question": "q"}), ("question",), "q"),
        "e.tsv": ("Good day\n", ("source",), "Good day"),
        "f.txt": ("EU says\n", ("tokens",), ["EU", "says"]),
        "g.txt": ("Hello\n", ("prompt",), "Hello"),
        "h.txt": ("Hi\n\n", ("messages",), [HUMAN]),
    }
    for name, (text, columns, value) in files.items():
        source = source_of(tmp_path, {name: text}, answered=False)
        assert records_of(source, columns) == [{columns[0]: value}], name


def test_tags_that_a_file_has_are_not_read_as_words(tmp_path):
    """A labelled file is asked about without its labels, as rows and chats are."""
    sentences = [["EU", "rejects"], ["Peter"]]
    for text in (
        "EU NNP B-ORG\nrejects VBZ O\n\nPeter NNP B-PER\n",
        "-DOCSTART- -X- O\n\nEU\tB-ORG\nrejects\tO\n\nPeter\tB-PER\n",
        "EU NNP\nrejects VBZ\n\nPeter NNP\n",
    ):
        text = text.replace("-DOCSTART- -X- O", "-DOCSTART- O")
        (tmp_path / "x.conll").write_text(text)
        own = Files(files=(str(tmp_path / "x.conll"),))
        asked = unanswered_source(detect([*own.files], with_text=False), ("tokens",), own)
        assert [one["tokens"] for one in records_of(asked, ("tokens",))] == sentences, text


def test_a_blank_row_does_not_hide_the_format(tmp_path):
    source = source_of(tmp_path, {"x.jsonl": jsonl({"text": "a"}, {"text": ""})}, answered=False)
    with pytest.raises(UserError, match="x.jsonl:2: column 'text' is empty; fill it in"):
        records_of(source, ("text",))


SHAREGPT_HUMAN = {"from": "human", "value": "Hi"}
ASKED: dict[str, tuple[Any, tuple[str, ...], Any]] = {
    "a text of a class": ({"text": "fine"}, ("text",), "fine"),
    "a content": ({"content": "fine"}, ("text",), "fine"),
    "a source": ({"text": "long"}, ("source",), "long"),
    "a chat of a prompt": ({"prompt": "say 1"}, ("messages",), said("say 1")),
    "a chat of messages": ({"prompt": [HUMAN]}, ("messages",), [HUMAN]),
    "a prompt of messages": ({"messages": [HUMAN]}, ("prompt",), [HUMAN]),
    "a prompt of a chat": ({"conversations": [SHAREGPT_HUMAN]}, ("prompt",), [HUMAN]),
    "a prompt of an instruction": ({"instruction": "Hi"}, ("prompt",), [HUMAN]),
    "a prompt before an answer": ({"messages": [HUMAN, ANSWER]}, ("prompt",), [HUMAN]),
    "a prompt of a pair": ({"prompt": "a", "chosen": "b", "rejected": "c"}, ("prompt",), "a"),
    "a pair as a chat": ({"prompt": "a"}, ("prompt",), "a"),
    "a tagged chat": ({"messages": [HUMAN], "kto_tag": True}, ("prompt",), [HUMAN]),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_is_asked_is_read_without_an_answer(tmp_path, name):
    row, columns, value = ASKED[name]
    source = source_of(tmp_path, {"x.jsonl": jsonl(row)}, answered=False)
    assert records_of(source, columns) == [{columns[0]: value}]


def test_a_pair_without_its_answers_is_not_made_two(tmp_path):
    assert two_labels({"prompt": "a"}, answered=False) == [{"prompt": "a"}]
    with pytest.raises(UserError, match="does not end with an answer"):
        last_turn({"messages": [HUMAN]}, answered=True)


def test_formats_that_read_other_texts_for_a_question_are_a_choice(tmp_path):
    row = {"messages": [HUMAN], "instruction": "Bye"}
    source = source_of(tmp_path, {"x.jsonl": jsonl(row)}, answered=False)
    with pytest.raises(UserError, match="alpaca .* and openai .* fit; choose one"):
        records_of(source, ("messages",))


def test_each_line_of_a_text_is_a_record_to_predict_for(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nx,y\n")
    own = Files(files=(str(tmp_path / "a.csv"),))
    (tmp_path / "b.txt").write_bytes("é fine\r\n\r\nbad\n".encode())
    found = detect([str(tmp_path / "b.txt")], with_text=False)

    def texts(source: Source | None) -> list[str]:
        asked = unanswered_source(found, ("text",), source)
        return [record["text"] for record in records_of(asked, ("text",))]

    assert texts(own) == texts(None) == texts(TextFiles(files=own.files)) == ["é fine", "bad"]
    assert texts(own.replace(format="text")) == ["é fine\n\nbad"]
    by_paragraph = TextFiles(files=own.files, document_separator="\r\n\r\n")
    assert texts(by_paragraph) == ["é fine", "bad\n"]
    (tmp_path / "b.txt").write_text("__label__x a b\n__label__y c\n")
    assert texts(own) == ["a b", "c"]


def test_one_line_of_a_table_without_a_header_is_read(tmp_path):
    own = source_of(tmp_path, {"a.tsv": "Good day\tGuten Tag\n"})
    found = detect([*own.files], with_text=False)
    asked = unanswered_source(found, ("source",), own)
    assert records_of(asked, ("source",)) == [{"source": "Good day"}]
    measured = measured_source(found, RecordData(source=own, task=Translation()))
    assert records_of(measured, ("target",)) == [{"target": "Guten Tag"}]
    assert records_of(unanswered_source(found, ("source",), None), ("source",)) == [
        {"source": "Good day"}
    ]
    (tmp_path / "a.csv").write_text("text,label\n")
    with pytest.raises(UserError, match="a.csv: holds no rows; name a table with a header"):
        unanswered_source(detect([f"{tmp_path}/a.csv"], with_text=False), ("text",), None)


def test_a_table_is_not_running_text(tmp_path) -> None:
    """One of columns that no format has is an error; MNLI's label has a name of its own."""
    table = "index\tpremise\thypothesis\tlabel1\tgold_label\n0\ta\tb c\tneutral\tentailment\n"
    found = records_of(source_of(tmp_path, {"mnli.tsv": table}), ("text", "text_b", "label"))
    assert found == [{"text": "a", "text_b": "b c", "label": "entailment"}]
    own = source_of(tmp_path, {"other.tsv": "foo\tbar\na b\tc d\nd\t4\n"})
    with pytest.raises(UserError, match="has the columns foo, bar: no format fits, and none has"):
        records_of(own, ("text",))
    lines = records_of(own.replace(format=Text(by="line")), ("text",))
    assert [one["text"] for one in lines] == ["foo\tbar", "a b\tc d", "d\t4"]


def test_compressed_files_and_folders_of_files_are_read_by_units(tmp_path):
    import gzip

    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl(ALPACA).encode()))
    (tmp_path / "b.json").write_text(json.dumps([{"messages": said("Hi", "Hello")}]))
    source = Files(files=(f"{tmp_path}/*",))
    assert "1 is alpaca (instruction, output, input), 1 is openai (messages)" in source.recognised(
        ("messages",)
    )
    assert records_of(source, ("messages",)) == [
        {"messages": said("Add.\n1 2", "3")},
        {"messages": said("Hi", "Hello")},
    ]


def test_json_is_read_row_by_row_wherever_it_is_cut():
    rows = [{"text": "é" * n, "n": [n, {"a": None}]} for n in range(40)]
    shapes = {
        "list": json.dumps(rows, indent=1),
        "in an object": json.dumps({"version": {"a": [1]}, "data": rows, "more": 2}),
        "lines": jsonl(*rows),
        "objects over lines": "\n".join(json.dumps(row, indent=2) for row in rows),
        "with commas": ",\n".join(map(json.dumps, rows)),
    }
    for name, text in shapes.items():
        for size in (1, 7, 1000):
            pieces_of = [text[i : i + size] for i in range(0, len(text), size)]
            found = [row for _, row in json_rows(iter(pieces_of), "x")]
            assert found == rows, (name, size)
    lines = [here for here, _ in json_rows([shapes["lines"]], "x")]
    assert lines == [f"x:{n + 1}" for n in range(40)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n {"a": 1, "a": 2}]', "x:2: names the column 'a' twice"),
        ('[{"a": 1},\n {"a": 1\n "b": 2},\n' + '{"a": 1},' * 50, "x:3: not JSON .*',' delim"),
        ('[{"a": ' + "1" * 5000 + "}]", "x:1: not JSON .*4,300 digits"),
        ('[{"a": ' + "[" * 100_000, "x:1: not JSON .nested too deeply"),
    ],
)
def test_what_is_wrong_with_json_is_said(text, message):
    for size in (7, 1000):
        pieces_of = [text[i : i + size] for i in range(0, len(text), size)]
        with pytest.raises(UserError, match=message):
            list(json_rows(pieces_of, "x", 300_000 if "[[[" in text else 10_000))


def test_a_typo_is_found_before_the_rest_is_read():
    typo = iter(['[{"a": 1 "b": 2},', *['{"a": 1},'] * 100])
    with pytest.raises(UserError, match="x:1: not JSON"):
        list(json_rows(typo, "x"))
    assert len(list(typo)) > 90


def test_bad_articles_can_be_left_out_and_empty_sentences_are_the_task_s(tmp_path):
    articles = [squad(question("1", ("Paris", 6))), {"paragraphs": 3}, {"paragraphs": [{}]}]
    source = source_of(tmp_path, {"q.json": json.dumps({"data": articles})}, bad_rows="skip")
    counts = Counter()
    assert len(list(source.records(("answers",), counts))) == 1 and counts["bad rows"] == 2
    rows = [{"tokens": ["a"], "ner_tags": ["B-A"]}, {"tokens": [], "ner_tags": []}]
    source = source_of(tmp_path, {"t.jsonl": jsonl(*rows)})
    assert records_of(source, ("tokens",)) == [{"tokens": ["a"]}, {"tokens": []}]
    for to in ("conll", "conllu", "brown"):
        with pytest.raises(UserError, match="a sentence has no tokens"):
            convert(source, format_called(to), tmp_path / "o.txt")


def test_a_list_is_not_held_as_a_whole(tmp_path, monkeypatch):
    """The first row is there when only the first blocks of the file are read."""
    monkeypatch.setattr(compressed, "BLOCK", 1000)
    text = json.dumps([{"text": "x" * 100}] * 1000)
    taken = []

    def pieces_of():
        for start in range(0, len(text), 1000):
            taken.append(start)
            yield text[start : start + 1000]

    assert next(json_rows(pieces_of(), "x"))[1] == {"text": "x" * 100}
    assert len(taken) == 1


def test_tags_become_bio():
    """Against the spans that conlleval finds: they are those of the scheme that is given."""
    assert in_bio(["I-A", "I-A", "O", "I-A", "I-B", "B-B", "I-B"]) == [
        "B-A",
        "I-A",
        "O",
        "B-A",
        "B-B",
        "B-B",
        "I-B",
    ]
    assert in_bio(["B-A", "I-A", "O", "B-A", "B-A"]) == ["B-A", "I-A", "O", "B-A", "B-A"]
    assert in_bio(["S-A", "B-A", "E-A", "S-B", "O", "B-B", "I-B", "E-B"]) == [
        "B-A",
        "B-A",
        "I-A",
        "B-B",
        "O",
        "B-B",
        "I-B",
        "I-B",
    ]
    assert in_bio(["U-A", "B-A", "L-A", "O", "U-A"]) == ["B-A", "B-A", "I-A", "O", "B-A"]
    assert in_bio(["S-A", "I-A"]) == ["B-A", "B-A"]


def test_pairs_of_files_have_lines_of_the_same_number(tmp_path):
    source = source_of(tmp_path, {"x.en": "a\nb\n", "x.de": "c\n"})
    with pytest.raises(UserError, match="x.de: ends after line 1, and .*x.en does not"):
        list(source.records(("source", "target")))
    turned = source_of(tmp_path, {"y.de": "c\n", "y.en": "a\n"})
    assert records_of(turned, ("source", "target")) == [{"source": "c", "target": "a"}]
    form = parse(Files, {"files": "x", "format": {"type": "paired_files", "source": "en"}}).format
    named = turned.replace(format=form)
    assert records_of(named, ("source", "target")) == [{"source": "a", "target": "c"}]


@pytest.mark.parametrize(
    "ending", ["x.jsonl", "x.json", "x.csv", "x.tsv", "x.jsonl.gz", "x.parquet"]
)
def test_a_converted_file_is_whole(tmp_path, ending):
    rows = [{"instruction": f"q {i}", "input": "a, b\n", "output": f"é{i}"} for i in range(30)]
    source = source_of(tmp_path, {"a.jsonl": jsonl(*rows)})
    out = tmp_path / ending
    if ending.endswith("sv"):
        with pytest.raises(UserError, match="openai cannot read messages from a table's cells"):
            convert(source, format_called("openai"), out)
    else:
        assert convert(source, format_called("openai"), out) == 30
        back = Files(files=(str(out),))
        assert back.recognised(()).endswith("openai (messages)")
        assert records_of(back, ("messages",)) == records_of(source, ("messages",))
    assert convert(source, format_called("alpaca"), out) == 30
    back = Files(files=(str(out),))
    assert records_of(back, ("messages",)) == records_of(source, ("messages",))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a.jsonl", ending])


def test_texts_become_files_in_folders_of_their_classes(tmp_path):
    rows = [{"text": f"a\n\nb {n} \r\n", "label": f"class {n % 70}"} for n in range(150)]
    source = source_of(tmp_path, {"x.jsonl": jsonl(*rows)})
    assert convert(source, format_called("folders"), tmp_path / "made") == 150
    back = Files(files=(f"{tmp_path}/made/*/*.txt",))
    assert back.recognised(()).endswith("folders (text, label)")
    by_text = operator.itemgetter("text")
    assert sorted(records_of(back, ("text", "label")), key=by_text) == sorted(rows, key=by_text)
    assert {path.name for path in tmp_path.iterdir()} == {"x.jsonl", "made"}


def test_translations_become_two_files(tmp_path):
    rows = [{"translation": {"en": f"a {n}", "de": f"ä {n}"}} for n in range(20)]
    source = source_of(tmp_path, {"x.jsonl": jsonl(*rows)})
    with pytest.raises(UserError, match="are named by their languages; choose --to '{type: paired"):
        convert(source, format_called("paired_files"), tmp_path / "made")
    form = parse(Format, {"type": "paired_files", "source": "en", "target": "de"})
    assert convert(source, form, tmp_path / "made") == 20
    back = Files(files=(f"{tmp_path}/made.en", f"{tmp_path}/made.de"))
    assert records_of(back, ("source", "target")) == records_of(source, ("source", "target"))
    assert {path.name for path in tmp_path.iterdir()} == {"x.jsonl", "made.en", "made.de"}


def test_a_column_of_several_types_is_an_error_of_parquet(tmp_path):
    rows = [{"text": f"a {n}", "label": "x" if n else 0} for n in range(9)]
    source = source_of(tmp_path, {"x.jsonl": jsonl(*rows)})
    with pytest.raises(UserError, match="a column has values of several types .*; choose .jsonl"):
        convert(source, format_called("classification"), tmp_path / "made.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_squad_comes_back_exactly(tmp_path):
    whole = {
        "version": "v2.0",
        "data": [squad(question("1", ("Paris", 6)), question("2", is_impossible=True))],
    }
    source = source_of(tmp_path, {"q.json": json.dumps(whole)})
    assert convert(source, format_called("squad_flat"), tmp_path / "f.jsonl") == 2
    flat = Files(files=(str(tmp_path / "f.jsonl"),))
    assert convert(flat, format_called("squad"), tmp_path / "b.json") == 2
    assert json.loads((tmp_path / "b.json").read_text()) == whole


def test_nothing_is_lost_in_a_conversion(tmp_path):
    chat = {"messages": [HUMAN, {**ANSWER, "weight": 0}], "tools": [{"name": "f"}]}
    source = source_of(tmp_path, {"x.jsonl": jsonl(chat)})
    with pytest.raises(UserError, match="x.jsonl:1: alpaca has no place for tools"):
        convert(source, format_called("alpaca"), tmp_path / "y.jsonl")
    del chat["tools"]
    source = source_of(tmp_path, {"x.jsonl": jsonl(chat)})
    with pytest.raises(UserError, match="alpaca has no place for weight of a message"):
        convert(source, format_called("alpaca"), tmp_path / "y.jsonl")
    with pytest.raises(UserError, match="gives messages and tools, and the task reads tokens"):
        convert(source, format_called("conll"), tmp_path / "y.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


LABELLED = {"text": "a  fine film", "label": "very good"}


@pytest.mark.parametrize(
    ("to", "out", "row", "message"),
    [
        ("text", "o.txt", {"text": "one\n\ntwo"}, "a text has an empty line"),
        ({"type": "text", "by": "line"}, "o.txt", {"text": "one\ntwo"}, "several lines"),
        ("folders", "o", {"text": "a", "label": "x/y"}, "'x/y' is not the name of a folder"),
        ("fasttext", "o.txt", LABELLED, "the label 'very good' has white space"),
        ("fasttext", "o.txt", {"text": "__label__x y", "label": "z"}, "would be a label"),
        ("classification", "o.csv", {"text": "a", "label": ["x", "y"]}, "cannot read label from"),
    ],
)
def test_what_a_format_has_no_place_for_is_an_error(tmp_path, to, out, row, message):
    form = parse(Format, to) if isinstance(to, dict) else format_called(to)
    source = source_of(tmp_path, {"x.jsonl": jsonl(row, row)})
    with pytest.raises(UserError, match=message):
        convert(source, form, tmp_path / out)


def test_texts_are_read_again_with_all_their_characters(tmp_path):
    texts = [{"text": "one\u2028two\nthree"}, {"text": " four\x0b\x1cfive"}]
    for by, rows in (("paragraph", texts), ("file", [{"text": "a\n\nb\n"}])):
        source = source_of(tmp_path, {"x.jsonl": jsonl(*rows)})
        assert convert(source, form := Text(by=by), tmp_path / "o.txt") == len(rows)
        back = Files(files=(str(tmp_path / "o.txt"),), format=form)
        assert records_of(back, ("text",)) == rows


def test_rows_that_a_conversion_skips_are_counted(tmp_path):
    source = source_of(tmp_path, {"x.jsonl": jsonl(ALPACA, {**ALPACA, "output": 3})})
    skipped = Counter()
    skipping = source.replace(bad_rows="skip")
    assert convert(skipping, format_called("openai"), tmp_path / "o.jsonl", skipped) == 1
    assert skipped == {"bad rows": 1}


# ------------------------------------------------------------------------------------------ fuzzed

JUNK = [
    "",
    "\0",
    "\ud800",
    "null",
    "[]",
    "{}",
    "1e999",
    '"',
    "\t",
    "\n\n",
    "\ufeff",
    "\\",
    "[" * 3000,
]
JUNK += ["true", "-1", "é", "0", ",", ":", "answers", '{"text": 3}', '["a", 1]', "B-PER", "\u2028"]


def mutated(text: str, rng: random.Random) -> bytes:
    """The text with some of its pieces cut, doubled, replaced or moved."""
    for _ in range(rng.randint(1, 4)):
        at, to = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        to = min(to, at + rng.choice((0, 1, 3, 20)))
        piece = rng.choice(
            (rng.choice(JUNK), text[at:to] * 2, "", text[rng.randrange(len(text)) :][:9])
        )
        text = text[:at] + piece + text[to:]
        if not text:
            break
    data = text.encode("utf-8", "surrogatepass")
    return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.1 else data


@pytest.mark.parametrize("seed", range(10))
def test_damaged_files_give_records_or_one_line(tmp_path, seed):
    rng = random.Random(seed)
    names = list(CASES)
    outcomes = Counter[str]()
    for _ in range(60):
        case: Case = CASES[rng.choice(names)]
        for name, text in case.files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(mutated(text, rng))
        files = tuple(str(tmp_path / name) for name in case.files)
        form = rng.choice((None, case.format, rng.choice(names)))
        form = form if form in all_formats() else None
        columns = rng.choice((case.columns, (), case.columns[:1]))
        options: dict[str, Any] = {"answered": rng.random() < 0.8, "format": form}
        source = Files(files=files, bad_rows=rng.choice(("error", "skip")), **options)
        try:
            json.dumps([record for _, record in source.records(columns)])
            source.recognised(columns)
            outcomes["read"] += 1
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000, error
            outcomes["refused"] += 1
    assert min(outcomes["read"], outcomes["refused"]) > 5, outcomes


@pytest.mark.parametrize("key", ["train", "training"])
def test_a_file_trains_what_its_messages_say(tmp_path, key):
    messages = [
        {"role": "user", "content": "Hi", key: True},
        {"role": "assistant", "content": "Hello", "weight": 1, key: False},
    ]
    turns = [
        {"from": "human", "value": "Hi", key: True},
        {"from": "gpt", "value": "Hello", "weight": 1, key: False},
    ]
    for number, row in enumerate(({"messages": messages}, {"conversations": turns})):
        source = source_of(tmp_path, {f"{number}.jsonl": jsonl(row)})
        (record,) = records_of(source, ("messages",))
        tokenizer = Chat(template="plain").equipped(ByteTokenizer())
        rendering = Chat(template="plain").rendering(record, tokenizer)
        trained = [c for c, w in zip(rendering.text, rendering.weights, strict=True) if w]
        assert "".join(trained).strip() == "Hi"
        to = ("openai", "sharegpt")[number]
        convert(source, format_called(to), out := tmp_path / f"{number}.again.jsonl")
        assert records_of(Files(files=(str(out),)), ("messages",)) == [record]


@pytest.mark.parametrize("key", REASONING)
def test_reasoning_is_kept_under_each_of_its_names(tmp_path, key):
    answer = {**ANSWER, key: "because"}
    source = source_of(tmp_path, {"a.jsonl": jsonl({"messages": [HUMAN, answer]})})
    assert records_of(source, ("messages",)) == [{"messages": [HUMAN, answer]}]


def test_a_column_of_tools_that_the_task_does_not_read_is_reported(tmp_path):
    tools = [{"type": "function", "function": {"name": "add"}}]
    source = source_of(tmp_path, {"a.jsonl": jsonl({"messages": [HUMAN, ANSWER], "tools": tools})})
    assert source.recognised(Chat().columns).endswith(
        "openai (messages, tools), without tools, which the task does not read "
        "(data.task.tools=tools reads it)"
    )
    assert source.recognised(Chat(tools="tools").columns).endswith("openai (messages, tools)")
    assert source.recognised(()).endswith("openai (messages, tools)")


@pytest.mark.parametrize("answered", [True, False])
def test_a_second_text_that_the_task_does_not_read_is_reported(tmp_path, answered):
    row = {"sentence1": "a", "sentence2": "b", "label": "same"}
    source = source_of(tmp_path, {"a.jsonl": jsonl(row)}).replace(answered=answered)
    listed = "sentence1, sentence2, label" if answered else "sentence1, sentence2"
    task, pair = (t if answered else t.asked for t in (Classification(), Pair()))
    assert source.recognised(getattr(task, "columns", task)).endswith(
        f"pairs ({listed}), without text_b, which the task does not read"
    )
    assert source.recognised(getattr(pair, "columns", pair)).endswith(f"pairs ({listed})")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "one.jsonl",
            jsonl({"foo": "x"}),
            "the nearest is text_column, which lacks text or content",
        ),
        ("two.jsonl", jsonl({"foo": "x", "bar": 0}), "the nearest is classification, which lacks"),
        (
            "cola.tsv",
            "gj04\t0\t*\tthe sailors rode\ngj04\t1\t\twe sang it\n",
            "header=[NAME, NAME, NAME, NAME]; the nearest is pairs, which needs sentence1",
        ),
    ],
)
def test_the_nearest_format_has_as_many_columns_where_no_name_is_known(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        Files(files=(str(tmp_path / name),)).recognised(())
    assert says in str(error.value)


def test_another_version_of_a_format_is_another_source(tmp_path, monkeypatch):
    source = source_of(tmp_path, {"a.jsonl": jsonl({"messages": [HUMAN, ANSWER]})})
    one, named = source.fingerprint(), source.replace(format="alpaca").fingerprint()
    monkeypatch.setattr(OpenAI, "version", OpenAI.version + 1)
    assert source.fingerprint() != one
    assert source.replace(format="alpaca").fingerprint() == named


def test_a_file_is_opened_a_few_times(tmp_path, monkeypatch):
    source = source_of(tmp_path, {"a.txt": "Some text\n", "b.txt": "More text\n"})
    opened = Counter[str]()
    real = files_opened.open_file

    def counted(path):
        opened[path.name] += 1
        return real(path)

    monkeypatch.setattr(files_opened, "open_file", counted)
    assert len(records_of(source, ("text",))) == 2
    assert max(opened.values()) <= 4  # what it is, of two objects; its beginning; all of it


@pytest.mark.parametrize("kind", ["conll", "tokens"])
def test_spans_are_found_after_a_beginning_without_any(tmp_path, kind):
    """In IOB1, whose spans begin with I-."""
    sparse, tagged = ["O", "O"], ["I-PER", "I-PER"]
    sentences = [sparse] * 250 + [tagged, sparse]
    if kind == "conll":
        text = "".join("".join(f"a {tag}\n" for tag in tags) + "\n" for tags in sentences)
    else:
        text = jsonl(*({"tokens": ["a", "a"], "ner_tags": tags} for tags in sentences))
    found = records_of(
        source_of(tmp_path, {"a.jsonl" if kind == "tokens" else "a": text}), ("tags",)
    )
    assert found[250] == {"tags": ["B-PER", "I-PER"]} and found[251] == {"tags": sparse}
