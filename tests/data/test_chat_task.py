"""Conversations, and prompts with completions, as rows: weights, cuts, splits, errors, packing."""

from __future__ import annotations

import hashlib
import itertools
import json

import numpy as np
import pytest

from jaxlm.core.config import UserError, parse
from jaxlm.data.prompt_formats.base import Ends
from jaxlm.data.prompt_formats.chat import Chat as ChatPrompt
from jaxlm.data.prompt_formats.continuation import Continuation
from jaxlm.data.records import RecordData
from jaxlm.data.sources.files import Files
from jaxlm.data.sources.jsonl import JsonLines
from jaxlm.data.tokenizers.base import Bytes, ByteTokenizer, load_tokenizer
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.tasks.base import Task
from jaxlm.tasks.chat import Chat
from jaxlm.tasks.conversations import word_f1
from jaxlm.tasks.kto import KTO
from jaxlm.tasks.prompt_completion import PromptCompletion
from jaxlm.tasks.prompts import Prompts


def talk(*texts: str, **last) -> dict:
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
    messages[-1] |= last
    return {"messages": messages}


@pytest.fixture
def prepare(tmp_path):
    def run(records, task, **options):
        path = tmp_path / "records.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        options = {"seq_len": 96, "validation_fraction": 0, "shuffle": False} | options
        data = RecordData(source=JsonLines(files=(str(path),)), task=task, **options)
        lines: list[str] = []
        return data.prepare(Bytes(), tmp_path / "cache", report=lines.append), lines

    return run


def trained(prepared, index: int = 0) -> str:
    row = prepared.rows("train", batch_size=1, seed=0)[index]
    kept = row["tokens"][row["loss_weights"] > 0].tolist()
    return prepared.tokenizer.decode([i if i < 256 else ord("$") for i in kept])


def test_answers_are_trained(prepare) -> None:
    prepared, lines = prepare([talk("Hi", "Hello", "Bye", "So long")], Chat(template="plain"))
    assert trained(prepared) == " Hello$ So long$"  # $ is eos
    row = prepared.rows("train", batch_size=1, seed=0)[0]
    tokens = row["tokens"][row["segment_ids"] > 0].tolist()
    tokenizer = prepared.tokenizer
    assert tokens[0] == tokenizer.bos_id and tokens.count(tokenizer.eos_id) == 2
    text = "User: Hi\nAssistant: Hello\nUser: Bye\nAssistant: So long\n"
    assert tokenizer.decode(tokens) == text
    share = len(" Hello$ So long$") / len(tokens)
    assert f"train: {share:.1%} of {len(tokens)} tokens are trained" in lines
    counts = prepared.splits["train"].counts
    assert counts["trained_tokens"] == 16 and counts["tokens"] == len(tokens)


def test_the_loss_counts_the_answers_alone(prepare) -> None:
    prepared, _ = prepare([talk("Hi", "Hello", weight=0.5)], Chat(template="plain"))
    row = prepared.rows("train", batch_size=1, seed=0)[0]
    batch = CausalLM().host_transform(prepared.tokenizer, 0)(row, 0)
    weighed = batch["targets"][batch["loss_weights"] > 0].tolist()
    assert weighed == [*b" Hello", prepared.tokenizer.eos_id]
    assert set(batch["loss_weights"].tolist()) == {0, 0.5}


def test_long_conversations_lose_their_end(prepare) -> None:
    records = [talk("Hi", "a" * 200), talk("b" * 200, "never"), talk("Hi", "Hello")]
    prepared, lines = prepare(records, Chat(template="plain"), seq_len=64)
    counts = prepared.splits["train"].counts
    assert counts["rows"] == 2 and counts["truncated"] == 1 and counts["cut_away"] == 1
    assert any(
        "1 records are left out, whose trained part is beyond data.seq_len" in x for x in lines
    )
    row = prepared.rows("train", batch_size=1, seed=0)[0]
    assert row["tokens"].shape == (65,) and row["segment_ids"].all()
    with pytest.raises(UserError, match="data.seq_len: no record of the train split [^\n]*$"):
        prepare(records[1:2], Chat(template="plain"), seq_len=64)


