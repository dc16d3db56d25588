"""Prompts and completions, of which the completions are learnt.

    data:
      type: records
      source: {type: jsonl, files: pairs.jsonl}     # {"prompt": "2 + 2 =", "completion": " 4"}
      task: {type: prompt_completion}
      packing: whole

Both are texts, or both are lists of messages. Texts are joined as they are, [bos] prompt completion
[eos], and tokenised as a whole: a token that begins in the prompt and ends in the completion is
trained. With a template, texts are a user's message and its answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.chat.rendering import Rendering
from jaxlm.chat.tokens import token_weights
from jaxlm.core.config import UserError, field
from jaxlm.core.errors import shown
from jaxlm.tasks.base import BETWEEN, Asked, LeftOut, Record
from jaxlm.tasks.base_prompts import PromptTask
from jaxlm.tasks.conversations import Message, conversation_of, renderer_of, text_of, texts_in

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer


@dataclass(frozen=True, kw_only=True)
class PromptCompletion(PromptTask):
    """A prompt and its completion, which is learnt."""

    completion_column: str = field("completion", "the column of the completion")

    # ------------------------------------------------------------------------- at preparation

    def without(self, column: str) -> str:
        if column != self.completion_column:
            return ""
        return "prompts alone, for rewards of your own, are read by data.task.type=prompts"

    @property
    def parts(self) -> tuple[str, str]:
        """The columns of the prompt and of the completion."""
        return self.prompt_column, self.completion_column

    def fingerprint(self, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
        """Without `keep` where it is empty: the records are then those of versions without it."""
        options = super().fingerprint(tokenizer)
        return {name: value for name, value in options.items() if name != "keep" or value}

    def expand(self, record: Record) -> list[Record]:
        given, completion = record[self.prompt_column], record[self.completion_column]
        if isinstance(given, str) != isinstance(completion, str):
            raise UserError(
                f"columns {shown(self.prompt_column)} and {shown(self.completion_column)} are not "
                "both texts or both lists of messages; make them equal"
            )
        if not isinstance(given, str):
            for column in self.parts:
                if not isinstance(record[column], list):
                    raise UserError(
                        f"column {column!r} holds a {type(record[column]).__name__}; give a text, "
                        "or a list of messages"
                    )
            conversation_of([*given, *completion], self.prompt_column)
        elif not completion.strip():
            raise LeftOut("without a completion")
        return [{column: record[column] for column in (*self.parts, *self.keep)}]

    def texts(self, record: Record) -> Iterable[str]:
        return texts_in(record, self.parts)

    # ----------------------------------------------------------------------------------- rows

    def plain(self, record: Record, tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
        given, completion = record[self.prompt_column], record[self.completion_column]
        ids, spans = tokenizer.encode_with_offsets(given + completion)
        characters = np.repeat(np.array([0, 1], np.float32), [len(given), len(completion)])
        eos = self._eos(tokenizer)
        weights = token_weights(characters, spans).tolist()
        return [*ids, *eos], [*weights, *(1.0 for _ in eos)]

    def authors_of(self, record: Record, tokenizer: Tokenizer) -> list[str]:
        given = record[self.prompt_column]
        _, spans = tokenizer.encode_with_offsets(given + record[self.completion_column])
        own = ["prompt" if end <= len(given) else "completion" for _, end in spans]
        return [*own, *("template" for _ in self._eos(tokenizer))]

    def _eos(self, tokenizer: Tokenizer) -> list[int]:
        return [tokenizer.eos_id] if self.add_eos and tokenizer.eos_id is not None else []

    def messages_of(self, record: Record) -> list[Message] | None:
        """The messages of the prompt, which are not trained, and of the completion."""
        asked, completion = self.asked_messages(record), record[self.completion_column]
        if asked is None:
            return None
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        return [*({**message, "train": False} for message in asked), *completion]

    def rendering(self, record: Record, tokenizer: Tokenizer) -> Rendering:
        messages = self.messages_of(record)
        if messages is None:
            given, completion = record[self.prompt_column], record[self.completion_column]
            text = given + completion
            author = np.repeat(np.array([0, 1], np.int32), [len(given), len(completion)])
            whole = np.ones(len(text), bool)
            roles = ("prompt", "completion")
            return Rendering(text, roles, author, whole, author.astype(np.float32))
        return renderer_of(tokenizer).render(messages)

    def _untrained(self, record: Record) -> str:
        return f"give column {shown(self.completion_column)} an answer with a weight above 0"

    # ---------------------------------------------------------------------- predicted, measured

    def unanswered(self, record: Record) -> Record:
        return {self.prompt_column: record[self.prompt_column], self.completion_column: ""}

    def shots(self, examples: Sequence[Record], record: Record) -> Asked:
        """Texts are joined with their completions as they are."""
        if self.messages_of(record) is not None:
            return super().shots(examples, record)
        parts = [self.prompt(each) + self.reference(each) for each in examples]
        return Asked(BETWEEN.join([*parts, self.prompt(record)]), BETWEEN)

    def reference(self, record: Record) -> str:
        completion = record[self.completion_column]
        return completion if isinstance(completion, str) else "".join(map(text_of, completion))
