"""`jaxlm init` makes a config that trains, and `jaxlm eval --data` measures on another file."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from jaxlm.cli import main
from jaxlm.core.registry import type_name
from jaxlm.data.formats.shapes import SHAPES
from jaxlm.data.tokenizers.base import Bytes
from jaxlm.run import load_run

SMALL = ("model.hidden_size=32", "model.num_layers=1", "mesh.num_devices=1", "sample.max_tokens=4")
SMALL += ("train.epochs=null", "train.steps=3", "train.batch_size=8", "logging.tensorboard=false")
SMALL += ("optimizer.schedule={type: constant}",)


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder to be in, with texts in `my` and a table of labelled reviews."""
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    words = ["king", "rose", "spoke", "of", "war", "peace", "love", "and", "the", "sea"]
    (tmp_path / "my").mkdir()
    for i in range(6):
        text = "\n".join(" ".join(draw.choices(words, k=12)) for _ in range(20))
        (tmp_path / "my" / f"{i}.txt").write_text(text)
    kinds = {"pos": ["good", "fine", "great"], "neg": ["bad", "poor", "dull"]}
    rows = [f"{' '.join(draw.choices(kinds[k], k=6))};{k}" for k in ("pos", "neg") * 40]
    (tmp_path / "reviews.csv").write_text("review;stars\n" + "\n".join(rows))
    return tmp_path