def test_packed_rows_have_the_weights_of_unpacked_ones(prepare) -> None:
    records = [talk(f"Question {i}", "yes " * (i % 5 + 1)) for i in range(30)]
    alone, _ = prepare(records, Chat(template="plain"))
    packed, _ = prepare(records, Chat(template="plain"), packing="whole")

    def pieces(prepared):
        transform = CausalLM().host_transform(prepared.tokenizer, 0)
        dataset = prepared.rows("train", batch_size=1, seed=0)
        found = []
        for i in range(dataset.rows_per_epoch):
            row = transform(dataset[i], i)
            for segment in range(1, row["segment_ids"].max() + 1):
                own = row["segment_ids"] == segment
                keys = ("tokens", "targets", "loss_weights", "positions")
                trained = own & (row["loss_weights"] > 0)
                found.append([row[k][trained].tolist() for k in keys])
        return dataset.rows_per_epoch, sorted(found)

    (rows, one), (fewer, other) = pieces(alone), pieces(packed)
    assert one == other and len(one) == rows == 30 and fewer < 20


def test_equal_questions_are_on_one_side(prepare) -> None:
    records = [talk(f"Question {i % 9}", f"answer {i}") for i in range(90)]
    prepared, _ = prepare(records, Chat(template="plain"), validation_fraction=0.4)
    sides = []
    for split in prepared.splits.values():
        sides.append({r["messages"][0]["content"] for r in split.rows.records})
    assert len(sides) == 2 and sides[0].isdisjoint(sides[1]) and all(sides)


def test_system_tools_and_texts_of_json(prepare) -> None:
    record = talk("Hi", "Hello")
    record["tools"] = [{"type": "function", "function": {"name": "f"}}]
    task = Chat(template="qwen", tools="tools", system="Be kind.")
    prepared, _ = prepare([{k: json.dumps(v) for k, v in record.items()}], task, seq_len=600)
    row = prepared.rows("train", batch_size=1, seed=0)[0]
    text = prepared.tokenizer.decode(row["tokens"].tolist())
    assert (
        "Be kind.\n\n# Tools" in text and '{"type": "function", "function": {"name": "f"}}' in text
    )
    assert trained(prepared) == "Hello<|im_end|>"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (talk("Hi"), "nothing of this record is trained; its roles are user"),
        (talk("Hi", "Hello", weight=0), "nothing of this record is trained"),
        (talk("Hi", "Hello", role="system"), "message 1 is a system message and not the first"),
        (talk("Hi", "Hello", role="tool"), "message 1 is a tool's and follows user"),
        (talk("Hi", "Hello", weight=-1), "has the weight -1; give a number >= 0"),
        (talk("Hi", "Hello", train="no"), "has train 'no'; give true or false"),
        (talk("Hi", "Hello", content=None), r"message 1 \(assistant\) has no content"),
        (talk("Hi", "x", content=[{"type": "image"}]), "has a part of type image"),
        ({"messages": "Hi"}, "holds no list of messages"),
        ({"messages": [{"from": "human"}]}, "message 0 has no role"),
    ],
)
def test_a_bad_record_is_one_line_with_its_place(prepare, record, message) -> None:
    with pytest.raises(UserError, match=rf"^records\.jsonl:2: [^\n]*{message}[^\n]*$"):
        prepare([talk("Hi", "Hello"), record], Chat(template="plain"))


def test_a_role_out_of_order_for_a_template(prepare) -> None:
    record = {"messages": talk("a")["messages"] * 2 + talk("a", "b")["messages"]}
    with pytest.raises(
        UserError, match=r"^records\.jsonl:1: chat template gemma: roles must [^\n]*$"
    ):
        prepare([record], Chat(template="gemma"))


def test_a_missing_template(prepare) -> None:
    with pytest.raises(
        UserError, match="the tokenizer has no chat template; set data.task.template"
    ):
        prepare([talk("Hi", "Hello")], Chat())
    for values, message in (
        ({"template": "plane"}, "no chat template 'plane'; did you mean plain"),
        ({"template": "plain", "template_file": "a.jinja"}, "both set"),
        ({"roles": []}, "roles is empty"),
    ):
        with pytest.raises(UserError, match=message):
            parse(Task, {"type": "chat", **values})


