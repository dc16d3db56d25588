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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.chat.rendering import Rendering
from jaxlm.chat.tokens import token_weights
from jaxlm.core.config import UserError, field
from jaxlm.core.errors import shown
from jaxlm.tasks.base import BETWEEN, NO_LIMIT, Arrays, Asked, LeftOut, Record
from jaxlm.tasks.conversations import (
    Conversations,
    Message,
    as_prompt,
    conversation_of,
    renderer_of,
    text_of,
    texts_in,
)

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer


@dataclass(frozen=True, kw_only=True)
class PromptCompletion(Conversations):
    """A prompt and its completion, which is learnt."""

    prompt_column: str = field("prompt", "the column of the prompt")
    completion_column: str = field("completion", "the column of the completion")
    keep: tuple[str, ...] = field(
        (), "more columns that a record keeps, which rewards read, such as solution"
    )
    add_bos: bool = field(True, "begin each text with the tokenizer's bos, where it has one")
    add_eos: bool = field(True, "end each text with the tokenizer's eos, where it has one")

    # ------------------------------------------------------------------------- at preparation

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.parts, *self.keep]))

    def without(self, column: str) -> str:
        if column != self.completion_column:
            return ""
        return "prompts alone, for rewards of your own, are read by data.task.type=prompts"

    @property
    def parts(self) -> tuple[str, str]:
        """The columns of the prompt and of the completion."""
        return self.prompt_column, self.completion_column

    @property
    def marks(self) -> tuple[bool, bool]:
        return self.add_bos, self.add_eos

    @property
    def prompt_options(self) -> Mapping[str, Any]:
        """Prompts of messages are rendered; texts are too where the config names a template."""
        return {"texts": self._templated}

    @property
    def _templated(self) -> bool:
        return self.template is not None or self.template_file is not None

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

    def identity(self, record: Record) -> str:
        given = record[self.prompt_column]
        return given if isinstance(given, str) else as_prompt(given)

    def texts(self, record: Record) -> Iterable[str]:
        return texts_in(record, self.parts)

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
        given, completion = record[self.prompt_column], record[self.completion_column]
        ids, spans = tokenizer.encode_with_offsets(given + completion)
        characters = np.repeat(np.array([0, 1], np.float32), [len(given), len(completion)])
        weights = token_weights(characters, spans).tolist()
        bos = [tokenizer.bos_id] if self.add_bos and tokenizer.bos_id is not None else []
        eos = [tokenizer.eos_id] if self.add_eos and tokenizer.eos_id is not None else []
        tokens = [*bos, *ids, *eos]
        weights = [*(0.0 for _ in bos), *weights, *(1.0 for _ in eos)]
        return {
            "tokens": np.array(tokens[:room], np.int32),
            "loss_weights": np.array(weights[:room], np.float32),
        }

    def authors(
        self, record: Record, tokenizer: Tokenizer, room: int = NO_LIMIT
    ) -> list[str] | None:
        if self._messages(record) is not None:
            return super().authors(record, tokenizer, room)
        given = record[self.prompt_column]
        _, spans = tokenizer.encode_with_offsets(given + record[self.completion_column])
        bos = ["template"] if self.add_bos and tokenizer.bos_id is not None else []
        eos = ["template"] if self.add_eos and tokenizer.eos_id is not None else []
        own = ["prompt" if end <= len(given) else "completion" for _, end in spans]
        return [*bos, *own, *eos]

    def _messages(self, record: Record) -> list[Message] | None:
        """The record as a conversation whose completion is trained; None: it is a text."""
        given, completion = record[self.prompt_column], record[self.completion_column]
        if isinstance(given, str):
            if not self._templated:
                return None
            given = [{"role": "user", "content": given}]
            completion = [{"role": "assistant", "content": completion}]
        return [*({**message, "train": False} for message in given), *completion]

    def rendering(self, record: Record, tokenizer: Tokenizer) -> Rendering:
        messages = self._messages(record)
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

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.prompt_column,)

    def unanswered(self, record: Record) -> Record:
        return {self.prompt_column: record[self.prompt_column], self.completion_column: ""}

    def prompt(self, record: Record) -> str:
        given = record[self.prompt_column]
        if isinstance(given, str) and not self._templated:
            return given
        return as_prompt([{"role": "user", "content": given}] if isinstance(given, str) else given)

    def shots(self, examples: Sequence[Record], record: Record) -> Asked:
        """Texts are joined with their completions as they are."""
        if self._messages(record) is not None:
            return super().shots(examples, record)
        parts = [self.prompt(each) + self.reference(each) for each in examples]
        return Asked(BETWEEN.join([*parts, self.prompt(record)]), BETWEEN)

    def reference(self, record: Record) -> str:
        completion = record[self.completion_column]
        return completion if isinstance(completion, str) else "".join(map(text_of, completion))
