"""The requests of a client: JSON objects, checked as strictly as a config.

    asked, options = split(Completions, {"prompt": "Once", "max_tokens": 16})

`/v1/completions` and `/v1/chat/completions` have the names of OpenAI's API. Besides the keys of
these classes they take the options of `jaxlm.generate.Sampling`, over those of the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from jaxlm.core.config import REQUIRED, Config, UserError, field, parse

C = TypeVar("C", bound=Config)


def split(kind: type[C], values: Any) -> tuple[C, dict[str, Any]]:
    """The request, and the keys that its class does not have: options of sampling."""
    own = {spec.name for spec in dataclasses.fields(kind)}
    if not isinstance(values, Mapping):
        return parse(kind, values), {}
    rest = {key: value for key, value in values.items() if key not in own}
    return parse(kind, {key: value for key, value in values.items() if key in own}), rest


@dataclass(frozen=True, kw_only=True)
class Written(Config):
    """A request for a text."""

    model: str = field("", "the name of the model; a server has one, so every name means it")
    seed: int | None = field(None, "equal seeds give equal texts; null: another each time", ge=0)
    stream: bool = field(False, "send texts while they are written, as server-sent events")


@dataclass(frozen=True, kw_only=True)
class Completions(Written):
    """Texts that are continued: `/v1/completions`."""

    prompt: tuple[str, ...] = field(REQUIRED, "a text, or a list of texts, that are continued")

    def validate(self) -> None:
        if not self.prompt:
            raise UserError("prompt is empty; give at least one text")


@dataclass(frozen=True, kw_only=True)
class Chats(Written):
    """A conversation that is answered: `/v1/chat/completions`."""

    messages: tuple[dict[str, Any], ...] = field(
        REQUIRED, "the messages, as in {role: user, content: Hi}"
    )

    def validate(self) -> None:
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
