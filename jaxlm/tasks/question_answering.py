"""Extractive question answering: the span of a context that answers a question.

    data:
      type: records
      source: {type: jsonl, files: squad.jsonl}
      task: {type: question_answering, doc_stride: 128}
      seq_len: 384

A record has a question, a context, and answers as SQuAD has them: {"text": [...], "answer_start":
[...]}, places in Unicode characters; no answers mean that the context does not answer it. A row is

    [bos] question [eos] context [eos]                 token_types 0 ... 1 ...

A context that is too long becomes windows, of which two in a row share `doc_stride` tokens (the
`stride` of a tokenizer of transformers; in Devlin et al. 2019 `doc_stride` is the step from one
window to the next). A window without the answer has its first token as start and end. An answer is
a span of the characters of the context (`jaxlm.tasks.answer_spans`); the measures are the exact
match and F1 of CMRC (`jaxlm.tasks.cmrc`) where the answers are Chinese or Japanese, and of SQuAD
(`jaxlm.tasks.squad`) of others.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry, RowSpec, text_rows
from jaxlm.tasks import cmrc, squad
from jaxlm.tasks.answer_spans import Window, best_spans
from jaxlm.tasks.base import NO_LIMIT, Arrays, Change, LeftOut, Record, Records, Task
from jaxlm.tasks.text_metrics import CHARACTERS, language_of
from jaxlm.tasks.texts import fitting, special_tokens

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer

EXACT = Measure("exact_match", better="higher", show="headline", format=".1%")
F1 = Measure("f1", better="higher", show="headline", label="F1", format=".1%")
RULES = {"squad": squad, "cmrc": cmrc}
LOOKED_AT = 2000  # questions by whose answers the language is found
SENTENCE_END = re.compile(r"(?<=[.!?])\s|(?<=[。！？])|\n")


class Laid(NamedTuple):
    """A window as tokens."""

    ids: list[int]
    types: list[int]
    first: int  # the place of the context's first token
    offsets: list[tuple[int, int]]  # of the context's tokens, in characters of the window


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Task):
    """The span of a context that answers a question."""

    scored: ClassVar[bool] = True
    identified_by: ClassVar[str] = "context or group"
    baseline_title: ClassVar[str] = "first sentence"
    version: ClassVar[int] = 2
    has_places: ClassVar[bool] = True
    places: ClassVar[tuple[str, ...]] = ("start", "end")

    question: str = field("question", "the column of the question")
    context: str = field("context", "the column of the text that has the answer")
    answers: str = field("answers", 'the column of {"text": [...], "answer_start": [...]}')
    group: str | None = field(
        None, "the column whose equal values are in one split (title); null: the context"
    )
    max_length: int | None = field(
        None, "tokens of a window with its question; null: data.seq_len", ge=8
    )
    doc_stride: int = field(128, "tokens that two windows of a context share, at most half", ge=0)
    max_answer: int = field(30, "tokens of the longest answer that is predicted", ge=1)
    n_best: int = field(20, "starts and ends that are tried, and answers that are given", ge=1)
    no_answer: bool | None = field(
        None, "whether a question may have no answer; null: where one of training has none"
    )
    null_threshold: float = field(
        0.0, "no answer where the score of none exceeds the best one's by more than this"
    )
    metric: Literal["squad", "cmrc"] | None = field(
        None,
        "whose exact match and F1: words of English, or characters of Chinese; null: by the "
        "answers' language",
    )
    add_bos: bool = field(True, "begin each row with the tokenizer's bos, where it has one")
    add_eos: bool = field(True, "end each text with the tokenizer's eos, where it has one")

    # ------------------------------------------------------------------------- at preparation

    @property
    def columns(self) -> tuple[str, ...]:
        group = () if self.group is None else (self.group,)
        return self.question, self.context, self.answers, *group

    @property
    def stored(self) -> tuple[str, ...]:
        return self.question, self.context, self.answers, "offset", "first", "window_tokens"

    @property
    def marks(self) -> tuple[bool, bool]:
        return self.add_bos, self.add_eos

    def whole(self, windows: Sequence[Record]) -> Record:
        """White space between two windows that share nothing is not stored, and becomes spaces."""
        context = ""
        for window in windows:
            offset = window["offset"]
            context = context[:offset].ljust(offset) + window[self.context]
        own = {column: windows[0][column] for column in (self.question, self.answers)}
        return {**own, self.context: context}

    def identity(self, record: Record) -> str:
        """The group; of a record that is stored, which does not have it, the context."""
        return str(record.get(self.group or self.context, record[self.context]))

    def texts(self, record: Record) -> Iterable[str]:
        return record[self.question], record[self.context]

    def expand(self, record: Record) -> list[Record]:
        question, context = self._text(record, self.question), self._text(record, self.context)
        if not question.strip() or not context.strip():
            raise LeftOut("blank")
        answers = answers_of(record[self.answers], self.answers)
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            check_span(text, start, context)
        return [{self.question: question, self.context: context, self.answers: answers}]

    def _text(self, record: Record, column: str) -> str:
        value = record[column]
        if not isinstance(value, str):
            raise UserError(f"column {column!r} holds a {type(value).__name__}, not text")
        return value

    def fitted(self, seq_len: int) -> Self:
        return self.replace(max_length=fitting(self.max_length, seq_len))

    def windows(self, record: Record, tokenizer: Tokenizer) -> list[Record]:
        assert self.max_length is not None, "the task is not fitted"
        context = record[self.context]
        ids, offsets = tokenizer.encode_with_offsets(context)
        asked = len(tokenizer.encode(record[self.question]))
        room = self.max_length - asked - self._marked(tokenizer)
        if room < min(len(offsets), 4):
            raise UserError(
                f"the question has {asked} tokens, which leaves no room for its context in rows of "
                f"{self.max_length}; raise data.seq_len, or shorten the question"
            )
        found = []
        for first, last in strides(offsets, room, min(self.doc_stride, room // 2)):
            begin = offsets[first][0] if first else 0
            end = offsets[last - 1][1] if last < len(offsets) else len(context)
            whole = first == 0 and last == len(offsets)
            places = [[a - begin, b - begin] for a, b in offsets[first:last]]
            found.append(
                {
                    **record,
                    self.context: context[begin:end],
                    "offset": begin,
                    "first": first == 0,
                    # A piece of a text may have other tokens than the text has there.
                    "window_tokens": None if whole else [ids[first:last], places],
                }
            )
        return found

    def _marked(self, tokenizer: Tokenizer) -> int:
        return sum(map(len, special_tokens(tokenizer, self.add_bos, self.add_eos)))

    def begins(self, window: Record) -> bool:
        return window["first"]

    def resolve(self, records: Records) -> Mapping[str, Any]:
        empty = self.no_answer
        if empty is None:
            empty = any(not a["text"] for a in records.column(self.answers))
        if self.metric is not None:
            return {"no_answer": empty}
        answers = itertools.islice(records.column(self.answers), LOOKED_AT)
        return {"no_answer": empty, "metric": metric_for(each["text"] for each in answers)}

    def given(self, facts: Mapping[str, Any]) -> Self:
        return self.replace(
            no_answer=bool(facts.get("no_answer", self.no_answer)),
            metric=self.metric or facts.get("metric"),
        )

    def counts(self, records: Records) -> dict[str, Any]:
        answers = [*records.column(self.answers)]
        empty = [not a["text"] for a in answers]
        none = sum(empty)
        if none and not self.no_answer:
            first = records.column("first")
            questions = sum(a and b for a, b in zip(empty, first, strict=True))
            raise UserError(
                f"{questions} questions have no answer, and training had none of these; set "
                "data.task.no_answer to true, or drop them"
            )
        return {"windows": len(answers), "without_answer": none}

    # ----------------------------------------------------------------------------- as rows

    def row_spec(self, seq_len: int, pad_id: int = 0) -> RowSpec:
        types = {"token_types": Entry(("T",))}
        span = {"start": Entry(()), "end": Entry(()), "example_weights": Entry((), np.float32)}
        return RowSpec({**text_rows(seq_len, pad_id), **types, **span}, T=seq_len)

    def encode(
        self,
        record: Record,
        tokenizer: Tokenizer,
        room: int,
        rng: np.random.RandomState | None = None,
    ) -> Arrays:
        laid = self._laid(record, tokenizer, room)
        start, end = self._span(record, laid)
        if not end and "unchanged" in record:  # a longer text has pushed the answer out of the row
            return self.encode(record["unchanged"], tokenizer, room, rng)
        return {
            "tokens": np.array(laid.ids, np.int32),
            "token_types": np.array(laid.types, np.int32),
            "start": np.int32(start),
            "end": np.int32(end),
            "example_weights": np.float32(1),
        }

    def _laid(self, record: Record, tokenizer: Tokenizer, room: int) -> Laid:
        bos, between, eos = special_tokens(tokenizer, self.add_bos, self.add_eos)
        head = [*bos, *tokenizer.encode(record[self.question]), *between]
        ids, offsets = self._tokens(record, tokenizer)
        left = max(0, room - len(head) - len(eos))
        ids, offsets = ids[:left], offsets[:left]
        types = [0] * len(head) + [1] * (len(ids) + len(eos))
        return Laid([*head, *ids, *eos][:room], types[:room], len(head), offsets)

    def _tokens(self, record: Record, tokenizer: Tokenizer) -> tuple[list[int], list[Any]]:
        """The ids of a window's context, and their places in its characters."""
        stored = record.get("window_tokens")
        ids, offsets = stored or tokenizer.encode_with_offsets(record[self.context])
        return ids, offsets

    def _span(self, record: Record, laid: Laid) -> tuple[int, int]:
        """The places of the answer's first and last token; (0, 0) where it is not in the window."""
        answers = record[self.answers]
        if not answers["text"] or not laid.offsets:
            return 0, 0
        begin = answers["answer_start"][0] - record["offset"]
        end = begin + len(answers["text"][0])
        inside = [n for n, (a, b) in enumerate(laid.offsets) if a < end and b > begin]
        if not inside or begin < laid.offsets[0][0] or end > laid.offsets[-1][1]:
            return 0, 0
        return laid.first + inside[0], laid.first + inside[-1]

    def length(self, record: Record, tokenizer: Tokenizer) -> int:
        question = tokenizer.encode(record[self.question])
        return self._marked(tokenizer) + len(question) + len(self._tokens(record, tokenizer)[0])

    def authors(
        self, record: Record, tokenizer: Tokenizer, room: int = NO_LIMIT
    ) -> list[str] | None:
        bos, between, eos = special_tokens(tokenizer, self.add_bos, self.add_eos)
        laid = self._laid(record, tokenizer, room)
        found = [*(["context"] * len(laid.ids))]
        found[: laid.first] = ["question"] * laid.first
        found[: len(bos)] = ["template"] * len(bos)
        found[laid.first - len(between) : laid.first] = ["template"] * len(between)
        found[len(found) - len(eos) :] = ["template"] * len(eos)
        start, end = self._span(record, laid)
        if end:
            found[start : end + 1] = ["answer"] * (end + 1 - start)
        return found

    def painted(self, row: Mapping[str, Any]) -> np.ndarray | None:
        """1 at the answer; of a window without it at the first token, as it is learnt."""
        number = np.arange(len(row["tokens"]))
        return ((number >= row["start"]) & (number <= row["end"])).astype(np.float32)

    def show(self, row: Mapping[str, Any]) -> str:
        start, end = int(row["start"]), int(row["end"])
        return f"answer at tokens {start} to {end}" if end else "no answer in this window"

    # -------------------------------------------------------------------------- augmented

    @property
    def augmented(self) -> tuple[str, ...]:
        return (self.context,)

    def changed(
        self, record: Record, column: str, change: Change, rng: np.random.RandomState
    ) -> Record:
        """The answers of a window whose first answer is in it stay, and have their new places. A
        longer question too may push an answer out of its row, which then stays `unchanged`.
        """
        answers, offset, size = record[self.answers], record["offset"], len(record[self.context])
        begins = [start - offset for start in answers["answer_start"]]
        pairs = [*zip(answers["text"], begins, strict=True)]
        inside = [(text, a) for text, a in pairs if a >= 0 and a + len(text) <= size]
        if inside[:1] != pairs[:1]:
            inside = []  # a window without the answer, as it was
        first = {"unchanged": record.get("unchanged", record)} if inside else {}
        if column != self.context:
            return {**super().changed(record, column, change, rng), **first}
        spans = [(a, a + len(text)) for text, a in inside]
        context, moved = change.around(record[column], spans, rng)
        new = {
            "text": [text for text, _ in inside],
            "answer_start": [offset + a for a, _ in moved],
        }
        return {**record, column: context, self.answers: new, "window_tokens": None, **first}

    def protected(self, arrays: Arrays) -> np.ndarray:
        number = np.arange(len(arrays["tokens"]))
        return (number >= arrays["start"]) & (number <= arrays["end"])

    # -------------------------------------------------------------------------- predicted

    @property
    def asked(self) -> tuple[str, ...]:
        return self.question, self.context

    def unanswered(self, record: Record) -> Record:
        found = {column: self._text(record, column) for column in self.asked}
        for column, text in found.items():
            if not text.strip():
                raise UserError(f"column {column!r} is blank; give some text, or remove the record")
        return {**found, self.answers: {"text": [], "answer_start": []}}

    def answer(
        self,
        windows: Sequence[Record],
        arrays: Sequence[Mapping[str, np.ndarray]],
        tokenizer: Tokenizer,
    ) -> dict[str, Any]:
        """{"answer": its text, "start": its place in the context (None without an answer), "score":
        its probability among the `n_best`, "n_best": [{"text", "start", "score"}]}, and where there
        may be no answer "null_margin": the score of none less that of the best span.

        arrays: `logits` [T, 2] of each window.
        """
        found = []
        for window, each in zip(windows, arrays, strict=True):
            laid = self._laid(window, tokenizer, len(each["logits"]))
            size = slice(laid.first, laid.first + len(laid.offsets))
            null = float(each["logits"][0].sum())
            found.append(
                Window(window[self.context], window["offset"], laid.offsets,
                       each["logits"][size], null)
            )  # fmt: skip
        return best_spans(
            found,
            n_best=self.n_best,
            max_answer=self.max_answer,
            no_answer=bool(self.no_answer),
            threshold=self.null_threshold,
        )

    def said(self, prediction: Mapping[str, Any]) -> Any:
        return prediction["answer"]

    # --------------------------------------------------------------------------- measured

    def baseline(self, train: Records) -> Callable[[Record], Any]:
        """The first sentence of the context."""
        return lambda record: SENTENCE_END.split(record[self.context].strip(), maxsplit=1)[0]

    def prompt(self, record: Record) -> str:
        return f"{record[self.context]}\n{record[self.question]}"

    def reference(self, record: Record) -> str:
        """The first answer, "" where the context has none."""
        return next(iter(record[self.answers]["text"]), "")

    def grade(self, record: Record, answer: str) -> float:
        """1 where the answer is one of the record's, as exact match compares them."""
        return float(self.score([answer], [record])[0].value)

    def score(self, predictions: Sequence[Any], records: Iterable[Record]) -> list[Measure]:
        """`predictions` are texts, "" for no answer."""
        true = [record[self.answers]["text"] for record in records]
        rules = RULES[self.metric or metric_for(true)]
        exact = f1 = total = 0.0
        for said, answers in zip(predictions, true, strict=True):
            exact += squad.best(rules.exact_match, said, answers)
            f1 += squad.best(rules.f1, said, answers)
            total += 1
        return [EXACT.of(exact / max(total, 1)), F1.of(f1 / max(total, 1))]


