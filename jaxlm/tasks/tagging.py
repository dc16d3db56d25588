"""A tag for each word: parts of speech, named entities.

    data:
      type: records
      source: {type: jsonl, files: news.jsonl}
      task: {type: tagging, tokens: tokens, tags: ner_tags}

Both columns hold lists of equal length, or texts whose words are divided by spaces. A row is
[bos] word word ... [eos]; each word has its own tokens, encoded as after `joiner` in a running text
("" where the script has no spaces), and its first token alone is learnt and predicted. A sentence
that is longer than a row becomes several. The measures are token accuracy and, where the tags are
those of entities (BIO, IOBES), seqeval's F1 (`jaxlm.tasks.entities`), default and strict.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import few, shown
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry, RowSpec, text_rows
from jaxlm.tasks.base import NO_LIMIT, Arrays, Change, LeftOut, Record, Records, Task
from jaxlm.tasks.classification import class_name
from jaxlm.tasks.entities import entity_scores, is_of_entities, kept_together
from jaxlm.tasks.texts import fitting, special_tokens

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer

ACCURACY = Measure(
    "token_accuracy", better="higher", show="headline", label="token accuracy", format=".1%"
)
F1 = Measure("f1", better="higher", show="headline", label="entity F1", format=".3f")
PRECISION = Measure("precision", better="higher", label="entity precision", format=".3f")
RECALL = Measure("recall", better="higher", label="entity recall", format=".3f")
STRICT = Measure("strict_f1", better="higher", label="strict entity F1", format=".3f")


@dataclass(frozen=True, kw_only=True)
class Tagging(Task):
    """A tag for each word."""

    scored: ClassVar[bool] = True
    baseline_title: ClassVar[str] = "most frequent tag of a word"
    version: ClassVar[int] = 2
    has_places: ClassVar[bool] = True

    tokens: str = field("tokens", "the column of the words: a list, or a text with spaces")
    tags: str = field("tags", "the column of the tags, one a word")
    classes: tuple[str, ...] = field(
        (), "the tags in order; empty: those of the training records, sorted"
    )
    joiner: str = field(" ", 'text between words, which tokens may begin with; "" for Chinese')
    add_bos: bool = field(True, "begin each row with the tokenizer's bos, where it has one")
    add_eos: bool = field(True, "end each row with the tokenizer's eos, where it has one")
    max_length: int | None = field(
        None, "tokens of a row, more make another; null: data.seq_len", ge=4
    )

    def validate(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise UserError("classes names a tag twice; name each once")

    # ------------------------------------------------------------------------- at preparation

    @property
    def columns(self) -> tuple[str, ...]:
        return self.tokens, self.tags

    @property
    def stored(self) -> tuple[str, ...]:
        return self.tokens, self.tags, "first"

    @property
    def marks(self) -> tuple[bool, bool]:
        return self.add_bos, self.add_eos

    def identity(self, record: Record) -> str:
        return " ".join(words_of(record[self.tokens], self.tokens))

    def texts(self, record: Record) -> Iterable[str]:
        return (self.joiner.join(words_of(record[self.tokens], self.tokens)),)

    def expand(self, record: Record) -> list[Record]:
        words = words_of(record[self.tokens], self.tokens)
        tags = words_of(record[self.tags], self.tags)
        if not words:
            raise LeftOut("blank")
        if len(words) != len(tags):
            raise UserError(
                f"column {shown(self.tokens)} has {len(words)} words and {shown(self.tags)} "
                f"{len(tags)} tags; give each word one tag"
            )
        return [{self.tokens: words, self.tags: tags}]

    def fitted(self, seq_len: int) -> Self:
        return self.replace(max_length=fitting(self.max_length, seq_len))

    def windows(self, record: Record, tokenizer: Tokenizer) -> list[Record]:
        """As many words as fit a row, each word once."""
        assert self.max_length is not None, "the task is not fitted"
        bos, _, eos = special_tokens(tokenizer, self.add_bos, self.add_eos)
        room, found, size = self.max_length - len(bos) - len(eos), [0], 0
        for i, ids in enumerate(self._word_ids(record, tokenizer)):
            if size and size + len(ids) > room:
                found.append(i)
                size = 0
            size += len(ids)
        words, tags = record[self.tokens], record[self.tags]
        spans = zip(found, [*found[1:], len(words)], strict=True)
        return [{self.tokens: words[a:b], self.tags: tags[a:b], "first": a == 0} for a, b in spans]

    def begins(self, window: Record) -> bool:
        return window["first"]

    def whole(self, windows: Sequence[Record]) -> Record:
        return {
            name: [value for window in windows for value in window[name]] for name in self.columns
        }

    def resolve(self, records: Records) -> Mapping[str, Any]:
        found = {tag for tags in records.column(self.tags) for tag in tags}
        return {"classes": list(self.classes or sorted(found))}

    def given(self, facts: Mapping[str, Any]) -> Self:
        return self.replace(classes=tuple(facts["classes"]))

    def counts(self, records: Records) -> dict[str, Any]:
        found = Counter(tag for tags in records.column(self.tags) for tag in tags)
        if unknown := sorted(found.keys() - set(self.classes)):
            raise UserError(
                f"tags that training never saw: {few(unknown)} (known: {few(self.classes)}); drop "
                "those rows, or train with data.task.classes, which names all tags"
            )
        return {"words": found.total()}

    # ----------------------------------------------------------------------------- as rows

    def row_spec(self, seq_len: int, pad_id: int = 0) -> RowSpec:
        tags = {"targets": Entry(("T",)), "loss_weights": Entry(("T",), np.float32)}
        return RowSpec({**text_rows(seq_len, pad_id), **tags}, T=seq_len)

    def encode(
        self,
        record: Record,
        tokenizer: Tokenizer,
        room: int,
        rng: np.random.RandomState | None = None,
    ) -> Arrays:
        bos, _, eos = special_tokens(tokenizer, self.add_bos, self.add_eos)
        words = self._word_ids(record, tokenizer)
        ids = np.array([*bos, *(i for word in words for i in word), *eos], np.int32)
        starts = len(bos) + np.cumsum([0, *map(len, words[:-1])])
        weights, targets = np.zeros(len(ids), np.float32), np.zeros(len(ids), np.int32)
        weights[starts] = 1
        number = {name: i for i, name in enumerate(self.classes)}
        targets[starts] = [number[tag] for tag in record[self.tags]]
        return {"tokens": ids[:room], "targets": targets[:room], "loss_weights": weights[:room]}

    def length(self, record: Record, tokenizer: Tokenizer) -> int:
        bos, _, eos = special_tokens(tokenizer, self.add_bos, self.add_eos)
        return len(bos) + len(eos) + sum(map(len, self._word_ids(record, tokenizer)))

    def _word_ids(self, record: Record, tokenizer: Tokenizer) -> list[list[int]]:
        """The tokens of each word, at least one; a word in the middle of a sentence follows the
        joiner, also where a window begins with it.
        """
        words = record[self.tokens]
        joiner = "" if getattr(tokenizer, "adds_space", False) else self.joiner
        joined = [joiner + word for word in words]
        if record.get("first", True):
            joined[:1] = words[:1]
        found = tokenizer.encode_batch(joined)
        unknown = getattr(tokenizer, "unk_id", None)
        for i, ids in enumerate(found):
            if not ids and unknown is None:
                raise UserError(f"the word {words[i]!r} has no token; remove it")
            found[i] = ids or [unknown]  # type: ignore[list-item]
        return found

    def authors(
        self, record: Record, tokenizer: Tokenizer, room: int = NO_LIMIT
    ) -> list[str] | None:
        """The tag of each word, at all of its tokens."""
        bos, _, eos = special_tokens(tokenizer, self.add_bos, self.add_eos)
        words = zip(record[self.tags], self._word_ids(record, tokenizer), strict=True)
        own = [tag for tag, ids in words for _ in ids]
        return ["template" for _ in bos] + own + ["template" for _ in eos]

    def show(self, row: Mapping[str, Any]) -> str:
        learnt = np.asarray(row["loss_weights"]) > 0
        return f"tags {few(self.classes[i] for i in np.asarray(row['targets'])[learnt])}"

    # -------------------------------------------------------------------------- augmented

    @property
    def augmented(self) -> tuple[str, ...]:
        return (self.tokens,)

    def changed(
        self, record: Record, column: str, change: Change, rng: np.random.RandomState
    ) -> Record:
        """Words with their tags; entities stay as they are."""
        tags = record[self.tags]
        spans = kept_together(tags) if is_of_entities(self.classes or tags) else []
        words, origins = change.of_words(record[column], spans, rng)
        return {**record, column: words, self.tags: [tags[i] for i in origins]}

    # -------------------------------------------------------------------------- predicted

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.tokens,)

    def unanswered(self, record: Record) -> Record:
        words = words_of(record[self.tokens], self.tokens)
        if not words:
            raise UserError(
                f"column {shown(self.tokens)} has no words; give some, or remove the record"
            )
        return {self.tokens: words, self.tags: [self.classes[0]] * len(words)}

    def answer(
        self,
        windows: Sequence[Record],
        arrays: Sequence[Mapping[str, np.ndarray]],
        tokenizer: Tokenizer,
    ) -> dict[str, Any]:
        """{"tags": [a tag for each word], "scores": [its probability]}.

        arrays: `probs` [T, C] and `learnt` [T], true at the first token of a word.
        """
        probs = np.concatenate([a["probs"][a["learnt"]] for a in arrays])
        best = probs.argmax(-1)
        scores = probs[np.arange(len(best)), best]
        return {"tags": [self.classes[i] for i in best], "scores": scores.tolist()}

    def said(self, prediction: Mapping[str, Any]) -> Any:
        return prediction["tags"]

    # --------------------------------------------------------------------------- measured

    def baseline(self, train: Records) -> Callable[[Record], Any]:
        """The most frequent tag of each word in training; of other words, the most frequent."""
        by_word: dict[str, Counter[str]] = defaultdict(Counter)
        for words, tags in zip(train.column(self.tokens), train.column(self.tags), strict=True):
            for word, tag in zip(words, tags, strict=True):
                by_word[word][tag] += 1
        overall: Counter[str] = Counter()
        for counts in by_word.values():
            overall.update(counts)
        default = overall.most_common(1)[0][0] if overall else ""
        best = {word: counts.most_common(1)[0][0] for word, counts in by_word.items()}
        return lambda record: [best.get(word, default) for word in record[self.tokens]]

    def score(self, predictions: Sequence[Any], records: Iterable[Record]) -> list[Measure]:
        """`predictions` are lists of tags, one a word."""
        true = [words_of(record[self.tags], self.tags) for record in records]
        pairs = [p for both in zip(predictions, true, strict=True) for p in zip(*both, strict=True)]
        right = sum(guess == tag for guess, tag in pairs)
        found = [ACCURACY.of(right / max(len(pairs), 1))]
        if is_of_entities(self.classes or (tag for _, tag in pairs)):
            scores = entity_scores(predictions, true)
            strict = entity_scores(predictions, true, strict=True)
            found += [
                F1.of(scores.f1),
                PRECISION.of(scores.precision),
                RECALL.of(scores.recall),
                STRICT.of(strict.f1),
            ]
        return found


def words_of(value: Any, column: str) -> list[str]:
    """A column's value as a list of words or tags. Raises `UserError`."""
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list | tuple):
        raise UserError(
            f"column {column!r} holds a {type(value).__name__}, not a list; give a list of texts, "
            "or a text with spaces between words"
        )
    names = [class_name(each) for each in value]
    if None in names:
        raise UserError(f"column {column!r} has a blank at place {names.index(None)}; fill it")
    return names  # type: ignore[return-value]
