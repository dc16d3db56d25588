"""What a user's files are taken for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxlm.core.config import UserError
from jaxlm.data.detect import detect, source_of
from jaxlm.data.sources.text import TextFiles

CHINESE = "床前明月光,疑是地上霜。举头望明月,低头思故乡。\n" * 5
GERMAN = "Wer reitet so spät durch Nacht und Wind? Über Flüsse und Hügel.\n" * 5
RUSSIAN = "Я помню чудное мгновенье.\n"


def written(folder: Path, **files: str | bytes) -> list[str]:
    """Files by name, with __ for the dot; returns their paths."""
    paths = []
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        paths.append(str(path))
    return paths


@pytest.mark.parametrize(
    ("text", "encoding", "script"),
    [
        (GERMAN, "utf-8", "LATIN"),
        (GERMAN, "cp1252", "LATIN"),
        (GERMAN, "utf-16", "LATIN"),
        (CHINESE, "utf-8", "CJK"),
        (CHINESE, "gb18030", "CJK"),
        (RUSSIAN, "utf-8", "CYRILLIC"),
    ],
)
def test_the_encoding_and_the_script_of_texts(tmp_path, text, encoding, script):
    found = detect(written(tmp_path, a__txt=text.encode(encoding)))
    assert (found.kind, found.encoding, found.script) == ("text", encoding, script)
    assert found.num_chars == len(text) and found.num_texts == 1
    assert source_of(found).get("encoding", "utf-8") == encoding


def test_an_error_names_the_encoding_that_a_file_probably_has(tmp_path):
    for text, encoding, hint in (
        (CHINESE, "gb18030", "this looks like gb18030"),
        (GERMAN, "cp1252", "old files are often latin-1"),
    ):
        files = written(tmp_path, a__txt=text.encode(encoding))
        with pytest.raises(UserError, match=f"set the source's encoding .{hint}"):
            list(TextFiles(files=tuple(files)).documents())


def test_a_single_text_is_divided_at_blank_lines_or_else_at_lines(tmp_path):
    paragraphs = written(tmp_path, a__txt="a line\nand another\n\n" * 30)
    assert detect(paragraphs).separator == "\n\n"
    assert detect(written(tmp_path, b__txt="a line\n" * 30)).separator == "\n"
    assert detect(written(tmp_path, c__txt="a line of text")).separator is None
    many = written(tmp_path, **{f"m{i}__txt": "a line\n\n" * 30 for i in range(4)})
    assert detect(many).separator is None


ROWS = [(f"{i}", f"the review number {i} is long", "good" if i % 3 else "bad") for i in range(30)]


def table(delimiter: str, *columns: str) -> str:
    return "".join(delimiter.join(row) + "\n" for row in [columns, *ROWS])


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a__csv", table(",", "id", "text", "label"), ("text", "label")),
        ("a__csv", table(";", "id", "review", "stars"), ("review", "stars")),
        ("a__tsv", table("\t", "nr", "words", "kind"), ("words", "kind")),
        (
            "a__jsonl",
            "".join(json.dumps({"body": t, "class": k}) + "\n" for _, t, k in ROWS),
            ("body", "class"),
        ),
        ("a__csv", "id,text\n" + "".join(f"{i},{t}\n" for i, t, _ in ROWS), ("text", None)),
    ],
    ids=["comma", "semicolon", "tab, other names", "json lines", "no label"],
)
def test_the_columns_of_a_table(tmp_path, name, content, columns):
    found = detect(written(tmp_path, **{name: content}))
    assert (found.text_column, found.label_column) == columns
    assert found.num_texts == 30 and found.num_chars == sum(len(t) for _, t, _ in ROWS)
    assert found.classes == (("bad", "good") if columns[1] else ())
    assert found.delimiter == (";" if ";" in content else None)


def test_few_rows_have_a_label_where_its_column_is_named_so(tmp_path):
    rows = "good film,{0}\nbad film,{1}\nfine one,{0}\ndull one,{1}\n".format("pos", "neg")
    assert detect(written(tmp_path, a__csv=f"text,label\n{rows}")).classes == ("neg", "pos")
    assert detect(written(tmp_path, b__csv=f"text,kind\n{rows}")).label_column is None


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a__txt": "text", "b__csv": "text\na"}, r"several kinds \(.*b.csv is csv.*; name files"),
        ({"a__txt": " \n"}, "holds no text; name"),
        ({"a__csv": "text,label\n"}, "holds no rows; name"),
        ({"a__csv": "x,y\n1,\n"}, "no column of texts"),
        ({"a__txt": b"\x00\x01\x02"}, "a.txt.*binary"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_files_that_are_not_data_are_one_line(tmp_path, files, says):
    with pytest.raises(UserError, match=says) as error:
        detect(written(tmp_path, **files))
    assert "\n" not in str(error.value)
