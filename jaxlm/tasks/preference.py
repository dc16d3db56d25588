"""Pairs of answers to a prompt, one of which is preferred.

    data:
      type: records
      # {"prompt": "2+2=", "chosen": "4", "rejected": "5"}
      source: {type: files, files: pairs.jsonl}
      task: {type: preference}
      packing: whole

A record is a text or a list of messages each, as of `jaxlm.tasks.prompt_completion`, and its two
sides lie one after the other in a row:

    tokens         [bos] prompt chosen [eos] [bos] prompt rejected [eos]
    sides            1    1     1      1       2    2      2        2
    loss_weights     0    0     1      1       0    0      1        1

A pair that is longer than the row loses the end of its longer side first. Several pairs fit into a
row by `packing: whole`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxlm.chat.rendering import Rendering
from jaxlm.core.config import UserError, field
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.tasks.base import NO_LIMIT, Arrays, Extent, LeftOut, Record
from jaxlm.tasks.conversations import Conversations, texts_in
from jaxlm.tasks.prompt_completion import PromptCompletion
from jaxlm.tasks.texts import longest_first

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer

CHOSEN, REJECTED = 1, 2  # values of `sides`


@dataclass(frozen=True, kw_only=True)
class Preference(Conversations):
    """A prompt with a chosen and a rejected answer."""

    version: ClassVar[int] = 2
    identified_by: ClassVar[str] = "prompt"

    prompt_column: str = field("prompt", "the column of the prompt")
    chosen_column: str = field("chosen", "the column of the preferred answer")
    rejected_column: str = field("rejected", "the column of the other answer")
    add_bos: bool = field(True, "begin each text with the tokenizer's bos, where it has one")
    add_eos: bool = field(True, "end each text with the tokenizer's eos, where it has one")

    @cached_property
    def one(self) -> PromptCompletion:
        """The task of one side."""
        return PromptCompletion(
            template=self.template,
            template_file=self.template_file,
            add_bos=self.add_bos,
            add_eos=self.add_eos,
        )

    def side(self, record: Record, column: str) -> Record:
        """The answer in `column` as a record of `one`."""
        return {"prompt": record[self.prompt_column], "completion": record[column]}

    def _sides(self, record: Record) -> tuple[Record, Record]:
        return self.side(record, self.chosen_column), self.side(record, self.rejected_column)

    # ------------------------------------------------------------------------- at preparation

    @property
    def columns(self) -> tuple[str, ...]:
        return self.prompt_column, self.chosen_column, self.rejected_column

    @property
    def marks(self) -> tuple[bool, bool]:
        return self.add_bos, self.add_eos

    @property
    def prompt_options(self) -> Mapping[str, Any]:
        return self.one.prompt_options

    def expand(self, record: Record) -> list[Record]:
        chosen, rejected = record[self.chosen_column], record[self.rejected_column]
        if chosen == rejected:
            raise UserError(
                f"{self.chosen_column} and {self.rejected_column} are equal, so nothing is "
                "preferred; remove the row"
            )
        for column in (self.chosen_column, self.rejected_column):
            try:
                made = self.one.expand(self.side(record, column))
            except LeftOut:
                made = []
            if not made or not record[column]:
                raise UserError(f"column {column!r} is empty; fill it in or remove the row")
        return [{column: record[column] for column in self.columns}]

    def identity(self, record: Record) -> str:
        return self.one.identity(self.side(record, self.chosen_column))

    def texts(self, record: Record) -> Iterable[str]:
        return texts_in(record, self.columns)

    # ----------------------------------------------------------------------------------- rows

    def row_spec(self, seq_len: int, pad_id: int = 0) -> RowSpec:
        rows = super().row_spec(seq_len, pad_id)
        return RowSpec({**rows, "sides": Entry(("T",))}, **rows.sizes)

    def encode(
        self,
        record: Record,
        tokenizer: Tokenizer,
        room: int,
        rng: np.random.RandomState | None = None,
    ) -> Arrays:
        sides = [self.one.encode(side, tokenizer, NO_LIMIT, rng) for side in self._sides(record)]
        chosen, rejected = (len(side["tokens"]) for side in sides)
        sizes = longest_first(chosen, rejected, room)
        keys = ("tokens", "loss_weights")
        joined = {
            key: np.concatenate([side[key][:n] for side, n in zip(sides, sizes, strict=True)])
            for key in keys
        }
        return {**joined, "sides": np.repeat([CHOSEN, REJECTED], sizes).astype(np.int32)}

    def extent(self, record: Record, tokenizer: Tokenizer) -> Extent:
        both = [self.one.extent(side, tokenizer) for side in self._sides(record)]
        tokens, trained = (sum(getattr(e, name) or 0 for e in both) for name in Extent._fields[:2])
        # Both sides must have a trained token left: of sides of a and b tokens, a row of n keeps
        # min(a, max(ceil(n / 2), n - b)) and min(b, max(floor(n / 2), n - a)) (`longest_first`).
        (a, _, chosen), (b, _, rejected) = both
        first = max(min(2 * chosen, chosen + b), min(2 * rejected + 1, rejected + a))
        return Extent(tokens, trained, first)

    def authors(
        self, record: Record, tokenizer: Tokenizer, room: int = NO_LIMIT
    ) -> list[str] | None:
        """Those of the two sides, "chosen: completion" and "rejected: completion"."""
        chosen, rejected = (self.one.authors(s, tokenizer) or [] for s in self._sides(record))
        kept = longest_first(len(chosen), len(rejected), room)
        return [
            *(f"chosen: {author}" for author in chosen[: kept[0]]),
            *(f"rejected: {author}" for author in rejected[: kept[1]]),
        ]

    def rendering(self, record: Record, tokenizer: Tokenizer) -> Rendering:
        """The text of the chosen side with its weights."""
        return self.one.rendering(self.side(record, self.chosen_column), tokenizer)

    def show(self, row: Mapping[str, Any]) -> str:
        sides = np.asarray(row["sides"])
        return f"{(sides == CHOSEN).sum()} tokens chosen, {(sides == REJECTED).sum()} rejected"

    # ---------------------------------------------------------------------- predicted, measured

    @property
    def asked(self) -> tuple[str, ...]:
        """A model that learnt from pairs writes one answer; a reward model rates two of them
        (`jaxlm.objectives.rated`).
        """
        return (self.prompt_column,)

    def unanswered(self, record: Record) -> Record:
        answers = dict.fromkeys((self.chosen_column, self.rejected_column), "")
        return {self.prompt_column: record[self.prompt_column], **answers}

    def prompt(self, record: Record) -> str:
        return self.one.prompt(self.side(record, self.chosen_column))

    def reference(self, record: Record) -> str:
        return self.one.reference(self.side(record, self.chosen_column))
