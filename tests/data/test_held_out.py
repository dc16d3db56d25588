"""Files to measure and to predict for, of every format, for runs whose own data is a table."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jaxlm.core.config import UserError
from jaxlm.data.detect import detect
from jaxlm.data.formats.shapes import SHAPES
from jaxlm.data.held_out import (
    found_in,
    measured_source,
    own_settings,
    unanswered_source,
)
from jaxlm.data.records import RecordData
from jaxlm.data.sources.base import Source
from jaxlm.data.sources.csv import Csv
from jaxlm.data.sources.files import Files
from jaxlm.data.sources.jsonl import JsonLines
from jaxlm.objectives.rated import Rated
from jaxlm.tasks.base import Task
from jaxlm.tasks.chat import Chat
from jaxlm.tasks.classification import Classification
from jaxlm.tasks.pair import Pair
from jaxlm.tasks.preference import Preference
from jaxlm.tasks.prompt_completion import PromptCompletion
from jaxlm.tasks.question_answering import QuestionAnswering
from jaxlm.tasks.tagging import Tagging
from jaxlm.tasks.translation import Translation
from tests.data.formats_cases import CASES, HUMAN, PARIS, Case, jsonl, question, squad

CSV = Csv(files=("own.csv",), text_column="review", label_column="stars")
JSONL = JsonLines(files=("own.jsonl",))


def written(folder: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return [str(folder / name) for name in files]


def read(source: Source, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    return [record for _, record in source.records(columns)]


def is_of_a_task(case: Case) -> bool:
    return {*case.columns} <= {name for shape in SHAPES.values() for name in shape.every}


@pytest.mark.parametrize("own", [CSV, JSONL, None], ids=["csv", "jsonl", "none"])
@pytest.mark.parametrize("name", [name for name in CASES if is_of_a_task(CASES[name])])
def test_a_file_of_every_format_is_measured_by_a_run_of_a_table(
    tmp_path: Path, name: str, own: Source | None
) -> None:
    """The records are those of the format, under the task's own names."""
    case = CASES[name]
    names = {column: f"my_{column}" for column in case.columns}
    task: Any = SimpleNamespace(columns=tuple(names.values()), column_names=names)
    data: Any = SimpleNamespace(source=own, task=task)
    found = detect(written(tmp_path, case.files), with_text=False)
    records = read(measured_source(found, data), task.columns)
    want = [{names[c]: record[c] for c in case.columns} for record in case.records]
    assert sorted(map(str, records)) == sorted(map(str, want))


TEXT, QA, TAGS = Classification(text="opinion", label="mark"), QuestionAnswering(), Tagging()
CHAT, TRANSLATION = Chat(template="plain"), Translation()
PROMPTS = PromptCompletion(template="plain")
SQUAD = json.dumps({"data": [squad(question("1", ("Paris", 6)))]})
CONLLU = "1\tEU\t_\tPROPN\t_\t_\t_\t_\t_\t_\n2\tsays\t_\tVERB\t_\t_\t_\t_\t_\t_\n\n"
WORDS = ["EU", "says"]
ASKED: dict[str, tuple[Task, str, str, str, list[Any]]] = {
    # the task, a file, the format that is found, and the asked values of each record
    "text": (TEXT, "a.txt", "a b\n\nc\n", "text", ["a b", "c"]),
    "json": (TEXT, "a.json", '[{"review": "a"}, {"review": "b"}]', "classification", ["a", "b"]),
    "csv": (TEXT, "a.csv", "sentence\na\n", "classification", ["a"]),
    "jsonl": (TEXT, "a.jsonl", jsonl({"content": "a"}), "classification", ["a"]),
    "fasttext": (TEXT, "a.txt", "__label__x a b\n__label__y c\n", "fasttext", ["a b", "c"]),
    "glue": (Pair(), "a.tsv", "index\tsentence1\tsentence2\n0\ta\tb\n", "pairs", [("a", "b")]),
    "alpaca": (CHAT, "a.json", '[{"instruction": "Hi"}]', "alpaca", [[HUMAN]]),
    "sharegpt": (
        CHAT,
        "a.jsonl",
        jsonl({"conversations": [{"from": "human", "value": "Hi"}]}),
        "sharegpt",
        [[HUMAN]],
    ),
    "openai": (CHAT, "a.json", json.dumps([{"messages": [HUMAN]}]), "openai", [[HUMAN]]),
    "prompts": (PROMPTS, "a.csv", "question\na b\n", "prompt_completion", ["a b"]),
    "lines of prompts": (CHAT, "a.txt", "Hi\n", "prompt_lines", [[HUMAN]]),
    "squad": (QA, "a.json", SQUAD, "squad", [("Where?", PARIS)]),
    "squad_flat": (
        QA.replace(question="frage"),
        "a.json",
        json.dumps([{"context": "c", "question": "q"}]),
        "squad_flat",
        [("q", "c")],
    ),
    "translation": (
        TRANSLATION,
        "a.jsonl",
        jsonl({"translation": {"en": "a", "de": "b"}}),
        "translation",
        ["a"],
    ),
    "tsv_pairs": (TRANSLATION, "a.tsv", "a b\tc d\ne f\tg h\n", "tsv_pairs", ["a b", "e f"]),
    "sources": (TRANSLATION, "a.txt", "a b\ne f\n", "tsv_pairs", ["a b", "e f"]),
    "conll": (TAGS, "a.conll", "EU NNP B-ORG\nsays VBZ O\n", "conll", [WORDS]),
    "conllu": (TAGS, "a.conllu", CONLLU, "conllu", [WORDS]),
    "tokens": (
        TAGS.replace(tokens="mots"),
        "a.json",
        json.dumps([{"tokens": WORDS, "ner_tags": ["B-ORG", "O"]}]),
        "tokens",
        [WORDS],
    ),
    "brown": (TAGS, "a.txt", "EU/np says/vbz\n", "brown (word/TAG)", [WORDS]),
    "lines of words": (TAGS, "a.txt", "EU says\n", "brown", [WORDS]),
}


