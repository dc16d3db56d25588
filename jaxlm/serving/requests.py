"""What a client may ask: JSON objects, checked as strictly as a config.

    asked = parse(Completions, {"prompt": "Once", "max_tokens": 16})

`/v1/completions` and `/v1/chat/completions` have the names of OpenAI's API. A key that is not
known, or has no effect here, is an error with its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import REQUIRED, Config, UserError, field
from jaxlm.core.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Written(Sampling):
    """How a text is written: the options of `Sampling`, and OpenAI's own."""

    model: str = field("", "the name of the model; a server has one, so every name means it")
    temperature: float = field(1.0, "0 is greedy", ge=0)
    seed: int | None = field(None, "equal seeds give equal texts; null: another each time", ge=0)
    stream: bool = field(False, "false: streaming is not supported")

    def validate(self) -> None:
        super().validate()
        if self.stream:
            raise UserError("stream is true, but texts are sent whole; leave it out")


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