def metric_for(answers: Iterable[Sequence[str]]) -> str:
    """The `metric` by the language of the answers to some questions."""
    return "cmrc" if language_of(itertools.chain.from_iterable(answers)) in CHARACTERS else "squad"


def strides(
    offsets: Sequence[tuple[int, int]], room: int, shared: int
) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of windows of at most `room` tokens, of which two in a row share `shared`.

    A window begins and ends between characters, of which one may be several tokens.
    """

    def between(place: int, least: int) -> int:
        at = place
        while least < at < len(offsets) and offsets[at][0] < offsets[at - 1][1]:
            at -= 1
        return at if at > least else place

    first = 0
    while True:
        last = between(min(first + room, len(offsets)), first)
        yield first, last
        if last >= len(offsets):
            return
        first = between(first + room - shared, first)


def answers_of(value: Any, column: str) -> dict[str, list[Any]]:
    """Answers as {"text": [...], "answer_start": [...]}. Raises `UserError`."""
    if value is None:
        return {"text": [], "answer_start": []}
    if isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        keys = ("text", "answer_start")
        value = {key: [each.get(key) for each in value] for key in keys}
    if not isinstance(value, Mapping) or not {"text", "answer_start"} <= value.keys():
        raise UserError(
            f'column {column!r} has no answers; give {{"text": [...], "answer_start": [...]}}'
        )
    texts, starts = value["text"], value["answer_start"]
    for key, found in (("text", texts), ("answer_start", starts)):
        if not isinstance(found, list | tuple):
            raise UserError(
                f"column {column!r} has {key} {found!r:.40}, not a list; give "
                '{"text": ["Paris"], "answer_start": [17]}'
            )
    right = all(isinstance(t, str) for t in texts) and all(type(s) is int for s in starts)
    if len(texts) != len(starts) or not right:
        raise UserError(
            f"column {column!r} has {len(texts)} texts and {len(starts)} answer_starts; give each "
            "text one place, a whole number"
        )
    return {"text": [*texts], "answer_start": [*starts]}


def check_span(text: str, start: int, context: str) -> None:
    """Raises `UserError` for an answer that is empty, or not where `start` says."""
    if not text.strip():
        raise UserError(
            "an answer is empty; give its text, or an empty list where the context has no answer"
        )
    if start >= 0 and context[start : start + len(text)] == text:
        return
    at = context.find(text)
    if context.encode()[max(start, 0) :].startswith(text.encode()) and start >= 0:
        why = "bytes were counted; count Unicode characters"
    elif at >= 0:
        why = f"it is at {at}; correct answer_start"
    elif not 0 <= start < len(context):
        why = f"the context has {len(context)} characters; correct answer_start"
    else:
        why = "the context does not have this text; correct the answer"
    raise UserError(f"answer_start {start} is not where the answer {text[:40]!r} is: {why}")