@pytest.mark.parametrize("own", [CSV, JSONL, None], ids=["csv", "jsonl", "none"])
@pytest.mark.parametrize("name", ASKED)
def test_a_file_of_every_format_is_predicted_for_by_a_run_of_a_table(
    tmp_path: Path, name: str, own: Source | None
) -> None:
    task, file, text, form, values = ASKED[name]
    (path,) = written(tmp_path, {file: text})
    found = detect([path], with_text=False)
    source = unanswered_source(found, task.asked, own, task.column_names)
    assert found_in(source, task.asked).startswith(f"{path}: {form}")
    asked = [tuple(one[c] for c in task.asked) for one in read(source, task.asked)]
    assert asked == [value if isinstance(value, tuple) else (value,) for value in values]


@pytest.mark.parametrize("own", [CSV, JSONL], ids=["csv", "jsonl"])
def test_texts_in_folders_and_in_parquet_are_predicted_for(tmp_path: Path, own: Source) -> None:
    import pyarrow
    from pyarrow import parquet

    written(tmp_path, {"pos/1.txt": "a\nb\n", "neg/1.txt": "c\n"})
    parquet.write_table(pyarrow.table({"sentence": ["d"], "x": [1]}), tmp_path / "a.parquet")
    for pattern, form, want in (
        ("*/*.txt", "folders (text, label), utf-8", ["c\n", "a\nb\n"]),
        ("a.parquet", "classification (sentence)", ["d"]),
    ):
        path = f"{tmp_path}/{pattern}"
        source = unanswered_source(detect([path]), TEXT.asked, own, TEXT.column_names)
        assert found_in(source, TEXT.asked) == f"{path}: {form}"
        assert [one["opinion"] for one in read(source, TEXT.asked)] == want


def test_a_task_of_other_names_reads_other_formats_with_a_run_of_files(tmp_path: Path) -> None:
    own = Files(files=("own.csv",))
    for file, text, want in (
        ("a.csv", "opinion,sentence\na,b\n", ["a"]),  # the task's own name is first
        ("a.txt", "a b\nc\n", ["a b", "c"]),
        ("b.txt", "__label__x a\n", ["a"]),
        ("b.csv", "sentence,class\na,x\n", ["a"]),
    ):
        (path,) = written(tmp_path, {file: text})
        found = detect([path], with_text=False)
        source = unanswered_source(found, TEXT.asked, own, TEXT.column_names)
        assert [one["opinion"] for one in read(source, TEXT.asked)] == want
    source = measured_source(found, RecordData(source=own, task=TEXT))
    assert read(source, TEXT.columns) == [{"opinion": "a", "mark": "x"}]


def test_a_table_with_the_runs_columns_is_read_as_the_runs_tables_are(tmp_path: Path) -> None:
    """With the rules for its labels; a column that a format would take for the text is not it."""
    own = CSV.replace(label_map={"5": "good", "1": "bad"})
    task = Classification()
    (path,) = written(tmp_path, {"a.csv": "text,review,stars\nx,a,5\ny,b,3\nz,c,1\n"})
    source = measured_source(detect([path]), RecordData(source=own, task=task))
    want = [{"text": "a", "label": "good"}, {"text": "c", "label": "bad"}]
    assert read(source, task.columns) == want
    assert found_in(source, task.columns) == f"{path}: csv (review, stars), utf-8"
    (path,) = written(tmp_path, {"b.csv": "text,label\nx,5\ny,1\n"})
    source = measured_source(detect([path]), RecordData(source=own, task=task))
    assert read(source, task.columns) == [{"text": "x", "label": "5"}, {"text": "y", "label": "1"}]


def test_a_repeated_context_is_not_taken_for_a_class(tmp_path: Path) -> None:
    """Its white space counts: answers have their places in it."""
    rows = [
        {"context": f" {c} is here", "question": f"Where is {c} ({n})?", "answers": [c]}
        for n in range(4)
        for c in ("Paris", "Rome")
    ]
    (path,) = written(tmp_path, {"a.jsonl": jsonl(*rows)})
    source = measured_source(detect([path]), RecordData(source=JSONL, task=QA))
    assert [one["context"] for one in read(source, QA.columns)] == [r["context"] for r in rows]


