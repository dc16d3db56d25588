"""Prompts without answers, for objectives that learn from rewards of what the model writes.

    data:
      type: records
      source: {type: jsonl, files: prompts.jsonl}      # {"prompt": "A haiku about rain:"}
      task: {type: prompts, keep: [tests]}
    objective: {type: grpo, rewards: ["my_rewards:five_seven_five"]}

A prompt is a text or a list of messages, as in `jaxlm.tasks.prompt_completion`. A row has the
tokens of its prompt, none of which is trained. Held-out prompts have no loss: what the model writes
for them is measured by the evaluator `rewards`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxlm.chat.rendering import Rendering
from jaxlm.core.config import UserError, field
from jaxlm.core.measures import Measure
from jaxlm.tasks.base import NO_LIMIT, Arrays, Extent, LeftOut, Record, Records
from jaxlm.tasks.conversations import (
    Conversations,
    Message,
    as_prompt,
    conversation_of,
    renderer_of,
    texts_in,
)

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer


WITHOUT = (
    "data.task: prompts has no column of answers to compare with; use prompt_completion, or "
    "rewards of your own"
)


@dataclass(frozen=True, kw_only=True)
class Prompts(Conversations):
    """A prompt, whose answers rewards grade."""

    has_answers: ClassVar[bool] = False

    prompt_column: str = field("prompt", "the column of the prompt")
    keep: tuple[str, ...] = field(
        (), "more columns that a record keeps, which rewards read, such as tests"
    )
    add_bos: bool = field(True, "begin each text with the tokenizer's bos, where it has one")
    add_eos: bool = field(True, "the tokenizer's eos ends what is written, where it has one")

    # ------------------------------------------------------------------------- at preparation

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([self.prompt_column, *self.keep]))

    @property
    def marks(self) -> tuple[bool, bool]:
        return self.add_bos, self.add_eos

    @property
    def prompt_options(self) -> Mapping[str, Any]:
        return {"texts": self._templated}

    @property
    def _templated(self) -> bool:
        return self.template is not None or self.template_file is not None

    def expand(self, record: Record) -> list[Record]:
        given = record[self.prompt_column]
        if not isinstance(given, str):
            conversation_of(given, self.prompt_column)
        elif not given.strip():
            raise LeftOut("blank")
        return [{column: record[column] for column in self.columns}]

    def identity(self, record: Record) -> str:
        given = record[self.prompt_column]
        return given if isinstance(given, str) else as_prompt(given)

    def texts(self, record: Record) -> Iterable[str]:
        return texts_in(record, (self.prompt_column,))

    # ----------------------------------------------------------------------------------- rows

    def encode(
        self,
        record: Record,
        tokenizer: Tokenizer,
        room: int,
        rng: np.random.RandomState | None = None,
    ) -> Arrays:
        if self._messages(record) is not None:
            return super().encode(record, tokenizer, room, rng)
        bos = [tokenizer.bos_id] if self.add_bos and tokenizer.bos_id is not None else []
        tokens = [*bos, *tokenizer.encode(record[self.prompt_column])][:room]
        return {
            "tokens": np.array(tokens, np.int32),
            "loss_weights": np.zeros(len(tokens), np.float32),
        }

    def extent(self, record: Record, tokenizer: Tokenizer) -> Extent:
        return Extent(len(self.encode(record, tokenizer, NO_LIMIT)["tokens"]))

    def authors(
        self, record: Record, tokenizer: Tokenizer, room: int = NO_LIMIT
    ) -> list[str] | None:
        if self._messages(record) is not None:
            return super().authors(record, tokenizer, room)
        bos = ["template"] if self.add_bos and tokenizer.bos_id is not None else []
        return [*bos, *("prompt" for _ in tokenizer.encode(record[self.prompt_column]))]

    def _messages(self, record: Record) -> list[Message] | None:
        """The prompt as a conversation; None: it is a text."""
        given = record[self.prompt_column]
        if not isinstance(given, str):
            return [*given]
        return [{"role": "user", "content": given}] if self._templated else None

    def rendering(self, record: Record, tokenizer: Tokenizer) -> Rendering:
        messages = self._messages(record)
        assert messages is not None, "a text is not rendered"
        return renderer_of(tokenizer).prompt(messages)

    # ---------------------------------------------------------------------- predicted, measured

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.prompt_column,)

    def unanswered(self, record: Record) -> Record:
        return {column: record.get(column) for column in self.columns}

    def prompt(self, record: Record) -> str:
        messages = self._messages(record)
        return record[self.prompt_column] if messages is None else as_prompt(messages)

    def baseline(self, train: Records) -> Callable[[Record], Any] | None:
        return None

    def reference(self, record: Record) -> str:
        raise UserError(WITHOUT)

    def grade(self, record: Record, answer: str) -> float:
        raise UserError(WITHOUT)

    def score(self, predictions: Sequence[Any], records: Iterable[Record]) -> list[Measure]:
        """Nothing: there is no answer to compare with."""
        return []
