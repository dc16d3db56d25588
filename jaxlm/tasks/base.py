"""A task: it says what the columns of a record mean.

A record is a dict of named columns, as a source reads it: {"text": "a fine film", "label": "good"}.
A task makes rows of it in two phases:

    expand    at preparation, 1 -> n records: turns of a chat
    windows   at preparation as well, 1 -> n records that fit a row: strides over a long text
    encode    when a row is read, 1 -> 1: after augmentation, a pure function to arrays

A new task is one file: a frozen config that derives from `Task`; `jaxlm.core.registry` says where
it may be. The dataset cuts nothing: `encode` gets the room that it has. It adds `segment_ids` and
`positions`, and pads by the row spec. As an example, `jaxlm/tasks/classification.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

from jaxlm.core.config import Config, Kind, UserError, to_dict
from jaxlm.core.rows import RowSpec

if TYPE_CHECKING:
    import numpy as np

    from jaxlm.core.measures import Measure
    from jaxlm.core.types import Tokenizer

Record = dict[str, Any]
Arrays = dict[str, Any]
Span = tuple[int, int]
NO_LIMIT = 2**31 - 1
LEAD, BETWEEN = "\n", "\n\n"  # of few-shot prompts: before an answer, and after an example


class Records(Protocol):
    """Records of one split, at random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def __iter__(self) -> Iterator[Record]: ...

    def column(self, name: str) -> Iterator[Any]:
        """One column of all records: much quicker than the records."""
        ...


class Change(Protocol):
    """A random change of a text: an augmentation."""

    def __call__(self, text: str, rng: np.random.RandomState) -> str: ...

    def around(
        self, text: str, spans: Sequence[Span], rng: np.random.RandomState
    ) -> tuple[str, list[Span]]:
        """The changed text, and where the texts of `spans` (in characters) are in it, unchanged."""
        ...

    def of_words(
        self, words: Sequence[str], spans: Sequence[Span], rng: np.random.RandomState
    ) -> tuple[list[str], list[int]]:
        """The changed words, and for each the number of the word whose tag it has; the words of a
        span stay, side by side.
        """
        ...


class Extent(NamedTuple):
    """Tokens of a record, nothing cut. trained: those that have a loss weight, the first of which
    is number `first`; None: the task does not say.
    """

    tokens: int
    trained: int | None = None
    first: int = 0


class Asked(NamedTuple):
    """A prompt, and the text that ends the answer; "": the model ends it itself."""

    prompt: str
    stop: str


class LeftOut(Exception):
    """Raised by `expand` for a record that is left out; the text is the reason, which is counted
    ("unlabelled").
    """