def test_a_run_does_not_depend_on_a_file_of_its_template(tmp_path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{% for m in messages %}{{ m.content }};{% endfor %}")
    task = Chat(template_file=str(path))
    equipped = task.equipped(Bytes().build(lambda: iter(()), "", tmp_path))
    equipped.save(tmp_path / "tokenizer")
    path.write_text("another")
    again = task.equipped(load_tokenizer(tmp_path / "tokenizer"))
    assert again.chat_template == equipped.chat_template
    path.unlink()
    assert task.equipped(again).chat_template == equipped.chat_template


def test_the_content_has_the_text_of_a_template_and_not_its_folder(prepare, tmp_path) -> None:
    text = "{% for m in messages %}{% generation %}{{ m.content }};{% endgeneration %}{% endfor %}"
    hashes = []
    for folder, template in (("a", text), ("b", text), ("c", text.replace(";", "!"))):
        path = tmp_path / folder / "mine.jinja"
        path.parent.mkdir()
        path.write_text(template)
        prepared, _ = prepare([talk("Hi", "Hello")], Chat(template_file=str(path)))
        hashes.append(prepared.manifest["content"]["train"]["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


# ------------------------------------------------------------------------- prompt and completion


def test_completions_are_trained_over_a_whole_text(prepare) -> None:
    records = [{"prompt": "2 + 2 =", "completion": " 4"}, {"prompt": "é", "completion": "ß"}]
    prepared, lines = prepare(records, PromptCompletion(), seq_len=32)
    assert trained(prepared) == " 4$" and trained(prepared, 1) == "ß$"
    row = prepared.rows("train", batch_size=1, seed=0)[0]
    tokens = row["tokens"][row["segment_ids"] > 0].tolist()
    assert tokens == [prepared.tokenizer.bos_id, *b"2 + 2 = 4", prepared.tokenizer.eos_id]
    assert any("tokens are trained" in line for line in lines)


def test_columns_are_kept_for_rewards(prepare) -> None:
    record = {"prompt": "2+2=", "completion": "4", "tests": ["4", 4], "note": "x"}
    prepared, _ = prepare([record], PromptCompletion(keep=("tests",)))
    kept = {key: record[key] for key in ("prompt", "completion", "tests")}
    assert [*prepared.splits["train"].records_of(0)] == [kept]
    assert trained(prepared) == "4$"
    tagged, _ = prepare([{**record, "label": True}], KTO(keep=("tests",)))
    assert [*tagged.splits["train"].records_of(0)] == [{**kept, "label": True}]
    assert PromptCompletion(keep=("tests",)).asked == ("prompt",)
    assert "keep" not in PromptCompletion().fingerprint()


def test_kept_columns_are_read_of_each_format(tmp_path) -> None:
    rows = [
        {"instruction": "2+2", "output": "4", "solution": "S"},
        {"question": "a", "answer": "b"},
    ]
    for n, row in enumerate(rows):
        (tmp_path / f"{n}.jsonl").write_text(json.dumps({**row, "solution": "S"}) + "\n")
        source = Files(files=(str(tmp_path / f"{n}.jsonl"),))
        ((_, found),) = source.records(PromptCompletion(keep=("solution",)).columns)
        assert found["solution"] == "S" and found["prompt"] and found["completion"]


def test_a_prompt_with_weights_is_not_trained(prepare) -> None:
    parts = [{"type": "text", "text": "Hi", "weight": 1}]
    prompt = [{"role": "user", "content": parts}]
    completion = [{"role": "assistant", "content": "Hello"}]
    record = {"prompt": prompt, "completion": completion}
    prepared, _ = prepare([record], PromptCompletion(template="plain"))
    assert trained(prepared) == " Hello$"


def test_completions_of_messages_and_with_a_template(prepare) -> None:
    user, said = [{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": "Hello"}]
    texts, _ = prepare(
        [{"prompt": "Hi", "completion": "Hello"}], PromptCompletion(template="plain")
    )
    task = PromptCompletion(template="plain")
    lists, _ = prepare([{"prompt": user, "completion": said}], task)
    earlier, _ = prepare([{"prompt": [*user, *said, *user], "completion": said}], task)
    assert trained(texts) == trained(lists) == trained(earlier) == " Hello$"
    rows = [p.rows("train", batch_size=1, seed=0)[0]["tokens"] for p in (texts, lists)]
    np.testing.assert_array_equal(*rows)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "completion": []}, "not both texts or both lists"),
        ({"prompt": [], "completion": 3}, "column 'completion' holds a int; give a text"),
        (
            {"prompt": [], "completion": [{"role": "user", "content": "a"}]},
            "nothing of this record",
        ),
    ],
)
def test_a_bad_pair_is_one_line_with_its_place(prepare, record, message) -> None:
    with pytest.raises(UserError, match=rf"^records\.jsonl:1: [^\n]*{message}[^\n]*$"):
        prepare([record], PromptCompletion(template="plain"))


def test_answers_are_graded_and_scored() -> None:
    record = talk("Hi", "Hello there")
    task = Chat()
    assert json.loads(task.prompt(record)) == record["messages"][:1]
    assert task.grade(record, " Hello there\n") == 1 and task.grade(record, "Hello") == 0
    scores = {m.name: m.value for m in task.score(["Hello", "Hello there"], [record, record])}
    assert word_f1("我很好谢谢", "我很好") == pytest.approx(6 / 8) and word_f1("", " ") == 1
    assert scores["exact_match"] == 0.5 and scores["word_f1"] == pytest.approx((2 / 3 + 1) / 2)
    pair = {"prompt": "2 + 2 =", "completion": " 4"}
    assert PromptCompletion().prompt(pair) == "2 + 2 =" and PromptCompletion().grade(pair, "4") == 1


@pytest.mark.parametrize("template", [None, "plain"])
def test_prompts_alone_have_the_ids_that_a_model_is_asked_with(prepare, template) -> None:
    asked = [{"role": "user", "content": "Hi"}]
    records = [{"prompt": "2+2=", "tests": [4]}, {"prompt": asked if template else " 1+1=", "x": 0}]
    task = Prompts(template=template)
    prepared, _ = prepare(records, task)
    rows = prepared.rows("train", batch_size=1, seed=0)
    tokenizer = prepared.tokenizer
    for number, record in enumerate(records):
        row = rows[number]
        ids = row["tokens"][row["segment_ids"] > 0].tolist()
        form = ChatPrompt(**task.prompt_options)
        read = form if form.reads(tokenizer, task.prompt(record)) else Continuation()
        ends = Ends(bos=True, eos=True)
        assert ids == read.encode(tokenizer, task.prompt(record), ends)
        assert not row["loss_weights"].any()
    kept, _ = prepare(records[:1], task.replace(keep=("tests",)))
    assert kept.splits["train"].records_of(0) == [{"prompt": records[0]["prompt"], "tests": [4]}]


def test_stores_of_prompts_keep_their_identity() -> None:
    """The options that hashes of data include, and hashes of rows, from before the two tasks had
    one base.
    """
    marks = {"template": None, "template_file": None, "add_bos": True, "add_eos": True}
    asked = {**marks, "prompt_column": "prompt"}
    assert Prompts().fingerprint() == {**asked, "type": "prompts", "keep": []}
    both = {**asked, "type": "prompt_completion", "completion_column": "completion"}
    assert PromptCompletion().fingerprint() == both
    record = {"prompt": "2 + 2 =", "completion": " 4\u00e9", "tests": [1]}
    tokenizer, found = ByteTokenizer(), hashlib.sha256()
    for kind, template in itertools.product((Prompts, PromptCompletion), (None, "plain")):
        task = kind(template=template, keep=("tests",))
        chat = task.equipped(tokenizer)
        (made,) = task.expand(record)
        for room in (4, 100):
            rows = task.encode(made, chat, room)
            row = [rows["tokens"].tolist(), rows["loss_weights"].tolist()]
            found.update(json.dumps([row, task.authors(made, chat, room)]).encode())
        found.update(json.dumps([made, task.prompt(made), task.identity(made)]).encode())
    assert found.hexdigest() == "d43372a29345494bfd1d0f370d217d5df2f0e3d5e88234b87384405cf77d3d1c"
