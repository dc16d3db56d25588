"""The base of tasks with a prompt, which is a text or a list of messages.

A text is read as it is, after bos; with a template it is a user's message. Messages are rendered
by the template, the config's or the tokenizer's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxlm.core.config import field
from jaxlm.tasks.base import NO_LIMIT, Arrays, Record
from jaxlm.tasks.conversations import Conversations, Message, as_prompt

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer


@dataclass(frozen=True, kw_only=True)
class PromptTask(Conversations, abstract=True):
    """Records with a prompt. A task says what is `plain` of a record of texts, and `authors_of`
    it, and what `messages_of` another record are.
    """

    identified_by: ClassVar[str] = "prompt"

    prompt_column: str = field("prompt", "the column of the prompt")
    keep: tuple[str, ...] = field(
        (), "more columns that a record keeps, which rewards read, such as tests or solution"
    )
    add_bos: bool = field(True, "begin each text with the tokenizer's bos, where it has one")
    add_eos: bool = field(True, "end each text with the tokenizer's eos, where it has one")

    # ------------------------------------------------------------------------- at preparation

    @property
    def parts(self) -> tuple[str, ...]:
        """The columns of texts or messages, the prompt's first."""
        return (self.prompt_column,)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.parts, *self.keep]))

    @property
    def marks(self) -> tuple[bool, bool]:
        return self.add_bos, self.add_eos

    @property
    def prompt_options(self) -> Mapping[str, Any]:
        """Prompts of messages are rendered; texts are too where the config names a template."""
        return {"texts": self.templated}

    @property
    def templated(self) -> bool:
        return self.template is not None or self.template_file is not None

    def identity(self, record: Record) -> str:
        given = record[self.prompt_column]
        return given if isinstance(given, str) else as_prompt(given)

    # ----------------------------------------------------------------------------------- rows

    def plain(self, record: Record, tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
        """The ids of a record of texts after bos, and the weight of each."""
        raise NotImplementedError

    def authors_of(self, record: Record, tokenizer: Tokenizer) -> list[str]:
        """The author of each of the ids of `plain`."""
        raise NotImplementedError

    def messages_of(self, record: Record) -> list[Message] | None:
        """The messages that a record is rendered from; None: it is read as texts."""
        raise NotImplementedError

    def encode(
        self,
        record: Record,
        tokenizer: Tokenizer,
        room: int,
        rng: np.random.RandomState | None = None,
    ) -> Arrays:
        if self.messages_of(record) is not None:
            return super().encode(record, tokenizer, room, rng)
        bos = self._bos(tokenizer)
        ids, weights = self.plain(record, tokenizer)
        return {
            "tokens": np.array([*bos, *ids][:room], np.int32),
            "loss_weights": np.array([*(0.0 for _ in bos), *weights][:room], np.float32),
        }

    def authors(
        self, record: Record, tokenizer: Tokenizer, room: int = NO_LIMIT
    ) -> list[str] | None:
        if self.messages_of(record) is not None:
            return super().authors(record, tokenizer, room)
        begin = ["template" for _ in self._bos(tokenizer)]
        return [*begin, *self.authors_of(record, tokenizer)]

    def _bos(self, tokenizer: Tokenizer) -> list[int]:
        return [tokenizer.bos_id] if self.add_bos and tokenizer.bos_id is not None else []

    def asked_messages(self, record: Record) -> list[Message] | None:
        """The prompt as messages; None: it is read as a text."""
        given = record[self.prompt_column]
        if not isinstance(given, str):
            return [*given]
        return [{"role": "user", "content": given}] if self.templated else None

    # ---------------------------------------------------------------------- predicted, measured

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.prompt_column,)

    def prompt(self, record: Record) -> str:
        messages = self.asked_messages(record)
        return record[self.prompt_column] if messages is None else as_prompt(messages)