@dataclass(frozen=True, kw_only=True)
class Task(Config):
    """The meaning of a record's columns, as numpy arrays."""

    kind: ClassVar = Kind("tasks", "task", folder="jaxlm.tasks")

    # Whether `encode` draws from the generator that it gets.
    draws: ClassVar[bool] = False
    # Whether `score` measures what the sums of an objective do not, so that an evaluation asks it.
    scored: ClassVar[bool] = False
    # Whether an answer is text that the model writes after `prompt`; else an objective predicts it.
    # `jaxlm.tasks.written.WrittenTask` is the base of those that do.
    writes: ClassVar[bool] = False
    # Whether its records have answers, which most objectives learn.
    has_answers: ClassVar[bool] = True
    # What `baseline` says, for people: "largest class".
    baseline_title: ClassVar[str] = "baseline"
    # Whether records have places in a text, or tags of its words, which a change must keep:
    # `changed` then uses `Change.around` or `of_words`.
    has_places: ClassVar[bool] = False
    # The keys of arrays that are numbers of tokens, such as where an answer starts.
    places: ClassVar[tuple[str, ...]] = ()
    # Raise it when `expand` or `length` come to give others for the same records and options.
    version: ClassVar[int] = 1
    # what `identity` is, as an error names it
    identified_by: ClassVar[str] = "text"

    # ------------------------------------------------------------------------- at preparation

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a source's records that it reads."""
        raise NotImplementedError

    @property
    def column_names(self) -> dict[str, str]:
        """{the usual name of a column: its name in this task's records}, of those that are read.

        They follow from the fields that name columns: a field's default is the usual name, or the
        field's own name where the column is optional.
        """
        read, found = {*self.columns, *self.asked}, dict[str, str]()
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if isinstance(value, str) and value in read:
                found[one.default if isinstance(one.default, str) else one.name] = value
        return found

    def without(self, column: str) -> str:
        """Advice for records that lack one of `columns`, beside that to add it; "": none."""
        return ""

    @property
    def stored(self) -> tuple[str, ...]:
        """The columns of the records that `expand` gives."""
        return self.columns

    def expand(self, record: Record) -> list[Record]:
        """The records that are made of one of the source's. Raises `LeftOut`, or `UserError` where
        a value is not what it must be (file and line are added).
        """
        return [record]

    def fitted(self, seq_len: int) -> Self:
        """The task for rows of `seq_len` tokens, as `windows` may need. Raises `UserError`."""
        return self

    def windows(self, record: Record, tokenizer: Tokenizer) -> list[Record]:
        """An expanded record as records that fit a row each, such as strides over a long text."""
        return [record]

    def begins(self, window: Record) -> bool:
        """Whether a record of `windows` is the first one of its record."""
        return True

    def whole(self, windows: Sequence[Record]) -> Record:
        """The expanded record that these windows are made of, for `score`."""
        return windows[0]

    def identity(self, record: Record) -> str:
        """The part of a source's record that the split's hash is taken of: records of equal
        identity are on one side.
        """
        raise NotImplementedError

    def fingerprint(self, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
        """The options that decide what records become, as JSON values, which hashes of data
        include. tokenizer: the equipped one, where the hash does not include its fingerprint.
        """
        return to_dict(self)

    def equipped(self, tokenizer: Tokenizer) -> Tokenizer:
        """The tokenizer with what the task needs of it, such as a chat template: a run keeps it."""
        return tokenizer

    def chosen(self, tokenizer: Tokenizer) -> str:
        """The findings besides the format of the files, as in "chat template: chatml"."""
        return ""

    def texts(self, record: Record) -> Iterable[str]:
        """The texts that a tokenizer is trained on."""
        raise NotImplementedError

    def resolve(self, records: Records) -> Mapping[str, Any]:
        """The facts that only the training records tell, as JSON values: {"classes": [...]}. An
        objective finds them as `prepared.facts`.
        """
        return {}

    def given(self, facts: Mapping[str, Any]) -> Self:
        """The task with these facts, which `encode` may need."""
        return self

    def too_long_to_train(self, records: Records) -> np.ndarray | None:
        """[n] bool: the records that the training split leaves out, and other splits keep, cut;
        None: it keeps all.
        """
        return None

    def counts(self, records: Records) -> dict[str, Any]:
        """The manifest's counts of a split's records. Raises `UserError` for records that the
        resolved task cannot encode.
        """
        return {}

    def remarks(self, counts: Mapping[str, Any]) -> list[str]:
        """The log's remarks on a split's `counts`: that records lose their ends, and the like."""
        return []

    # ----------------------------------------------------------------------------- as rows

    def row_spec(self, seq_len: int, pad_id: int = 0) -> RowSpec:
        """The entries of a row of `seq_len` tokens; includes what the dataset adds."""
        raise NotImplementedError

    def encode(
        self,
        record: Record,
        tokenizer: Tokenizer,
        room: int,
        rng: np.random.RandomState | None = None,
    ) -> Arrays:
        """{key: array} of at most `room` tokens (size T of the row spec), without padding; a pure
        function.

        rng: draws of this row in this epoch; None where none may be drawn (validation).
        """
        raise NotImplementedError

    def length(self, record: Record, tokenizer: Tokenizer) -> int:
        """Tokens of a record that nothing is cut from; of a task without facts as well."""
        return len(self.encode(record, tokenizer, NO_LIMIT)["tokens"])

    def extent(self, record: Record, tokenizer: Tokenizer) -> Extent:
        """The length of a record, and how many of its tokens are trained, where the task chooses
        them. Raises `UserError` for a record in which nothing is (file and line are added).
        """
        return Extent(self.length(record, tokenizer))

    @property
    def augmented(self) -> tuple[str, ...]:
        """The columns of text that augmentation may change."""
        return ()

    def changed(
        self, record: Record, column: str, change: Change, rng: np.random.RandomState
    ) -> Record:
        """A record whose text in `column` is changed, with the same answer. Raises `UserError` for
        a value that is not text, such as a list of messages.
        """
        text = record[column]
        if not isinstance(text, str):
            raise UserError(
                f"augment: column {column!r} holds a {type(text).__name__}, not text; name columns "
                "of text in its columns, or remove it"
            )
        return {**record, column: change(text, rng)}

    def protected(self, arrays: Arrays) -> np.ndarray:
        """[T] bool: the tokens that augmentation leaves, those that are trained."""
        import numpy as np

        weights = arrays.get("loss_weights")
        return np.zeros(len(arrays["tokens"]), bool) if weights is None else weights > 0

    @property
    def prompt_format(self) -> str | None:
        """The type of the prompt format in which a model of this task is asked; None: its own."""
        return None

    @property
    def prompt_options(self) -> Mapping[str, Any]:
        """The options of `prompt_format`, by name."""
        return {}

    @property
    def marks(self) -> tuple[bool, bool]:
        """Whether an encoded text begins with the tokenizer's bos and ends with its eos."""
        return True, True

    def authors(
        self, record: Record, tokenizer: Tokenizer, room: int = NO_LIMIT
    ) -> list[str] | None:
        """The author of each token that `encode` gives with this room: "user", "template", ..., or
        what it is of the record: "question"; None: the task does not say. More are left out.
        """
        return None

    def painted(self, row: Mapping[str, Any]) -> np.ndarray | None:
        """[T] the weight with which `jaxlm data inspect` shows each token of a row; None: tokens
        are not what is trained, as where a text has a class.
        """
        return row.get("loss_weights")

    def show(self, row: Mapping[str, Any]) -> str:
        """The text of `jaxlm data inspect` on a row beside its tokens, as in "class good (1)"."""
        return ""

    # -------------------------------------------------------------------------- predicted

    @property
    def asked(self) -> tuple[str, ...]:
        """The columns that a record has whose answer is not known; (): such records cannot be read,
        and nothing is predicted for them.
        """
        return ()

    def asked_of(self, columns: Iterable[str]) -> tuple[str, ...]:
        """`asked`, of records that have these columns: a task may read records of several kinds."""
        return self.asked

    def unanswered(self, record: Record) -> Record:
        """A record for `encode`, of one that has the columns `asked` alone; what it has in place of
        the answer has no effect on a prediction. Raises `UserError` where a value is not what it
        must be (the place is added).
        """
        raise NotImplementedError

    def prediction(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The prediction of an objective for one record, as JSON values.

        arrays: of `Objective.predict`, by name, without the dim B; those of tokens are padded to T.
        """
        return {name: value.tolist() for name, value in arrays.items()}

    def answer(
        self,
        windows: Sequence[Record],
        arrays: Sequence[Mapping[str, np.ndarray]],
        tokenizer: Tokenizer,
    ) -> dict[str, Any]:
        """The prediction for one record, of which these are all windows, as JSON values; arrays:
        of each window, as those of `prediction`.
        """
        return self.prediction(arrays[0])

    def said(self, prediction: Mapping[str, Any]) -> Any:
        """The value of an `answer` that `score` compares."""
        return prediction

    # --------------------------------------------------------------------------- measured

    def baseline(self, train: Records) -> Callable[[Record], Any] | None:
        """A guess for a record without a model, from the training records, as `score` takes it: the
        largest class, the most frequent tag of a word. None: no guess is known.
        """
        return None

    def prompt(self, record: Record) -> str:
        """The text that a model is asked with, of a record whose answer is not known."""
        raise NotImplementedError

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers that there are, where they are few: a language model chooses the likeliest
        one after the prompt; (): it writes the answer.
        """
        return ()

    def reference(self, record: Record) -> str:
        """The text of the right answer to the prompt."""
        raise NotImplementedError

    def shots(self, examples: Sequence[Record], record: Record) -> Asked:
        """The prompt of a record after examples with their answers."""
        parts = [f"{self.prompt(each)}{LEAD}{self.reference(each)}" for each in examples]
        return Asked(BETWEEN.join([*parts, f"{self.prompt(record)}{LEAD}"]), BETWEEN)

    def grade(self, record: Record, answer: str) -> float:
        """The correctness of an answer to the prompt, in [0, 1]."""
        raise NotImplementedError

    def check_score(self) -> None:
        """Raises `UserError` where `score` needs a package that is not installed."""

    def score(self, predictions: Sequence[Any], records: Iterable[Record]) -> list[Measure]:
        """The measures of a corpus: prediction i is the answer for record i. Those of no records
        have the same names. None: the objective's own measures are all there are.
        """
        return []