def test_a_language_model_of_ones_own_texts(here, capsys):
    files = sorted(map(str, Path("my").glob("*.txt")))
    assert main(["init", *files]) == 0
    said = capsys.readouterr()
    assert said.out == "wrote my.yaml; next: jaxlm train my.yaml\n"
    assert "6 files (text, utf-8)" in said.err and "task: a language model" in said.err
    config = load_run("my.yaml").config
    assert config.data.source.files == ("my/*.txt",)  # as many files are not listed one by one
    before = Path("my.yaml").read_bytes()
    assert main(["init", *files]) == 2 and Path("my.yaml").read_bytes() == before
    assert "my.yaml: exists already; name another file with --out, or add --force" in (
        capsys.readouterr().err
    )
    assert main(["init", "--force", *files[:1], "--out", "my.yaml"]) == 0
    assert Path("my.yaml").read_bytes() != before
    assert main(["init", "--force", *files]) == 0 and Path("my.yaml").read_bytes() == before
    # files that are measured have no training split, which baselines need
    assert main(["train", "my.yaml", *SMALL, "eval.baseline=false"]) == 0
    capsys.readouterr()

    # the validation split's own file, named by itself, gives the split's own figures
    assert main(["eval", "runs/my", "--json"]) == 0
    split = json.loads(capsys.readouterr().out)["final"]
    held = json.loads(Path("runs/my/data_manifest.json").read_text())["splits"]["validation"]
    sizes = {len(Path(file).read_bytes()): file for file in files}
    (Path("my") / "0.txt").rename("elsewhere.txt")  # the run's own texts are not read
    file = sizes[held["bytes"]].replace("my/0.txt", "elsewhere.txt")
    assert main(["eval", "runs/my", "--data", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["final"] == pytest.approx(split, rel=1e-6)


def test_a_classifier_of_ones_own_table(here, capsys):
    assert main(["init", "reviews.csv"]) == 0
    said = capsys.readouterr()
    assert "classification by 'stars' (2 classes: neg, pos)" in said.err
    assert main(["train", "reviews.yaml", *SMALL]) == 0
    capsys.readouterr()
    lines = Path("reviews.csv").read_text().splitlines()[1:]
    other = [dict(zip(("review", "stars"), line.split(";"), strict=True)) for line in lines[:9]]
    Path("other.jsonl").write_text("\n".join(map(json.dumps, other)))
    assert main(["eval", "runs/reviews", "--data", "other.jsonl", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    table = found["confusion"]["table"]
    assert [sum(row) for row in table] == [4, 5]  # true classes: neg, pos
    assert found["final"]["eval/accuracy"] == pytest.approx((table[0][0] + table[1][1]) / 9)
    # the same records in other formats, whose labels are the run's classes
    Path("other.json").write_text(json.dumps(other))
    lines = [f"__label__{one['stars']} {one['review']}\n" for one in other]
    Path("other.txt").write_text("".join(lines))
    for file, form in (("other.json", "classification"), ("other.txt", "fasttext")):
        assert main(["eval", "runs/reviews", "--data", file, "--json"]) == 0
        said = capsys.readouterr()
        assert f"{file}: {form} (" in said.err
        assert json.loads(said.out)["confusion"]["table"] == table
    bare = [f"{one['review']},{one['stars']}\n" for one in other]
    Path("headless.csv").write_text("".join(bare))
    assert main(["init", "headless.csv"]) == 0
    said = capsys.readouterr().err
    assert "columns: text, label (the files have no header line); the text is 'text'" in said
    assert "found: 9 rows" in said
    source = load_run("headless.yaml").config.data.source
    assert source.columns == ("text", "label") and source.label_column == "label"
    Path("odd.csv").write_text("review,stars\n" + "good,pos\nbad,unknown\nbad,neg\n" * 3)
    Path("bare.csv").write_text("review\ngood\nbad\n")
    for file, says in (
        ("odd.csv", "not classes: unknown"),
        ("bare.csv", "no column stars among review"),
        ("my/1.txt", "text gives text, and the task reads text and label"),
        ("nothing.csv", "no such file"),
    ):
        assert main(["eval", "runs/reviews", "--data", file]) == 2
        *_, line = capsys.readouterr().err.splitlines()  # after what preparing reports
        assert line.startswith("error: ") and says in line


SPAN = {"text": ["Rome"], "answer_start": [13]}
RECORDS = {
    "chat": {"instruction": "Say {}.", "output": "It is {}."},
    "prompt_completion": {"prompt": "{} + 1 =", "completion": " a number"},
    "question_answering": {"context": "The king of  Rome, {}.", "question": "Of?", "answers": SPAN},
    "tagging": {"tokens": ["EU", "rejects", "{}"], "ner_tags": ["B-ORG", "O", "O"]},
    "translation": {"translation": {"en": "house {}", "de": "Haus {}"}},
    "preference": {"prompt": "Say {}.", "chosen": "{}", "rejected": "no"},
    "kto": {"prompt": "Say {}.", "completion": "{}", "label": True},
}


def write_records(name: str) -> None:
    line = json.dumps(RECORDS[name])
    lines = [line.replace("{}", f"{i} of it") for i in range(40)]
    Path(f"{name}.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("name", "task", "objective"),
    [
        ("chat", "chat", "causal_lm"),
        ("prompt_completion", "prompt_completion", "causal_lm"),
        ("question_answering", "question_answering", "question_answering"),
        ("tagging", "tagging", "tagging"),
        ("translation", "translation", "causal_lm"),
        ("preference", "preference", "orpo"),
        ("kto", "kto", "kto"),
    ],
)
def test_a_recognised_format_decides_on_the_task(here, capsys, name, task, objective):
    write_records(name)
    assert main(["init", f"{name}.jsonl"]) == 0
    assert f"format: {name}.jsonl: " in capsys.readouterr().err
    config = load_run(f"{name}.yaml").config
    assert type_name(type(config.data.task)) == task
    assert type_name(type(config.objective)) == objective
    assert config.model.attention.is_causal == (objective in ("causal_lm", "orpo", "kto"))
    records = config.data.source
    assert {*config.data.task.columns} <= {
        *next(records.whole(records.units()[0], (), Counter()))[1]
    }


def test_tools_of_a_chat_are_read(here, capsys):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    tools = [{"type": "function", "function": {"name": "add"}}]
    talks = [[{"role": "user", "content": f"Add {n}."}, answer] for n in range(40)]
    rows = [
        {"messages": talk, **({"tools": tools} if n % 2 else {})} for n, talk in enumerate(talks)
    ]
    Path("chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["init", "chat.jsonl"]) == 0
    data = load_run("chat.yaml").config.data
    assert data.task.columns == ("messages", "tools")
    lines: list[str] = []
    data.replace(seq_len=1024).prepare(Bytes(), Path("cache"), report=lines.append)
    assert any("openai (messages, tools), 40 records -> chat" in line for line in lines)


def test_a_chat_model_of_ones_own_instructions(here, capsys):
    write_records("chat")
    assert main(["init", "chat.jsonl"]) == 0
    assert main(["train", "chat.yaml", *SMALL]) == 0
    assert "eval/loss" in capsys.readouterr().out


def test_a_format_without_a_task_is_named(here, capsys, monkeypatch):
    monkeypatch.setitem(SHAPES, "kto", replace(SHAPES["kto"], start=None))
    write_records("kto")
    assert main(["init", "kto.jsonl"]) == 2
    assert "kto.jsonl: kto (" in capsys.readouterr().err
    assert not Path("kto.yaml").exists()


def labelled_rows() -> dict[str, tuple[str, str, str]]:
    """{file: (its text, the task, the objective)} of labels that are not classes of one text."""
    draw = random.Random(0)
    say = lambda: " ".join(draw.choices(["red", "cat", "sleeps", "big"], k=4))  # noqa: E731
    pairs = [f"{say()}\t{say()}\t{kind}" for kind in ("same", "other") * 20]
    near = [f"{say()},{say()},{draw.random():.3f}" for _ in range(40)]
    few = [f"{say()},{say()},{n % 4 / 3:.3f}" for n in range(40)]
    marks = [f"{say()}\t{n % 3}.5" for n in range(40)]
    lists = [json.dumps({"text": say(), "labels": ["a", "b"][: 1 + n % 2]}) for n in range(40)]
    return {
        "rte.tsv": ("\n".join(["sentence1\tsentence2\tlabel", *pairs]), "pair", "classification"),
        "sts.csv": ("\n".join(["sentence1,sentence2,score", *near]), "regression", "regression"),
        "few.csv": ("\n".join(["sentence1,sentence2,score", *few]), "regression", "regression"),
        "marks.tsv": ("\n".join(["text\tscore", *marks]), "regression", "regression"),
        "topics.jsonl": ("\n".join(lists), "multi_label", "multi_label"),
    }


@pytest.mark.parametrize("name", labelled_rows())
def test_labels_of_pairs_and_numbers_and_lists_have_their_tasks(here, capsys, name):
    text, task, objective = labelled_rows()[name]
    Path(name).write_text(text + "\n")
    assert main(["init", name, "--out", "own.yaml"]) == 0
    config = load_run("own.yaml").config
    assert type_name(type(config.data.task)) == task
    assert type_name(type(config.objective)) == objective
    assert getattr(config.data.task, "text_b", None) == ("text_b" if "sentence2" in text else None)
    assert main(["data", "inspect", "own.yaml", "--rows", "1"]) == 0
