"""What a client may ask: JSON objects, checked as strictly as a config.

    asked = parse(Completions, {"prompt": "Once", "max_tokens": 16})

`/v1/completions` and `/v1/chat/completions` have the names of OpenAI's API. A key that is not
known, or has no effect here, is an error with its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import REQUIRED, Config, UserError, field
from jaxlm.generate import Sampling


@dataclass(frozen=True, kw_only=True)
class Written(Config):
    """How a text is written."""

    model: str = field("", "the name of the model; a server has one, so every name means it")
    max_tokens: int = field(128, "the most tokens of the text", ge=1)
    temperature: float = field(1.0, "0 is greedy", ge=0)
    top_p: float | None = field(None, "the likeliest tokens of this total probability", gt=0, le=1)
    top_k: int | None = field(None, "the K likeliest tokens", ge=1)
    seed: int | None = field(None, "equal seeds give equal texts; null: another each time", ge=0)
    stream: bool = field(False, "false: streaming is not supported")

    def validate(self) -> None:
        if self.stream:
            raise UserError("stream is true, but texts are sent whole; leave it out")

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
        )


@dataclass(frozen=True, kw_only=True)
class Completions(Written):
    """Texts that are continued: `/v1/completions`."""

    prompt: tuple[str, ...] = field(REQUIRED, "a text, or a list of texts, that are continued")

    def validate(self) -> None:
        super().validate()
        if not self.prompt:
            raise UserError("prompt is empty; give at least one text")


@dataclass(frozen=True, kw_only=True)
class Chats(Written):
    """A conversation that is answered: `/v1/chat/completions`."""

    messages: tuple[dict[str, Any], ...] = field(
        REQUIRED, "the messages, as in {role: user, content: Hi}"
    )

    def validate(self) -> None:
        super().validate()
        if not self.messages:
            raise UserError("messages is empty; give at least one")


@dataclass(frozen=True, kw_only=True)
class Records(Config):
    """Records that are predicted: `/predict`."""

    records: tuple[Any, ...] = field(
        REQUIRED, "texts, or objects with the columns of the run's task"
    )

    def validate(self) -> None:
        if not self.records:
            raise UserError("records is empty; give at least one")
