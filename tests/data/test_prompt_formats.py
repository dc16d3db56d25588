"""Prompt formats: ids of a text, the rows that a model reads, and the rows of new tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxlm.chat.template import named
from jaxlm.core import registry
from jaxlm.core.config import UserError
from jaxlm.data.prompt_formats.base import Ends, PromptFormat
from jaxlm.data.prompt_formats.chat import Chat
from jaxlm.data.prompt_formats.continuation import Continuation
from jaxlm.data.prompt_formats.encode_source import EncodeSource
from jaxlm.data.prompt_formats.fill_blank import FillBlank
from jaxlm.data.prompt_formats.source import Source
from jaxlm.data.prompts import asked_as, encode_prompt, ends_of, format_of, ids_of
from jaxlm.data.records import RecordData
from jaxlm.data.sources.synthetic import Synthetic
from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.tasks.chat import Chat as ChatTask
from jaxlm.tasks.classification import Classification
from jaxlm.tasks.prompt_completion import PromptCompletion
from tests import tiny
from tests.chat.test_golden import tokenizer as golden_tokenizer

BYTES = ByteTokenizer()
BOTH = Ends(bos=True, eos=True)
BLANKS = FillBlank(start_id=7, blank_ids=(8, 9))
TOKENS = np.array([[0, 5, 8, 6, 9], [4, 5, 6, 4, 9]], np.int32)  # the first row is padded
REAL = np.array([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]], np.int32)


def rows(read: dict[str, np.ndarray]) -> dict[str, list]:
    return {name: array.tolist() for name, array in read.items()}


def test_a_prompt_is_continued_from_its_end():
    prompts = Continuation().arrange(TOKENS, REAL, pad_id=0)
    assert rows(prompts.read) == {
        "tokens": TOKENS.tolist(),
        "positions": [[0, 0, 1, 2, 3], [0, 1, 2, 3, 4]],
        "segment_ids": REAL.tolist(),
    }
    assert (prompts.source, rows(prompts.first)) == (None, {"positions": [[4], [5]]})
    assert Continuation().encode(BYTES, "ab", BOTH) == [BYTES.bos_id, 97, 98]


def test_a_source_is_read_whole_and_the_answer_begins_after_a_start():
    for form, start in ((EncodeSource(start_id=3), 3), (EncodeSource(), 0)):
        prompts = form.arrange(TOKENS, REAL, pad_id=0)
        assert rows(prompts.source or {})["positions"] == [[0, 0, 1, 2, 3], [0, 1, 2, 3, 4]]
        assert rows(prompts.read) == {
            "tokens": [[start], [start]],
            "positions": [[0], [0]],
            "segment_ids": [[1], [1]],
        }
        assert rows(prompts.first) == {"positions": [[1], [1]]}
    assert EncodeSource().encode(BYTES, "ab", BOTH) == [BYTES.bos_id, 97, 98, BYTES.eos_id]
    assert EncodeSource().with_start(4) == EncodeSource(start_id=4)
    assert EncodeSource(start_id=3).with_start(4) == EncodeSource(start_id=3)


def test_the_first_blank_is_filled_after_the_prompt():
    prompts = BLANKS.arrange(TOKENS, REAL, pad_id=0)
    read = rows(prompts.read)
    assert read["tokens"] == [[0, 5, 8, 6, 9, 7], [4, 5, 6, 4, 9, 7]]
    assert read["positions"] == [[0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]
    assert read["segment_ids"] == [[0, 1, 1, 1, 1, 1], [1] * 6]
    assert read["prefix"] == [[False, *[True] * 4, False], [*[True] * 5, False]]
    assert [[place for place, _ in row] for row in read["places"]] == [
        [0, 0, 1, 2, 3, 1],  # the blank 8 is the second token of its row
        [0, 1, 2, 3, 4, 4],
    ]
    assert [[inner for _, inner in row] for row in read["places"]] == [[0] * 5 + [1]] * 2
    assert rows(prompts.first) == {"positions": [[5], [6]], "places": [[[1, 2]], [[4, 2]]]}
    assert FillBlank.step == {"positions": 1, "places": (0, 1)}


def test_a_prompt_without_a_blank_gets_the_last_one():
    form = FillBlank(start_id=7, blank_ids=(300, 98))
    assert form.encode(BYTES, "a", BOTH) == [BYTES.bos_id, 97, 98]
    assert form.encode(BYTES, "ab", BOTH) == [BYTES.bos_id, 97, 98]


def test_a_models_format_follows_from_what_it_is():
    names = ("transformer", "lstm", "bert", "t5", "glm")
    kinds = [type(format_of(tiny.load(name).config.model)) for name in names]
    assert kinds == [Continuation, Continuation, Continuation, EncodeSource, FillBlank]
    assert registry.names(PromptFormat) == [
        "chat",
        "continue",
        "encode_source",
        "fill_blank",
        "source",
    ]


@pytest.mark.parametrize(
    ("old", "name", "want"),
    [
        ("model.start_id=3", "t5", EncodeSource(start_id=3)),
        ("model.start_id=null", "t5", EncodeSource()),
        ("model={start_id: 5, blank_ids: [8, 9]}", "glm", FillBlank(start_id=5, blank_ids=(8, 9))),
        ("model={start_id: null, blank_ids: []}", "transformer", None),
    ],
)
def test_keys_of_older_configs_are_read(old, name, want):
    assert tiny.load(name, old).config.model.prompt == want


def test_blanks_need_a_start():
    with pytest.raises(UserError, match="model.prompt: start_id: null, but text is written into"):
        tiny.load("glm", "model.prompt={type: fill_blank, blank_ids: [8]}")


def test_a_chat_prompt_is_read_in_the_template() -> None:
    tokenizer = ByteTokenizer().with_chat_template(named("plain"))
    read = Chat().encode(tokenizer, "Hi </s>", BOTH)
    assert read == [257, *b"User: Hi </s>\nAssistant:"]  # the user's </s> is a text
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    talk.append({"role": "user", "content": "c"})
    asked = Chat(system="Be kind.").encode(tokenizer, json.dumps(talk), BOTH)
    text = b"System: Be kind.\nUser: a\nAssistant: b"
    assert asked == [257, *text, 258, *b"\nUser: c\nAssistant:"]
    with pytest.raises(UserError, match="message 0 is a tool's"):
        Chat().encode(tokenizer, '[{"role": "tool", "content": "a"}]', BOTH)
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        Chat().encode(ByteTokenizer(), "Hi", BOTH)


def test_a_chat_stops_at_the_end_of_the_turn() -> None:
    tokenizer = golden_tokenizer()
    for name, end in (("chatml", "<|im_end|>"), ("llama3", "<|eot_id|>"), ("plain", "</s>")):
        chat = tokenizer.with_chat_template(named(name))
        ends = asked_as(BOTH, True)
        ids = ids_of(chat, ends=ends).eos_ids
        assert ids == tuple(dict.fromkeys((chat.eos_id, chat.id_of(end))))
        assert ids_of(chat, ends=asked_as(ends, False)).eos_ids == (chat.eos_id,)
    assert Chat().stops(ByteTokenizer().with_chat_template(named("chatml"))) == ()


def test_the_data_says_how_a_model_is_asked() -> None:
    source = Synthetic(num_documents=2)
    for task, form in (
        (ChatTask(template="plain"), Chat()),
        (ChatTask(template="plain", system="Be kind."), Chat(system="Be kind.")),
        (PromptCompletion(template="plain"), Chat()),
        (PromptCompletion(), Chat(texts=False)),
        (Classification(), None),
    ):
        data = RecordData(source=source, task=task)
        assert ends_of(data, {}, ByteTokenizer()).format == form


def test_a_system_message_of_the_task_is_kept() -> None:
    data = RecordData(source=Synthetic(num_documents=2), task=ChatTask(system="Be kind."))
    ends = ends_of(data, {}, ByteTokenizer())
    assert asked_as(ends, True).format == Chat(system="Be kind.")
    assert asked_as(ends, None, "Be brief.").format == Chat(system="Be brief.")
    assert asked_as(ends, False).format is None


def test_what_another_format_renders_is_asked_as_the_model_reads_it() -> None:
    """A GLM answers a conversation, or translates, in a blank at its end; others continue it."""
    tokenizer = ByteTokenizer().with_chat_template(named("plain"))
    glm = tiny.load("glm").config.model.replace(prompt=BLANKS)
    lstm, ends = tiny.load("lstm").config.model, asked_as(BOTH, True)
    read = [257, *b"User: Hi\nAssistant:"]
    assert encode_prompt(tokenizer, "Hi", glm, ends) == [*read, 9]
    assert encode_prompt(tokenizer, "Hi", lstm, ends) == read
    source = BOTH._replace(format=Source(separator=": "))
    assert encode_prompt(BYTES, "Hi", glm, source) == [257, *b"Hi: ", 9]
    blank = BLANKS.replace(blank_ids=(9, ord("U")))  # a rendering that has a blank gets no other
    assert encode_prompt(tokenizer, "Hi", glm.replace(prompt=blank), ends) == read


def test_prompts_of_messages_are_rendered_and_texts_are_continued() -> None:
    data = RecordData(source=Synthetic(num_documents=2), task=PromptCompletion())
    tokenizer = ByteTokenizer().with_chat_template(named("plain"))
    ends, model = ends_of(data, {}, tokenizer), tiny.load("transformer").config.model
    record = {"prompt": [{"role": "user", "content": "Hi"}], "completion": []}
    messages = PromptCompletion().prompt(record)
    read = [257, *b"User: Hi\nAssistant:"]
    assert encode_prompt(tokenizer, messages, model, ends) == read
    assert encode_prompt(tokenizer, "Hi", model, ends) == [257, *b"Hi"]
    assert encode_prompt(ByteTokenizer(), messages, model, ends) == [257, *messages.encode()]
    assert ids_of(ByteTokenizer(), ends=ends).eos_ids == (ByteTokenizer().eos_id,)
    assert encode_prompt(tokenizer, "Hi", model, asked_as(ends, True)) == read


def test_a_prompt_has_the_tools_of_its_record() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    task = ChatTask(template="qwen", tools="tools")
    tokenizer = task.equipped(ByteTokenizer())
    record = {"messages": talk, "tools": tools}
    asked = tokenizer.decode(Chat().encode(tokenizer, task.prompt(record), BOTH))
    assert "# Tools" in asked and '"name": "add"' in asked
    assert task.rendering(record, tokenizer).text.startswith(asked)
    assert task.prompt({**record, "tools": None}) == ChatTask().prompt(record)


def test_a_config_offers_tools_where_a_record_has_none() -> None:
    """As a record's own tools are, in training and in prompts."""
    add, find = ({"type": "function", "function": {"name": name}} for name in ("add", "find"))
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    asked = {"messages": talk[:1]}
    plain = ChatTask(template="qwen", tools="tools")
    tokenizer = plain.equipped(ByteTokenizer())
    text = plain.rendering({"messages": talk, "tools": [add]}, tokenizer).text
    assert '"name": "add"' in text
    for task in (
        ChatTask(template="qwen", functions=(add,)),
        ChatTask(template="qwen", functions=(add,), tools="tools"),
    ):
        assert task.equipped(ByteTokenizer()).fingerprint() == tokenizer.fingerprint()
        record = {"messages": talk, "tools": None}
        assert task.rendering(record, tokenizer).text == text
        data = RecordData(source=Synthetic(num_documents=2), task=task)
        form = ends_of(data, {}, tokenizer).format
        assert form == Chat(functions=(add,))
        for prompt in (task.prompt(record), "Hi", json.dumps(asked)):  # a record's, or anyone's
            read = tokenizer.decode(form.encode(tokenizer, prompt, BOTH))
            assert text.startswith(read) and '"name": "add"' in read
        own = tokenizer.decode(form.encode(tokenizer, json.dumps({**asked, "tools": [find]}), BOTH))
        assert '"name": "find"' in own and '"name": "add"' not in own
    owner = {"messages": talk, "tools": [find]}
    assert '"add"' not in task.rendering(owner, tokenizer).text
    assert "add" not in task.rendering({**owner, "tools": []}, tokenizer).text, "none, by itself"
    assert "functions" not in ChatTask().fingerprint()
    assert task.fingerprint() != plain.fingerprint()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "{type: chat, functions: [{type: function}]}",
            "functions: number 0 has no name; write it as {type: function, function: {name: ",
        ),
        ("{type: chat, functions: add}", "data.task.functions: expected a mapping, got 'add'"),
    ],
)
def test_a_tool_of_a_config_is_checked(task: str, message: str) -> None:
    source = "source: {type: jsonl, files: x.jsonl}"
    with pytest.raises(UserError) as caught:
        tiny.load("transformer", f"data={{type: records, {source}, task: {task}}}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_template_without_tools_is_refused() -> None:
    task = ChatTask(template="plain", functions=({"name": "add"},))
    with pytest.raises(UserError, match="chat template plain does not write 'add'; choose a"):
        task.equipped(ByteTokenizer())
