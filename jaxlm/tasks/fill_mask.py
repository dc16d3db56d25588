"""Filling masks: the tokens that a text lacks, by a model that sees both sides of them (BERT).

    {"text": "The capital of France is [MASK].", "answer": "paris"}

    run.predict(["The capital of France is [MASK]."])
    # [{"text": "the capital of france is paris.", "score": -0.31, "fills": [[{"token": "paris",
    #   "id": 3000, "score": 0.73}, ...]]}]

The mask is written as the tokenizer has it, or [MASK]; a text has at most 16. `score` is the log
probability of the likeliest tokens. For a text without a mask it is the pseudo-log-likelihood
(Salazar et al. 2020, arXiv:1910.14659): each token in turn is hidden, in a row of its own,

    score = sum_t log p(x_t | all other tokens),   perplexity = exp(-score / T)

`answer` is what an evaluation compares with, in accuracy and perplexity of the masked tokens: as
many tokens as the text has masks.

A text that is longer than a row is an error. Or it is cut (`too_long`): the tokens around its masks
stay, and the beginning of a text without masks; a prediction says `"cut": true`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import shown
from jaxlm.core.rows import Entry, RowSpec, text_rows
from jaxlm.tasks.base import NO_LIMIT, Arrays, Change, LeftOut, Record, Records
from jaxlm.tasks.texts import TextTask, fitting

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer

MOST_MASKS = 16  # of a text
SPELLINGS = ("[MASK]", "<mask>")
TooLong = Literal["error", "cut", "leave_out"]


@dataclass(frozen=True, kw_only=True)
class FillMask(TextTask):
    """The tokens that belong in the masks of a text."""

    has_places: ClassVar[bool] = True

    answer_column: str = field("answer", "the column of the tokens that belong in the masks")
    mask: int | str | None = field(None, "the mask's id or spelling; null: as usual")
    max_length: int | None = field(None, "tokens of a row at most; null: data.seq_len", ge=3)
    too_long: TooLong = field(
        "error",
        "a longer text is an error, loses what is far from its masks, or is left out of training "
        "and cut elsewhere",
    )

    # ------------------------------------------------------------------------- at preparation

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text, self.answer_column)

    def expand(self, record: Record) -> list[Record]:
        texts, answer = self._texts_of(record), record[self.answer_column]
        if not isinstance(answer, str):
            raise UserError(
                f"column {shown(self.answer_column)} holds a {type(answer).__name__}; give the "
                "text that belongs in the masks"
            )
        if not answer.strip():
            raise LeftOut("without an answer")
        return [{**texts, self.answer_column: answer}]

    def fitted(self, seq_len: int) -> Self:
        return self.replace(max_length=fitting(self.max_length, seq_len))

    @property
    def stored(self) -> tuple[str, ...]:
        return self.columns if self.too_long == "error" else (*self.columns, "cut")

    def fingerprint(self, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
        """Without `too_long` where it is an error: the records are then those of versions without
        it.
        """
        options = super().fingerprint(tokenizer)
        return {n: value for n, value in options.items() if n != "too_long" or value != "error"}

    def windows(self, record: Record, tokenizer: Tokenizer) -> list[Record]:
        """The record, or one for each token of a text without a mask."""
        ids, mask = self._read(record, tokenizer)
        room = self._room(tokenizer, self.max_length or NO_LIMIT)
        is_cut, count = len(ids) > room, ids.count(mask)
        if count > MOST_MASKS:
            raise UserError(f"a text has {count} masks; give it at most {MOST_MASKS}")
        kept = ids[_around(ids, mask, room)]
        if is_cut and (self.too_long == "error" or kept.count(mask) < count):
            ends = sum(map(len, self._marks(tokenizer)[::2]))
            own = f"a text of {len(ids) + ends} tokens does not fit rows of {self.max_length}"
            if self.too_long == "error":
                raise UserError(f"{own}; shorten it, or set data.task.too_long to cut or leave_out")
            raise UserError(f"{own}, which are too few for all of its masks; shorten it")
        if answer := record[self.answer_column]:
            self._answer_ids(answer, count, tokenizer)
        if count or not ids:
            return [{**record, "hidden": None, "first": True, "cut": is_cut}]
        begin = len(self._marks(tokenizer)[0])
        return [
            {**record, "hidden": begin + n, "first": n == 0, "cut": is_cut}
            for n in range(len(kept))
        ]

    def begins(self, window: Record) -> bool:
        return window["first"]

    def too_long_to_train(self, records: Records) -> np.ndarray | None:
        if self.too_long != "leave_out":
            return None
        return np.array([*records.column("cut")], bool)

    def counts(self, records: Records) -> dict[str, Any]:
        number = 0 if self.too_long == "error" else sum(records.column("cut"))
        return {"texts_cut": number} if number else {}

    def remarks(self, counts: Mapping[str, Any]) -> list[str]:
        number = counts.get("texts_cut")
        return [f"{number:,} texts are cut to {self.max_length} tokens"] if number else []

    # ----------------------------------------------------------------------------------- rows

    def row_spec(self, seq_len: int, pad_id: int = 0) -> RowSpec:
        """`hidden` is 1 at masks, where `targets` are the right tokens, -1 where not known."""
        asked = {"targets": Entry(("T",)), "hidden": Entry(("T",), np.float32)}
        return RowSpec({**text_rows(seq_len, pad_id), **asked}, T=seq_len)

    def encode(
        self,
        record: Record,
        tokenizer: Tokenizer,
        room: int,
        rng: np.random.RandomState | None = None,
    ) -> Arrays:
        ids, mask = self._read(record, tokenizer)
        bos, _, eos = self._marks(tokenizer)
        kept = _around(ids, mask, self._room(tokenizer, min(room, self.max_length or room)))
        found = ids[kept]
        tokens = np.array([*bos, *found, *eos][:room], np.int32)
        targets, place = tokens.copy(), record.get("hidden")
        if place is not None:
            tokens[place] = mask
        hidden = tokens == mask
        if answer := record[self.answer_column]:
            answers = self._answer_ids(answer, ids.count(mask), tokenizer)
            first = ids[: kept.start].count(mask)
            targets[hidden] = answers[first:][: hidden.sum()]
        elif place is None:
            targets[hidden] = -1
        return {"tokens": tokens, "targets": targets, "hidden": hidden.astype(np.float32)}

    def length(self, record: Record, tokenizer: Tokenizer) -> int:
        bos, _, eos = self._marks(tokenizer)
        return len(bos) + len(self._read(record, tokenizer)[0]) + len(eos)

    def authors(
        self, record: Record, tokenizer: Tokenizer, room: int = NO_LIMIT
    ) -> list[str] | None:
        """ "mask" at what is to be filled in."""
        bos, _, eos = self._marks(tokenizer)
        hidden = self.encode(record, tokenizer, room)["hidden"]
        own = ["mask" if is_hidden else self.text for is_hidden in hidden]
        size = len(own) - len(bos) - len(eos)
        return ["template" for _ in bos] + own[len(bos) :][:size] + ["template" for _ in eos]

    def painted(self, row: Mapping[str, Any]) -> np.ndarray | None:
        return ((row["hidden"] > 0) & (row["targets"] >= 0)).astype(np.float32)

    def changed(
        self, record: Record, column: str, change: Change, rng: np.random.RandomState
    ) -> Record:
        """The masks stay."""
        text = self._text(record, column)
        names = [re.escape(name) for name in (*SPELLINGS, self.mask) if isinstance(name, str)]
        spans = [found.span() for found in re.finditer("|".join(names), text)]
        return {**record, column: change.around(text, spans, rng)[0]}

    def protected(self, arrays: Arrays) -> np.ndarray:
        return arrays["hidden"] > 0

    def _room(self, tokenizer: Tokenizer, size: int) -> int:
        """Tokens of a text in a row of `size`."""
        return max(0, size - sum(map(len, self._marks(tokenizer)[::2])))

    def _read(self, record: Record, tokenizer: Tokenizer) -> tuple[list[int], int]:
        """(the ids of a text, the mask's id)."""
        mask = self._mask(tokenizer)
        text, spelt = record[self.text], tokenizer.special_tokens
        if mask in spelt.values():
            name = next(name for name, i in spelt.items() if i == mask)
            text = text.replace(SPELLINGS[0], name)
            return list(tokenizer.encode_with_offsets(text, special=True)[0]), mask
        parts = [tokenizer.encode(part) if part else [] for part in text.split(SPELLINGS[0])]
        return [*parts[0], *(i for part in parts[1:] for i in (mask, *part))], mask

    def _mask(self, tokenizer: Tokenizer) -> int:
        if isinstance(self.mask, int):
            return self.mask
        names = SPELLINGS if self.mask is None else (self.mask,)
        found = next((i for i in map(tokenizer.id_of, names) if i is not None), None)
        if found is None:
            raise UserError(f"task.mask: the tokenizer has no {names[0]}; set the id of the mask")
        return found

    def _answer_ids(self, answer: str, count: int, tokenizer: Tokenizer) -> list[int]:
        ids = tokenizer.encode(answer)
        if len(ids) != count:
            raise UserError(
                f"column {shown(self.answer_column)} holds {shown(answer)}, {len(ids)} tokens for "
                f"{count} masks; give each token a mask"
            )
        return ids

    # ---------------------------------------------------------------------- predicted, measured

    def _placeholder(self) -> Record:
        return {self.answer_column: ""}

    def answer(
        self,
        windows: Sequence[Record],
        arrays: Sequence[Mapping[str, np.ndarray]],
        tokenizer: Tokenizer,
    ) -> dict[str, Any]:
        """{"text", "score", "fills"} of a text with masks, {"text", "score", "perplexity"} of
        another. arrays: `ids` and `log_probs` [M, k] of the likeliest tokens of each mask, and
        `target_log_probs` [M].
        """
        cut = {"cut": True} if windows[0].get("cut") else {}
        if windows[0]["hidden"] is not None:
            score = sum(float(each["target_log_probs"][0]) for each in arrays)
            perplexity = math.exp(min(-score / len(windows), 700.0))
            found = {"text": windows[0][self.text], "score": score, "perplexity": perplexity}
            return {**found, **cut}
        own = self.encode(windows[0], tokenizer, self.max_length or NO_LIMIT)
        tokens, places = own["tokens"], np.flatnonzero(own["hidden"])
        ids, log_probs = (arrays[0][name][: len(places)] for name in ("ids", "log_probs"))
        tokens[places] = ids[:, 0]
        fills = [
            [
                {"token": _text([i], tokenizer), "id": int(i), "score": math.exp(p)}
                for i, p in zip(*each, strict=True)
            ]
            for each in zip(ids, log_probs, strict=True)
        ]
        score = float(log_probs[:, 0].sum())
        return {"text": _text(tokens, tokenizer), "score": score, "fills": fills, **cut}


def _around(ids: list[int], mask: int, room: int) -> slice:
    """At most `room` of the ids, with the masks in the middle; the first ones of a text without."""
    places = [place for place, i in enumerate(ids) if i == mask]
    middle = (places[0] + places[-1] + 1) // 2 if places else 0
    start = max(0, min(middle - room // 2, len(ids) - room))
    return slice(start, start + room)


def _text(ids: Iterable[int], tokenizer: Tokenizer) -> str:
    """The text of ids, without those of special tokens and those that the tokenizer lacks."""
    return tokenizer.decode([int(i) for i in ids if i < tokenizer.vocab_size]).strip()
