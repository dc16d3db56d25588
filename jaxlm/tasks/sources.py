"""Tasks that write a target for a source: translation, summaries.

    {"source": "Save the file.", "target": "Speichern Sie die Datei."}

For a model with an encoder (`encoder: true`, objective seq2seq) source and target are texts of
their own, and for one without (objective causal_lm) they are one text, whose target is learnt:

    source_tokens   [bos] prefix source [eos]       tokens   target [eos]
    tokens          [bos] prefix source separator target [eos]

Source and target are tokenised by themselves, so that a prompt is the beginning of its training
row. They have room for `max_source` and `max_target` tokens. A longer one is an error, or loses its
end, or is left out of training, as `too_long` says; both are counted. All records of other splits
are measured, cut where they are too long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import shown
from jaxlm.core.rows import Entry, RowSpec, text_rows
from jaxlm.tasks.base import NO_LIMIT, Arrays, Extent, LeftOut, Record, Records
from jaxlm.tasks.written import WrittenTask

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer

TooLong = Literal["error", "cut", "leave_out"]


class SourceForm(NamedTuple):
    """The form of a source as ids."""

    prefix: str
    separator: str | None  # None: an encoder reads the source, and its eos ends it
    bos: bool
    eos: bool

    def ids(self, tokenizer: Tokenizer, text: str, room: int = NO_LIMIT) -> list[int]:
        """At most `room` ids: a longer text loses its end and keeps what follows it."""
        first = [tokenizer.bos_id] if self.bos and tokenizer.bos_id is not None else []
        last = [] if self.separator is None else tokenizer.encode(self.separator)
        if self.separator is None and self.eos and tokenizer.eos_id is not None:
            last = [tokenizer.eos_id]
        left = max(0, room - len(first) - len(last))
        return [*first, *tokenizer.encode(self.prefix + text)[:left], *last]


LIMITS = {"source": "data.task.max_source", "target": "data.task.max_target"}


@dataclass(frozen=True, kw_only=True)
class SourceTask(WrittenTask, abstract=True):
    """The base of tasks that write a target for a source."""

    scored: ClassVar[bool] = True
    identified_by: ClassVar[str] = "source"
    version: ClassVar[int] = 2

    source: str = field("source", "the column of the source")
    target: str = field("target", "the column of the target")
    encoder: bool = field(
        False, "a model's encoder reads the source; false: source and target are one text"
    )
    prefix: str = field("", 'text before each source, such as "translate English to German: "')
    separator: str = field("\n", "text between source and target, where they are one text")
    max_source: int | None = field(
        None, "tokens of a source; null: data.seq_len of an encoder, half of it in one text", ge=2
    )
    max_target: int | None = field(
        None, "tokens of a target; null: data.seq_len with an encoder, else the rest of it", ge=2
    )
    too_long: TooLong = field(
        "error",
        "a longer source or target is an error, loses its end, or is left out of training and cut "
        "elsewhere",
    )
    add_bos: bool = field(True, "begin each source with the tokenizer's bos, where it has one")
    add_eos: bool = field(True, "end each text with the tokenizer's eos, where it has one")

    # ------------------------------------------------------------------------- at preparation

    @property
    def columns(self) -> tuple[str, ...]:
        return self.source, self.target

    @property
    def stored(self) -> tuple[str, ...]:
        return self.source, self.target, "cut"

    @property
    def marks(self) -> tuple[bool, bool]:
        return self.add_bos, self.add_eos

    @property
    def augmented(self) -> tuple[str, ...]:
        return (self.source,)

    def identity(self, record: Record) -> str:
        return str(record[self.source])

    def texts(self, record: Record) -> Iterable[str]:
        return record[self.source], record[self.target]

    def expand(self, record: Record) -> list[Record]:
        texts = {column: self._text(record, column) for column in self.columns}
        if not all(text.strip() for text in texts.values()):
            raise LeftOut("blank")
        return [texts]

    def _text(self, record: Record, column: str) -> str:
        text = record[column]
        if not isinstance(text, str):
            setting = "source" if column == self.source else "target"
            raise UserError(
                f"column {shown(column)} holds a {type(text).__name__}, not text; set "
                f"task.{setting} to the column of the {setting}"
            )
        return text

    def fitted(self, seq_len: int) -> Self:
        source, target = self._rooms(seq_len)
        if not self.encoder and source + target > seq_len:
            raise UserError(
                f"task.max_source: sources of {source} tokens and targets of {target} do not fit "
                f"rows of {seq_len}; lower it or task.max_target, or raise data.seq_len"
            )
        return self.replace(max_source=source, max_target=target)

    def _rooms(self, seq_len: int) -> tuple[int, int]:
        """Tokens of a source and of a target, in rows of `seq_len`."""
        source = self.max_source or (seq_len if self.encoder else max(2, seq_len // 2))
        return source, self.max_target or (seq_len if self.encoder else max(2, seq_len - source))

    def longest_answer(self, seq_len: int) -> int | None:
        return self._rooms(seq_len)[1]

    def windows(self, record: Record, tokenizer: Tokenizer) -> list[Record]:
        """The record, with `cut`: which of its texts have lost their ends."""
        assert self.max_source is not None and self.max_target is not None, "it is not fitted"
        sizes = {
            "source": (len(self._source_ids(record, tokenizer)), self.max_source),
            "target": (len(self._target_ids(record, tokenizer)), self.max_target),
        }
        cut = [name for name, (size, room) in sizes.items() if size > room]
        if cut and self.too_long == "error":
            size, room = sizes[cut[0]]
            text = record[getattr(self, cut[0])]
            raise UserError(
                f"the {cut[0]} {shown(text[:60])} has {size} tokens, and there is room for {room}; "
                f"raise {LIMITS[cut[0]]}, or set data.task.too_long to cut or leave_out"
            )
        return [{**record, "cut": cut}]

    def extent(self, record: Record, tokenizer: Tokenizer) -> Extent:
        """With an encoder, the larger share of source and target, in tokens of the target's row:
        pairs that fit one side of a row fit the other.
        """
        assert self.max_source is not None and self.max_target is not None, "it is not fitted"
        source = len(self._source_ids(record, tokenizer))
        target = len(self._target_ids(record, tokenizer))
        if self.encoder:
            return Extent(max(target, -(-source * self.max_target // self.max_source)))
        kept = min(source, self.max_source)
        return Extent(kept + target, target, kept)

    def length(self, record: Record, tokenizer: Tokenizer) -> int:
        return self.extent(record, tokenizer).tokens

    def too_long_to_train(self, records: Records) -> np.ndarray | None:
        if self.too_long != "leave_out":
            return None
        return np.array([bool(cut) for cut in records.column("cut")], bool)

    def counts(self, records: Records) -> dict[str, Any]:
        cut = Counter(name for names in records.column("cut") for name in names)
        return {f"{name}s_cut": number for name, number in sorted(cut.items())}

    def remarks(self, counts: Mapping[str, Any]) -> list[str]:
        cut = {name: counts.get(f"{name}s_cut", 0) for name in ("source", "target")}
        rooms = {"source": self.max_source, "target": self.max_target}
        return [
            f"{number:,} {name}s are cut to {rooms[name]} tokens"
            for name, number in cut.items()
            if number
        ]

    # ----------------------------------------------------------------------------------- rows

    def row_spec(self, seq_len: int, pad_id: int = 0) -> RowSpec:
        if not self.encoder:
            weights = {"loss_weights": Entry(("T",), np.float32)}
            return RowSpec({**text_rows(seq_len + 1, pad_id), **weights}, T=seq_len + 1)
        sources = {f"source_{key}": Entry(("S",)) for key in ("segment_ids", "positions")}
        sources["source_tokens"] = Entry(("S",), pad=pad_id)
        source, target = self._rooms(seq_len)
        return RowSpec({**text_rows(target, pad_id), **sources}, S=source, T=target)

    def encode(
        self,
        record: Record,
        tokenizer: Tokenizer,
        room: int,
        rng: np.random.RandomState | None = None,
    ) -> Arrays:
        source = np.array(self._source_ids(record, tokenizer, self.max_source or room), np.int32)
        target = np.array(self._target_ids(record, tokenizer)[: self.max_target], np.int32)
        if self.encoder:
            return {"source_tokens": source, "tokens": target[:room]}
        weights = np.repeat(np.array([0, 1], np.float32), [len(source), len(target)])
        tokens = np.concatenate([source, target])
        return {"tokens": tokens[:room], "loss_weights": weights[:room]}

    def protected(self, arrays: Arrays) -> np.ndarray:
        trained = np.ones(len(arrays["tokens"]), bool)  # an encoder's row has the target alone
        return trained if self.encoder else super().protected(arrays)

    def authors(
        self, record: Record, tokenizer: Tokenizer, room: int = NO_LIMIT
    ) -> list[str] | None:
        end = self.add_eos and tokenizer.eos_id is not None
        target = self._target_ids(record, tokenizer)
        own = ["target"] * (len(target) - end) + ["template"] * end
        source = self._source_ids(record, tokenizer, self.max_source or NO_LIMIT)
        return own if self.encoder else ["source"] * len(source) + own

    @property
    def _form(self) -> SourceForm:
        separator = None if self.encoder else self.separator
        return SourceForm(self.prefix, separator, self.add_bos, self.add_eos)

    def _source_ids(self, record: Record, tokenizer: Tokenizer, room: int = NO_LIMIT) -> list[int]:
        return self._form.ids(tokenizer, record[self.source], room)

    def _target_ids(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        eos = [tokenizer.eos_id] if self.add_eos and tokenizer.eos_id is not None else []
        return [*tokenizer.encode(record[self.target]), *eos]

    # ---------------------------------------------------------------------- predicted, measured

    @property
    def prompt_format(self) -> str | None:
        return "source"

    @property
    def prompt_options(self) -> Mapping[str, Any]:
        return {
            "prefix": self.prefix,
            "separator": None if self.encoder else self.separator,
            "max_source": self.max_source,
            "cut": self.too_long != "error",
        }

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.source,)

    def unanswered(self, record: Record) -> Record:
        text = self._text(record, self.source)
        if not text.strip():
            raise UserError(
                f"column {shown(self.source)} is blank; give some text, or remove the record"
            )
        return {self.source: text, self.target: ""}

    def prompt(self, record: Record) -> str:
        return record[self.source]

    def answer(
        self,
        windows: Sequence[Record],
        arrays: Sequence[Mapping[str, Any]],
        tokenizer: Tokenizer,
    ) -> dict[str, Any]:
        """As `prediction`, and {"cut": true} where the end of the source was not read."""
        found = self.prediction(arrays[0])
        return {**found, "cut": True} if windows[0].get("cut") else found

    def reference(self, record: Record) -> str:
        return record[self.target]
