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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxlm.chat.rendering import Rendering
from jaxlm.core.config import UserError, field
from jaxlm.core.measures import Measure
from jaxlm.tasks.base import NO_LIMIT, Extent, LeftOut, Record, Records
from jaxlm.tasks.base_prompts import PromptTask
from jaxlm.tasks.conversations import Message, conversation_of, renderer_of, texts_in

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer


WITHOUT = (
    "data.task: prompts has no column of answers to compare with; use prompt_completion, or "
    "rewards of your own"
)


@dataclass(frozen=True, kw_only=True)
class Prompts(PromptTask):
    """A prompt, whose answers rewards grade."""

    has_answers: ClassVar[bool] = False

    add_eos: bool = field(True, "the tokenizer's eos ends what is written, where it has one")

    # ------------------------------------------------------------------------- at preparation

    def expand(self, record: Record) -> list[Record]:
        given = record[self.prompt_column]
        if not isinstance(given, str):
            conversation_of(given, self.prompt_column)
        elif not given.strip():
            raise LeftOut("blank")
        return [{column: record[column] for column in self.columns}]

    def texts(self, record: Record) -> Iterable[str]:
        return texts_in(record, (self.prompt_column,))

    # ----------------------------------------------------------------------------------- rows

    def plain(self, record: Record, tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
        ids = tokenizer.encode(record[self.prompt_column])
        return ids, [0.0] * len(ids)

    def authors_of(self, record: Record, tokenizer: Tokenizer) -> list[str]:
        return ["prompt" for _ in tokenizer.encode(record[self.prompt_column])]

    def extent(self, record: Record, tokenizer: Tokenizer) -> Extent:
        return Extent(len(self.encode(record, tokenizer, NO_LIMIT)["tokens"]))

    def messages_of(self, record: Record) -> list[Message] | None:
        return self.asked_messages(record)

    def rendering(self, record: Record, tokenizer: Tokenizer) -> Rendering:
        messages = self.messages_of(record)
        assert messages is not None, "a text is not rendered"
        return renderer_of(tokenizer).prompt(messages)

    # ---------------------------------------------------------------------- predicted, measured

    def unanswered(self, record: Record) -> Record:
        return {column: record.get(column) for column in self.columns}

    def baseline(self, train: Records) -> Callable[[Record], Any] | None:
        return None

    def reference(self, record: Record) -> str:
        raise UserError(WITHOUT)

    def grade(self, record: Record, answer: str) -> float:
        raise UserError(WITHOUT)

    def score(self, predictions: Sequence[Any], records: Iterable[Record]) -> list[Measure]:
        """Nothing: there is no answer to compare with."""
        return []