CHINESE = "review,stars\n这部电影很好看,5\n不好看的电影,1\n"


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "cp1252", "shift_jis"])
@pytest.mark.parametrize(
    "own", [CSV, JSONL, Files(files=("own.csv",))], ids=["csv", "jsonl", "files"]
)
def test_the_encoding_is_found_and_said(tmp_path: Path, own: Any, encoding: str) -> None:
    """One that is not among those that are tried is the run's own."""
    texts = {"cp1252": "review,stars\nschön,5\n", "shift_jis": "review,stars\n映画は良い,5\n"}
    text = texts.get(encoding, CHINESE)
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode(encoding))
    own = own.replace(encoding=encoding) if encoding == "shift_jis" else own
    task = Classification()
    found = detect([str(path)], with_text=False, encoding=own.encoding)
    source = unanswered_source(found, task.asked, own, task.column_names)
    want = [line.split(",")[0] for line in text.splitlines()[1:]]
    assert [one["text"] for one in read(source, task.asked)] == want
    assert found_in(source, task.asked).endswith(f", {encoding}")
    measured = measured_source(found, RecordData(source=own, task=task))
    assert [one["text"] for one in read(measured, task.columns)] == want


ERRORS = {
    "a near column": (
        "a.csv",
        "id,revew\n1,a\n",
        "a.csv: no column 'review'; did you mean revew?",
    ),
    "no near column": (
        "a.csv",
        "frobnicate,blub\na,b\n",
        "has the columns frobnicate, blub: no format fits, and none has columns of these names; "
        "the nearest is classification, which lacks text or sentence or content or 6 more, label "
        "or labels or class or 10 more; say which column is which, as data.source={type: files, "
        "files: FILE, columns: {text: COLUMN, label: COLUMN}}",
    ),
    "no label": (
        "a.csv",
        "review,x\na,b\n",
        "a.csv: no column stars among review, x; name a table with review, stars",
    ),
    "no answers": (
        "a.txt",
        "a b\n",
        "has lines of text: text gives text, and the task reads text and label",
    ),
    "an empty text": ("a.json", '[{"review": "", "stars": "x"}]', "a.json:1: column 'text' is emp"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_advises_what_a_run_of_a_table_can_set(tmp_path: Path, name: str) -> None:
    file, text, message = ERRORS[name]
    (path,) = written(tmp_path, {file: text})
    with pytest.raises(UserError) as caught:
        task = Classification()
        found = detect([path], with_text=False)
        read(measured_source(found, RecordData(source=CSV, task=task)), task.columns)
    assert message.replace("FILE", path) in str(caught.value)
    assert "data.source.format" not in str(caught.value) and "bad_rows" not in str(caught.value)


def test_a_corpus_of_a_table_is_measured_in_a_list_of_json(tmp_path: Path) -> None:
    (path,) = written(tmp_path, {"a.json": '[{"review": "a b"}, {"review": "c"}]'})
    data: Any = SimpleNamespace(source=CSV)
    assert [d.text for d in measured_source(detect([path]), data).documents()] == ["a b", "c"]


def test_the_names_of_a_tasks_columns() -> None:
    assert TEXT.column_names == {"text": "opinion", "label": "mark"}
    assert Pair(text_b="b").column_names == {"text": "text", "text_b": "b", "label": "label"}
    qa = QuestionAnswering(question="frage", answers="antworten")
    names = {"question": "frage", "context": "context", "answers": "antworten"}
    assert qa.column_names == names
    chat = Chat(template="qwen", messages="turns", tools="functions")
    assert chat.column_names == {"messages": "turns", "tools": "functions"}
    assert CHAT.column_names == {"messages": "messages"}
    pairs = Preference(template="plain", chosen_column="good")
    names = {"prompt": "prompt", "chosen": "good", "rejected": "rejected"}
    assert pairs.column_names == Rated(pairs=pairs).column_names == names


def test_a_table_without_a_header_line_has_the_runs_columns(tmp_path: Path) -> None:
    own = CSV.replace(columns=("review", "stars"))
    data = RecordData(source=own, task=Classification())
    files = {"a.csv": '"a, b",x\nc,y\n', "one.csv": "d,x\n", "named.csv": "stars,review\nx,e\n"}
    paths = written(tmp_path, files)
    texts = []
    for path in paths:
        found = detect([path], with_text=False, **own_settings(own))
        measured = measured_source(found, data)
        asked = unanswered_source(found, ("text",), own)
        records = read(measured, ("text", "label"))
        assert read(asked, ("text",)) == [{"text": record["text"]} for record in records]
        texts.append([(record["text"], record["label"]) for record in records])
        has_none = not path.endswith("named.csv")
        assert found_in(asked, ("text",)).endswith(" without a header line, utf-8") == has_none
    assert texts == [[("a, b", "x"), ("c", "y")], [("d", "x")], [("e", "x")]]
    short = written(tmp_path, {"short.csv": "d\ne\n"})
    found = detect(short, with_text=False, **own_settings(own))
    with pytest.raises(UserError, match="short.csv: has the columns d: no format fits"):
        read(unanswered_source(found, ("text",), own), ("text",))
