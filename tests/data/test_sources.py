"""Sources against Python's own readers; their errors; what is left out is counted."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import pickle
import random
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from jaxlm.core.config import UserError, parse, to_dict
from jaxlm.data.reading import compressed as compressed_files
from jaxlm.data.reading.archives import read_members
from jaxlm.data.reading.labels import LabelBin
from jaxlm.data.reading.text import decode, lines, split_documents
from jaxlm.data.sources.array_record import ArrayRecord
from jaxlm.data.sources.base import Document, Source, empty_corpus
from jaxlm.data.sources.csv import Csv
from jaxlm.data.sources.jsonl import JsonLines
from jaxlm.data.sources.package import PackageFiles, package_members
from jaxlm.data.sources.parquet import Parquet
from jaxlm.data.sources.stdlib import StandardLibrary
from jaxlm.data.sources.synthetic import Synthetic
from jaxlm.data.sources.text import TextFiles
from tests.data.test_fetch import sdist, sha256, tar_bytes  # noqa: F401

WEIRD = "line\r\nnext\u2028same \t  \u2581 é e\u0301 🙂\x0b\n\n tail"


def documents_of(source) -> list[Document]:
    """All documents, read in three ways that must agree: whole, by units, by pickled units."""
    whole = list(source.documents())
    by_units = [d for unit in source.units() for d in unit.documents()]
    pickled = [d for unit in pickle.loads(pickle.dumps(source.units())) for d in unit.documents()]
    assert whole == by_units == pickled
    assert len({d.name for d in whole}) == len(whole)
    assert parse(Source, to_dict(source)) == source
    return whole


def zstd(data: bytes) -> bytes:
    return pytest.importorskip("pyarrow").compress(data, codec="zstd", asbytes=True)


def compressed(path: Path, data: bytes) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".zst":
        path.write_bytes(zstd(data[:100]) + zstd(data[100:]))  # 2 frames
    elif path.suffix == ".bz2":
        path.write_bytes(bz2.compress(data[:100]) + bz2.compress(data[100:]))
    elif path.suffix == ".xz":
        path.write_bytes(lzma.compress(data[:100]) + lzma.compress(data[100:]))
    else:
        path.write_bytes(data)
    return path


# ---------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("ending", [".txt", ".txt.gz", ".txt.zst", ".txt.bz2", ".txt.xz"])
def test_text_files_come_back_exactly(tmp_path, ending):
    texts = {f"{n}/t{n}{ending}": WEIRD * (n + 1) for n in range(3)}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir()
        compressed(tmp_path / name, text.encode())
    found = documents_of(TextFiles(files=(f"{tmp_path}/**/*{ending}",)))
    assert [(d.name, d.text, d.label) for d in found] == [(k, v, None) for k, v in texts.items()]


def test_names_do_not_depend_on_where_the_files_lie(tmp_path, monkeypatch):
    prints = set()
    for home in ("one", "two/deeper"):
        (tmp_path / home / "b").mkdir(parents=True)
        (tmp_path / home / "a.txt").write_text("a")
        (tmp_path / home / "b" / "c.txt").write_text("c")
        source = TextFiles(files=(f"{tmp_path}/{home}/**/*.txt",))
        assert [d.name for d in documents_of(source)] == ["a.txt", "b/c.txt"]
        prints.add(source.fingerprint())
        monkeypatch.chdir(tmp_path / home)
        assert [d.name for d in documents_of(TextFiles(files=("*.txt", "b/c.txt")))] == [
            "a.txt",
            "c.txt",
        ]
    assert len(prints) == 1
    both = TextFiles(files=(f"{tmp_path}/one/*.txt", f"{tmp_path}/two/deeper/*.txt"))
    assert len(documents_of(both)) == 2  # both named a.txt: whole paths tell them apart


def test_the_fingerprint_sees_names_contents_and_options(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc")
    source = TextFiles(files=(f"{tmp_path}/*.txt",))
    seen = {source.fingerprint(), source.replace(document_separator="|").fingerprint()}
    path.write_text("abd")
    seen.add(source.fingerprint())
    path.rename(tmp_path / "b.txt")
    seen.add(source.fingerprint())
    (tmp_path / "c.txt").write_text("")
    seen.add(source.fingerprint())
    assert len(seen) == 5


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
def test_streaming_equals_reading_whole(monkeypatch, block):
    monkeypatch.setattr(compressed_files, "BLOCK", block)
    rng = random.Random(block)
    for separator in ("|", "<|end|>", "aab"):
        parts = ["".join(rng.choices("aab|<>en d\n\ré🙂", k=rng.randrange(20))) for _ in range(30)]
        text = separator.join(parts)
        for encoding in ("utf-8", "utf-16"):
            pieces = list(decode(io.BytesIO(text.encode(encoding)), "x", encoding))
            assert "".join(pieces) == text
            assert list(split_documents(pieces, separator)) == text.split(separator)
            assert list(lines(pieces)) == list(io.StringIO(text, newline="\n"))


def test_documents_between_separators(tmp_path):
    (tmp_path / "a.txt").write_text("one<|e|>two\n<|e|> \n<|e|><|e|>three<|e|>")
    source = TextFiles(files=(f"{tmp_path}/a.txt",), document_separator="<|e|>")
    assert [(d.name, d.text) for d in documents_of(source)] == [
        ("a.txt#0", "one"),
        ("a.txt#1", "two\n"),
        ("a.txt#4", "three"),
    ]
    counts: Counter[str] = Counter()
    list(source.documents(counts))
    assert counts == {"blank": 1}  # the one of white space; nothing between separators is nothing


@pytest.mark.parametrize("block", [4, 1 << 20])
def test_invalid_bytes_name_file_and_offset(tmp_path, monkeypatch, block):
    monkeypatch.setattr(compressed_files, "BLOCK", block)
    for good in ("", "é" * 5 + "abc", "🙂" * 7):
        data = good.encode() + b"\xe9t\xe9 and more"
        path = tmp_path / "old.txt"
        path.write_bytes(data)
        offset = len(good.encode())
        with pytest.raises(
            UserError, match=rf"old\.txt: byte 0xe9 at offset {offset} is not utf-8"
        ):
            list(TextFiles(files=(str(path),)).documents())
        found = documents_of(TextFiles(files=(str(path),), encoding="latin-1"))
        assert found[0].text == data.decode("latin-1")
    path.write_bytes("ends in the middle: 🙂".encode()[:-1])
    with pytest.raises(UserError, match=r"at offset 20 is not utf-8 \(unexpected end of data\)"):
        list(TextFiles(files=(str(path),)).documents())


def test_text_errors_name_the_fix(tmp_path):
    def fails(match: str, *names: str, **options) -> None:
        with pytest.raises(UserError, match=match) as error:
            files = tuple(str(tmp_path / name) for name in names)
            list(TextFiles(files=files, **options).documents())
        assert "\n" not in str(error.value)

    (tmp_path / "corpus.txt").write_text("text")
    (tmp_path / "blank.txt").write_text(" \n\t\n")
    (tmp_path / "nul.txt").write_bytes(b"ab\0cd")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0\0")
    fails(r"\*\.md: matches no file", "*.md")
    fails(r"corpsu\.txt: no such file; did you mean .*corpus\.txt\?", "corpsu.txt")
    fails(
        r"made/corpus\.txt: no such file, and no folder .*made; check the path", "made/corpus.txt"
    )
    os.mkfifo(tmp_path / "pipe")
    fails("pipe: is a pipe or a device, which can be read only once; write its content", "pipe")
    fails(r"other\.md: no such file; check the path$", "other.md")  # no list of unlike names
    fails("is a folder; name its files", "")
    fails("blank.txt: no documents .1 blank left out.", "blank.txt")
    for name in ("nul.txt", "picture.png"):
        fails(f"{name}: a binary file", name)
    for encoding in ("utf-9", "a\0b", ""):
        with pytest.raises(UserError, match="unknown encoding '.*'; use utf-8"):
            parse(Source, {"type": "text", "files": "a", "encoding": encoding})
    with pytest.raises(UserError, match="document_separator is empty"):
        parse(Source, {"type": "text", "files": "a", "document_separator": ""})


# ---------------------------------------------------------------------------------------- rows

ROWS = [
    {"id": n, "text": text, "score": score, "ok": n % 2 == 0}
    for n, (text, score) in enumerate(
        [('good, "so" to say', 1.5), ("two\nlines\t", -2.0), ("  ", 3.0), (WEIRD, 0.2), ("ü", -0.5)]
    )
]
BINS = (LabelBin(name="bad", below=-0.5), LabelBin(name="good", above=0.5))


def write_jsonl(path: Path) -> None:
    compressed(path, "".join(json.dumps(row) + "\n" for row in ROWS).encode())


def write_csv(path: Path) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(ROWS[0]))
    writer.writeheader()
    writer.writerows(ROWS)
    compressed(path, out.getvalue().encode())


def write_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=2)


def write_array_record(path: Path) -> None:
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for row in ROWS:
        writer.write(json.dumps(row).encode())
    writer.close()


KINDS = [
    (JsonLines, "r.jsonl", write_jsonl, {}),
    (JsonLines, "r.jsonl.gz", write_jsonl, {}),
    (JsonLines, "r.jsonl.zst", write_jsonl, {}),
    (Csv, "r.csv", write_csv, {}),
    (Csv, "r.csv.gz", write_csv, {}),
    (Parquet, "r.parquet", write_parquet, {}),
    (ArrayRecord, "r.array_record", write_array_record, {"record": "json"}),
]


@pytest.mark.parametrize(("kind", "name", "write", "options"), KINDS, ids=[k[1] for k in KINDS])
def test_rows(tmp_path, monkeypatch, kind, name, write, options):
    monkeypatch.setattr(ArrayRecord, "records_per_unit", 2)
    write(tmp_path / name)
    source = kind(files=(f"{tmp_path}/{name}",), **options)
    kept = [row for row in ROWS if row["text"].strip()]
    assert [d.text for d in documents_of(source)] == [row["text"] for row in kept]

    labelled = source.replace(label_column="score", label_bins=BINS)
    counts: Counter[str] = Counter()
    assert [(d.text, d.label) for d in labelled.documents(counts)] == [
        (ROWS[0]["text"], "good"),
        (ROWS[1]["text"], "bad"),
    ]  # -0.5 is not below -0.5
    assert +counts == {"blank": 1, "in no label bin": 2}

    mapped = source.replace(label_column="id", label_map={"0": "zero", "4": "four"})
    counts = Counter()
    assert [d.label for d in mapped.documents(counts)] == ["zero", "four"]
    assert +counts == {"blank": 1, "not in label_map": 2}

    spelling = {d.label.lower() for d in source.replace(label_column="ok").documents()}
    assert spelling == {"true", "false"}
    with pytest.raises(UserError, match=r"no column 'txt'; did you mean text\?"):
        list(source.replace(text_column="txt").documents())
    with pytest.raises(UserError, match="no column 'scores'; did you mean score"):
        list(source.replace(label_column="scores").documents())
    if kind is not Csv:
        with pytest.raises(UserError, match="column 'id' holds a int, not text"):
            list(source.replace(text_column="id").documents())
    with pytest.raises(UserError, match="holds '?good.*not a number; .* label_map"):
        list(source.replace(label_column="text", label_bins=BINS).documents())
    never = source.replace(label_column="score", label_bins=(LabelBin(name="x", above=99.0),))
    with pytest.raises(UserError, match="no documents .1 blank, 4 in no label bin left out."):
        list(never.documents())


def test_rows_name_their_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n\n{"text": "y"}\n{"text": null}\n')
    source = JsonLines(files=(f"{tmp_path}/a.jsonl",))
    assert [d.name for d in documents_of(source)] == ["a.jsonl:1", "a.jsonl:3"]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"text": "x"', r"a\.jsonl:2: not JSON \(.* at column 13\)"),
        ('["x"]', r"a\.jsonl:2: holds a list"),
        ('{"Text": "x"}', r"a\.jsonl:2: no column 'text'; did you mean Text\?"),
        ('{"text": "a\\ud83d"}', r"a\.jsonl:2: half a surrogate pair \(\\ud83d\)"),
        ("[" * 100_000, r"a\.jsonl:2: not JSON"),
        ('{"text": ' + "1" * 5000 + "}", r"a\.jsonl:2: not JSON .*4,300 digits"),
        ('{"text": "a", "l": "b\\ud83d"}', r"a\.jsonl:2: the label .*surrogate pair \(\\ud83d\)"),
    ],
)
def test_malformed_json_lines(tmp_path, line, match):
    (tmp_path / "a.jsonl").write_text('{"text": "fine", "l": "x"}\n' + line + "\n")
    label = "l" if "label" in match else None
    with pytest.raises(UserError, match=match):
        list(JsonLines(files=(f"{tmp_path}/a.jsonl",), label_column=label).documents())


def test_tab_separated_without_header_or_quoting(tmp_path):
    text = '1\t0.9\t"Quoted" is ordinary\r\n2\t-0.9\topen " mark\r\n'
    (tmp_path / "a.tsv").write_text(text, newline="")
    source = Csv(files=(f"{tmp_path}/a.tsv",), columns=("id", "score", "text"))
    plain = source.replace(quotes=False)
    assert [d.text for d in documents_of(plain)] == ['"Quoted" is ordinary', 'open " mark']
    with pytest.raises(UserError, match=r"a\.tsv:1: 3 cells for 2 columns \(id, text\); fix"):
        list(plain.replace(columns=("id", "text")).documents())
    for quotes in (None, True):  # never read as another text in silence
        with pytest.raises(UserError, match=r"a\.tsv:1: not CSV .* set quotes: false"):
            list(source.replace(quotes=quotes).documents())


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_quoted_cell_with_a_line_break_is_one_text(tmp_path, ending, columns):
    rows = [["text", "id"], ['one\ntwo "so" to say', "1"], ["three", "2"]]
    with open(tmp_path / f"a.{ending}", "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if ending == "tsv" else ",")
        writer.writerows(row[:columns] for row in rows)
    source = Csv(files=(f"{tmp_path}/a.{ending}",))
    assert [d.text for d in documents_of(source)] == [row[0] for row in rows[1:]]


def test_a_stray_quotation_mark_joins_no_rows(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tid\n"open\t1\nplain\t2\nclose"\t3\n')
    source = Csv(files=(f"{tmp_path}/a.tsv",))
    with pytest.raises(UserError, match=r"a\.tsv:4: a quotation mark joins lines .* quotes: false"):
        list(source.documents())
    assert len(documents_of(source.replace(quotes=False))) == 3
    assert len(documents_of(source.replace(quotes=True))) == 1


DOUBLED = [
    (Csv, "a.csv", "text,x,text\na,b,c\n", "a.csv:1: columns 1 and 3 are both named 'text'"),
    (Csv, "a.tsv", "x\tx\ttext\na\tb\tc\n", "a.tsv:1: columns 1 and 2 are both named 'x'"),
    (JsonLines, "a.jsonl", '{"text": "a", "text": "b"}\n', "a.jsonl:1: names the column 'text' t"),
    (ArrayRecord, "a.rec", '{"text": "a", "text": "b"}', "a.rec:0: names the column 'text' twice"),
    (Parquet, "a.parquet", None, "a.parquet: columns 1 and 2 are both named 'text'"),
]


@pytest.mark.parametrize(("kind", "name", "text", "says"), DOUBLED, ids=[d[1] for d in DOUBLED])
def test_a_column_that_is_there_twice(tmp_path, kind, name, text, says):
    options = {}
    if kind is Parquet:
        pyarrow = pytest.importorskip("pyarrow")
        table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
        pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / name)
    elif kind is ArrayRecord:
        module = pytest.importorskip("array_record.python.array_record_module")
        writer = module.ArrayRecordWriter(str(tmp_path / name), "group_size:1")
        writer.write(text.encode())
        writer.close()
        options = {"record": "json"}
    else:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=says):
        list(kind(files=(f"{tmp_path}/{name}",), **options).documents())


def test_labels_are_without_blanks_around_them(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na, neg\nb,neg\nc,\nd,  \n")
    source = Csv(files=(f"{tmp_path}/a.csv",), label_column="label")
    counts: Counter[str] = Counter()
    assert [d.label for d in source.documents(counts)] == ["neg", "neg"]
    assert counts == {"unlabelled": 2}
    assert {d.label for d in source.replace(label_map={"neg": "bad"}).documents()} == {"bad"}


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_delimiter_is_named(tmp_path, mark):
    spelt = "\\\\t" if mark == "\t" else f"[{mark}]"
    (tmp_path / "a.csv").write_text(f"label{mark}text\npos{mark}good, and well\n")
    with pytest.raises(UserError, match=f'set delimiter: "{spelt}"'):
        list(Csv(files=(f"{tmp_path}/a.csv",)).documents())
    (tmp_path / "b.csv").write_text(f"label{mark}text\npos{mark}good\n")
    with pytest.raises(UserError, match=f'no column .* set delimiter: "{spelt}"'):
        list(Csv(files=(f"{tmp_path}/b.csv",)).documents())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_text_names_its_encoding(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("a plain text with words\n".encode(encoding))
    source = TextFiles(files=(f"{tmp_path}/a.txt",))
    with pytest.raises(UserError, match=f"set encoding: {encoding}$") as error:
        list(source.documents())
    right = str(error.value).rpartition(" ")[2]
    assert documents_of(source.replace(encoding=right))[0].text == "a plain text with words\n"


def test_large_cells_and_other_delimiters(tmp_path):
    large = "word " * 100_000
    (tmp_path / "a.csv").write_text(f"n;text\n1;{large}\n")
    source = Csv(files=(f"{tmp_path}/a.csv",), delimiter=";")
    assert documents_of(source)[0].text == large
    with pytest.raises(UserError, match="must be one character"):
        parse(Source, to_dict(source) | {"delimiter": "ab"})


def test_label_rules_are_checked():
    base = {"type": "jsonl", "files": "a"}
    for extra, match in (
        ({"label_bins": [{"name": "x", "above": 1}]}, "set label_column"),
        ({"label_column": "a", "label_bins": [{"name": "x"}]}, "has no limit"),
        ({"label_column": "a", "label_bins": [{"name": "x", "above": 1, "below": 0}]}, "is empty"),
        (
            {
                "label_column": "a",
                "label_map": {"1": "x"},
                "label_bins": [{"name": "x", "above": 1}],
            },
            "cannot both be set",
        ),
    ):
        with pytest.raises(UserError, match=match):
            parse(Source, base | extra)


def test_files_that_are_not_what_their_source_expects(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a").write_text("plain text, not a table" * 100)
    with pytest.raises(UserError, match="a: not a Parquet file"):
        list(Parquet(files=(f"{tmp_path}/a",)).documents())
    with pytest.raises(UserError, match="a: cannot be read as ArrayRecord"):
        list(ArrayRecord(files=(f"{tmp_path}/a",)).documents())


def test_array_record_of_plain_texts(tmp_path):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:4")
    for record in (b"one", WEIRD.encode(), b"\xff"):
        writer.write(record)
    writer.close()
    found = ArrayRecord(files=(f"{tmp_path}/a.array_record",)).documents()
    assert next(found) == Document("one", "a.array_record:0")
    assert next(found) == Document(WEIRD, "a.array_record:1")
    with pytest.raises(UserError, match="a.array_record:2: byte 0 of the record is not UTF-8"):
        next(found)


# ------------------------------------------------------------------------------------- corpora


def test_package_files(sdist):  # noqa: F811
    source = PackageFiles(
        requirement="bardtexts==1.0", sha256=sha256(sdist), files=("texts/*_gut.txt",)
    )
    assert {d.name: d.text for d in documents_of(source)} == {
        name: content.decode() for name, content in read_members(sdist, source.files).items()
    }
    scored = source.replace(
        files=("extra/scores.tar.gz!s.txt",),
        format="tsv",
        columns=("id", "score", "text"),
        label_column="score",
        label_bins=BINS,
    )
    assert [(d.text, d.label) for d in documents_of(scored)] == [
        ("dull", "bad"),
        ("bright", "good"),
    ]
    with pytest.raises(UserError, match="a text has no column 'score'; set it to file or folder"):
        parse(Source, to_dict(scored) | {"format": "text"})
    assert "package source bardtexts==1.0" in str(empty_corpus(source, Counter()))
    lines = source.replace(
        document_separator="\n", label_column="file", label_map={"a_gut": "a", "b_gut": "b"}
    )
    assert [(d.text, d.label) for d in documents_of(lines)] == [
        ("To be,", "a"),
        ("or not to be", "a"),
        ("été", "b"),
    ]
    by_folder = lines.replace(label_column="folder", label_map={})
    assert [record["label"] for _, record in by_folder.records(("text", "label"))] == ["texts"] * 3


def test_package_file_errors_name_package_and_file(sdist):  # noqa: F811
    sdist.write_bytes(tar_bytes({"bardtexts-1.0/a.txt": b"\xff"}))
    cache = Path(sdist.parent.parent, "cache", "packages", f"bardtexts-1.0-{sha256(sdist)[:12]}")
    cache.mkdir(parents=True)
    (cache / sdist.name).write_bytes(sdist.read_bytes())
    package_members.cache_clear()
    source = PackageFiles(requirement="bardtexts==1.0", sha256=sha256(sdist), files=("a.txt",))
    with pytest.raises(UserError, match=r"bardtexts==1\.0: a\.txt: byte 0xff at offset 0"):
        list(source.documents())


def test_the_standard_library():
    source = StandardLibrary()
    names = [unit.name for unit in source.units()]
    assert names == sorted(names) and {"os.py", "json/decoder.py", "idlelib/pyshell.py"} < set(
        names
    )
    assert not [n for n in names if "site-packages" in n or "/test/" in f"/{n}"]
    root = Path(sysconfig.get_paths()["stdlib"])
    unit = source.units()[names.index("os.py")]
    assert list(unit.documents())[0].text == (root / "os.py").read_text("utf-8")
    counts: Counter[str] = Counter()
    assert len(list(source.documents(counts))) + counts["blank"] == len(names)


def test_synthetic_text_is_the_same_everywhere():
    source = Synthetic(num_documents=150, words_per_document=40, seed=3, labels=("a", "b"))
    found = documents_of(source)
    assert len(found) == 150 and [d.label for d in found[:3]] == ["a", "b", "a"]
    assert all(len(d.text.split()) == 40 for d in found)
    assert source.fingerprint() == source.replace().fingerprint()
    assert source.replace(seed=4).fingerprint() != source.fingerprint()
    assert list(source.replace(seed=4).documents()) != found
    # The words of a class tell it: a vote of per-word majorities on the second half beats chance.
    votes: dict[str, Counter[str]] = {}
    for d in found[:75]:
        for word in d.text.split():
            votes.setdefault(word, Counter())[d.label] += 1
    right = sum(
        (sum((votes[w]["a"] - votes[w]["b"]) for w in d.text.split() if w in votes) > 0)
        == (d.label == "a")
        for d in found[75:]
    )
    assert right > 65
