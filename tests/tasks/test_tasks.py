"""What tasks make of records: rows, windows, errors, answers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.data.tokenizers.characters import CharacterTokenizer
from jaxlm.tasks.base import LeftOut
from jaxlm.tasks.multi_label import MultiLabel
from jaxlm.tasks.pair import Pair
from jaxlm.tasks.question_answering import QuestionAnswering
from jaxlm.tasks.regression import Regression
from jaxlm.tasks.tagging import Tagging

BYTES = ByteTokenizer()
BOS, EOS = 257, 258


def ids(text: str) -> list[int]:
    return [*text.encode()]


# ------------------------------------------------------------------------------------------- pairs


def test_a_pair_has_its_token_types_and_loses_the_end_of_the_longer_text() -> None:
    task = Pair(classes=("no", "yes"))
    record = {"text": "abcdef", "text_b": "xyz", "label": "yes"}
    row = task.encode(record, BYTES, 100)
    assert row["tokens"].tolist() == [BOS, *ids("abcdef"), EOS, *ids("xyz"), EOS]
    assert row["token_types"].tolist() == [0] * 8 + [1] * 4
    assert row["labels"] == 1 and task.length(record, BYTES) == 12
    cut = task.encode(record, BYTES, 9)  # 6 tokens of text: 3 and 3
    assert cut["tokens"].tolist() == [BOS, *ids("abc"), EOS, *ids("xyz"), EOS]
    assert task.identity(record) != task.identity({**record, "text": "abcdefx", "text_b": "yz"})


def test_a_number_has_to_be_one() -> None:
    task = Regression(text_b="text_b")
    record = {"text": "a", "text_b": "b", "label": "2.5"}
    (kept,) = task.expand(record)
    assert kept["label"] == 2.5 and task.encode(kept, BYTES, 9)["labels"] == np.float32(2.5)
    with pytest.raises(UserError, match="column 'label' holds 'good', not a number"):
        task.expand({**record, "label": "good"})
    with pytest.raises(LeftOut, match="unlabelled"):
        task.expand({**record, "label": None})


def test_several_labels_come_from_a_list_or_a_text() -> None:
    task = MultiLabel(classes=("a", "b", "c"))
    for value in (["c", "a"], "c|a", "a | c"):
        (kept,) = task.expand({"text": "x", "label": value})
        assert task.encode(kept, BYTES, 9)["labels"].tolist() == [1, 0, 1]
    (none,) = task.expand({"text": "x", "label": []})
    assert task.encode(none, BYTES, 9)["labels"].tolist() == [0, 0, 0]


# ------------------------------------------------------------------------------------------ tagging


def tagged(words: Any, tags: Any, **settings: Any) -> tuple[Tagging, list[dict[str, Any]]]:
    task = Tagging(classes=("A", "B", "C"), **settings).fitted(32)
    (record,) = task.expand({"tokens": words, "tags": tags})
    return task, task.windows(record, BYTES)


def test_the_first_token_of_each_word_is_learnt() -> None:
    task, (window,) = tagged("no more", ["B", "C"])
    row = task.encode(window, BYTES, 32)
    assert row["tokens"].tolist() == [BOS, *ids("no more"), EOS]
    assert np.flatnonzero(row["loss_weights"]).tolist() == [1, 3]  # "n", and the space of " more"
    assert row["targets"][[1, 3]].tolist() == [1, 2]


def test_a_long_sentence_becomes_windows_that_have_each_word_once() -> None:
    words = [f"w{n:03d}" for n in range(20)]
    tags = [("A", "B", "C")[n % 3] for n in range(20)]
    task, windows = tagged(words, tags, max_length=16)
    assert [len(w["tokens"]) for w in windows] == [3] + [2] * 8 + [1]
    assert [task.begins(w) for w in windows] == [True] + [False] * 9
    assert max(task.length(w, BYTES) for w in windows) <= 16
    assert task.whole(windows) == {"tokens": words, "tags": tags}
    rows = [task.encode(w, BYTES, 32) for w in windows]
    arrays = [
        {"probs": np.eye(3)[row["targets"]], "learnt": row["loss_weights"] > 0} for row in rows
    ]
    answer = task.answer(windows, arrays, BYTES)
    assert answer == {"tags": tags, "scores": [1.0] * 20}


class Spaced(ByteTokenizer):
    """ " Paris" is one token and "Paris" two, as in a byte-level BPE."""

    def encode(self, text: str) -> list[int]:
        return [300] if text.startswith(" ") else [301, 302]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]


def test_a_window_in_a_sentence_has_the_tokens_that_were_counted() -> None:
    words, tags = [f"w{n}" for n in range(9)], ["A", "B", "C"] * 3
    task = Tagging(classes=("A", "B", "C"), max_length=6).fitted(6)
    windows = task.windows({"tokens": words, "tags": tags}, Spaced())
    assert [len(w["tokens"]) for w in windows] == [3, 4, 2]  # rooms of 4: "w0" has two tokens
    rows = [task.encode(w, Spaced(), 6) for w in windows]
    assert [row["tokens"].tolist() for row in rows] == [
        [BOS, 301, 302, 300, 300, EOS],
        [BOS, 300, 300, 300, 300, EOS],
        [BOS, 300, 300, EOS],
    ]
    assert sum(int(row["loss_weights"].sum()) for row in rows) == 9
    assert [task.length(w, Spaced()) for w in windows] == [6, 6, 4]


def test_the_tags_of_a_sentence_are_as_many_as_its_words() -> None:
    with pytest.raises(UserError, match="'tokens' has 2 words and 'tags' 1 tags"):
        tagged("a b", ["A"])
    with pytest.raises(UserError, match="'tokens' has a blank at place 1"):
        tagged(["a", " "], ["A", "A"])


def test_a_tag_that_training_never_saw_is_an_error() -> None:
    task = Tagging(classes=("A", "B"))
    with pytest.raises(
        UserError, match="tags that training never saw: D .known: A, B.; drop those rows"
    ):
        task.counts(Table([{"tokens": ["x"], "tags": ["D"]}]))


def test_the_baseline_is_the_most_frequent_tag_of_a_word() -> None:
    task = Tagging(classes=("A", "B"))
    train = Table([{"tokens": ["x", "x", "y", "x"], "tags": ["A", "B", "B", "B"]}])
    guess = task.baseline(train)
    assert guess is not None and guess({"tokens": ["x", "y", "new"]}) == ["B", "B", "B"]
    (accuracy,) = task.score([["B", "A"]], [{"tags": ["B", "B"]}])
    assert accuracy.name == "token_accuracy" and accuracy.value == 0.5


class Table(list):
    """Records with `column`, as a store has them."""

    def column(self, name: str) -> Any:
        return (record[name] for record in self)


# --------------------------------------------------------------------------------------- answering

CONTEXT = "Né à Paris — Ana spoke first; 李白 wrote the 3rd poem in Chang'an. " * 3
QUESTION = "Who?"


def asked(text: str, start: int | None = None, **settings: Any) -> Any:
    task = QuestionAnswering(**{"no_answer": True, **settings}).fitted(64)
    start = CONTEXT.rindex(text) if start is None else start
    answers = {"text": [text], "answer_start": [start]}
    (record,) = task.expand({"question": QUESTION, "context": CONTEXT, "answers": answers})
    return task, record


def perfect(task: Any, window: Any, tokenizer: Any) -> dict[str, np.ndarray]:
    row = task.encode(window, tokenizer, 64)
    logits = np.zeros((64, 2))
    logits[row["start"], 0] += 10
    logits[row["end"], 1] += 10
    return {"logits": logits}


@pytest.mark.parametrize("text", ["Ana", "李白", "3rd", "Chang'an.", "Né"])
@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_a_span_comes_back_exactly_through_windows(text: str, kind: str) -> None:
    tokenizer = BYTES if kind == "bytes" else CharacterTokenizer("".join(sorted({*CONTEXT})), True)
    task, record = asked(text, doc_stride=20)
    windows = task.windows(record, tokenizer)
    assert len(windows) > 3 and [task.begins(w) for w in windows][:2] == [True, False]
    assert max(task.length(w, tokenizer) for w in windows) <= 64
    for window in windows:
        place = window["offset"]
        assert CONTEXT[place:].startswith(window["context"])
    answer = task.answer(windows, [perfect(task, w, tokenizer) for w in windows], tokenizer)
    assert answer["answer"] == text and answer["start"] == CONTEXT.rindex(text)
    assert answer["n_best"][0]["text"] == text and answer["score"] > 0.5
    assert sum(each["score"] for each in answer["n_best"]) <= 1 + 1e-9


class Pieces(ByteTokenizer):
    """Words in pieces of two characters as in WordPiece: what a word begins with has another id."""

    def encode_with_offsets(self, text: str, *, special: bool = False) -> Any:
        ids, offsets, inside = [], [], 0
        for n, c in enumerate(text):
            inside = 0 if c == " " else inside + 1
            if inside % 2 == 1:
                whole = text[n : n + 2].split(" ")[0]
                ids.append(1000 * (inside == 1) + sum(map(ord, whole)) % 251)
                offsets.append((n, n + len(whole)))
        return ids, offsets

    def encode(self, text: str) -> list[int]:
        return self.encode_with_offsets(text)[0]


def test_a_window_that_begins_in_a_word_has_the_tokens_of_the_text() -> None:
    context = "unbelievable " * 6 + "Ana"
    task = QuestionAnswering(doc_stride=3, no_answer=True).fitted(16)
    answers = {"text": ["Ana"], "answer_start": [context.index("Ana")]}
    record = {"question": "Who?", "context": context, "answers": answers}
    windows = task.windows(*task.expand(record), Pieces())
    windows = json.loads(json.dumps(windows))  # as a store gives them
    whole = Pieces().encode(context)
    room, place = 16 - 2 - 3, 0
    assert len(windows) > 3 and any(context[w["offset"] - 1] != " " for w in windows[1:])
    for window in windows:
        row = task.encode(window, Pieces(), 16)
        inner = row["tokens"][4:-1].tolist()
        assert inner == whole[place : place + room]
        assert task.length(window, Pieces()) == len(row["tokens"]) <= 16
        place += room - 3
    assert row["start"] == 4 + inner.index(Pieces().encode("Ana")[0])
    assert row["end"] == row["start"] + 1
    arrays = [perfect(task, w, Pieces()) for w in windows]
    assert task.answer(windows, arrays, Pieces())["answer"] == "Ana"


@pytest.mark.parametrize("stride", [0, 3, 20])
def test_windows_become_the_whole_record_again(stride: int) -> None:
    """As few-shot prompts and baselines read it: its context has all answers, at their places."""
    tokenizer = CharacterTokenizer("".join(sorted({*CONTEXT})), True)
    task, record = asked("Chang'an.", doc_stride=stride, group="title")
    windows = json.loads(json.dumps(task.windows(record, tokenizer)))
    assert len(windows) > 3 and task.whole(windows) == record
    assert task.identity(task.whole(windows)) == CONTEXT  # the title is not stored
    assert task.identity({**record, "title": "Poems"}) == "Poems"

    words = "unbelievable " * 6 + "Ana"  # between two pieces there is no token of a space
    answers = {"text": ["Ana"], "answer_start": [words.index("Ana")]}
    task = QuestionAnswering(doc_stride=stride, no_answer=True).fitted(16)
    (record,) = task.expand({"question": "Who?", "context": words, "answers": answers})
    windows = task.windows(record, Pieces())
    assert len(windows) > 2 and task.whole(windows) == record


def test_two_windows_share_doc_stride_tokens() -> None:
    tokenizer = CharacterTokenizer("".join(sorted({*CONTEXT})), True)
    task, record = asked("Ana", doc_stride=20)
    room = 64 - len(QUESTION) - 3
    offsets = [w["offset"] for w in task.windows(record, tokenizer)]
    assert offsets[:3] == [0, room - 20, 2 * (room - 20)]


def test_a_window_without_the_answer_has_its_first_token() -> None:
    task, record = asked("Né", 0)
    first, *others = task.windows(record, BYTES)
    row = task.encode(first, BYTES, 64)
    assert row["tokens"][row["start"]] == ord("N") and row["end"] - row["start"] == 2
    assert {int(task.encode(w, BYTES, 64)["start"]) for w in others} == {0}


def test_no_answer_wins_over_the_threshold() -> None:
    task, record = asked("Ana")
    record = {**record, "answers": {"text": [], "answer_start": []}}
    windows = task.windows(record, BYTES)
    arrays = [perfect(task, window, BYTES) for window in windows]
    answer = task.answer(windows, arrays, BYTES)
    assert answer["answer"] == "" and answer["start"] is None
    assert answer["null_margin"] == pytest.approx(20)
    for threshold, silent in ((19.9, True), (20.1, False)):
        said = task.replace(null_threshold=threshold).answer(windows, arrays, BYTES)
        assert (said["answer"] == "") == silent
    assert task.replace(no_answer=False).answer(windows, arrays, BYTES)["answer"]


def test_the_longest_answer_and_the_order_of_its_ends_are_kept() -> None:
    tokenizer = CharacterTokenizer("".join(sorted({*CONTEXT})), True)
    task, record = asked("Ana", max_answer=5, n_best=3, no_answer=False)
    (window, *_) = task.windows(record, tokenizer)
    logits = np.zeros((64, 2))
    first = 1 + len(QUESTION) + 1
    logits[first + 10, 0], logits[first + 12, 0] = 5, 4
    logits[first + 9, 1], logits[first + 30, 1], logits[first + 13, 1] = 9, 8, 1
    answer = task.answer([window], [{"logits": logits}], tokenizer)
    spans = {(each["start"], each["text"]) for each in answer["n_best"]}
    want = {(11, "— A"), (13, "A")}  # a space at an end of a span is not of the answer
    assert want <= spans and answer["answer"] == "— A"
    assert all(len(text) <= 5 for _, text in spans)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"text": [""], "answer_start": [0]}, "an answer is empty"),
        ({"text": ["Ana"], "answer_start": [3]}, "it is at 13; correct answer_start"),
        ({"text": ["Ana"], "answer_start": [17]}, "bytes were counted; count Unicode characters"),
        ({"text": ["Bo"], "answer_start": [2]}, "the context does not have this text"),
        ({"text": ["Bo"], "answer_start": [10**6]}, "the context has 195 characters"),
        ({"text": ["Bo"], "answer_start": []}, "1 texts and 0 answer_starts"),
        ("Ana", "has no answers; give"),
        ({"text": "Ana", "answer_start": 13}, "has text 'Ana', not a list; give"),
        ({"text": ["Ana"], "answer_start": 13}, "has answer_start 13, not a list; give"),
        ({"text": None, "answer_start": None}, "has text None, not a list; give"),
        ({"text": ["Ana"], "answer_start": [True]}, "give each text one place, a whole number"),
    ],
)
def test_a_wrong_answer_is_one_line(answers: Any, said: str) -> None:
    record = {"question": QUESTION, "context": CONTEXT, "answers": answers}
    with pytest.raises(UserError, match=said) as error:
        QuestionAnswering().expand(record)
    assert "\n" not in str(error.value)


def test_questions_without_an_answer_are_counted_and_not_their_windows() -> None:
    task, record = asked("Ana", no_answer=False)
    windows = task.windows({**record, "answers": {"text": [], "answer_start": []}}, BYTES)
    assert len(windows) > 3
    with pytest.raises(UserError, match="^1 questions have no answer, and training had none"):
        task.counts(Table(windows))


def test_a_question_that_fills_the_row_is_an_error() -> None:
    task, record = asked("Ana")
    record = {**record, "question": "q" * 60}
    with pytest.raises(UserError, match="the question has 60 tokens, which leaves no room"):
        task.windows(record, BYTES)
    with pytest.raises(UserError, match="task.max_length: 99 tokens do not fit rows"):
        QuestionAnswering(max_length=99).fitted(64)
