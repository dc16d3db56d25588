"""Several datasets drawn from at fixed rates."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlm.config import REQUIRED, Config, UserError, field
from jaxlm.data.prepared import PreparableData
from jaxlm.types import DataConfig


@dataclass(frozen=True, kw_only=True)
class Part(Config):
    """One dataset of a mixture and how often it is drawn from."""

    weight: float = field(1.0, "rows from this part, in proportion to the other parts' weights", gt=0)
    data: DataConfig = field(REQUIRED, "the dataset")


@dataclass(frozen=True, kw_only=True)
class MixtureData(PreparableData):
    """Rows of several datasets in exact proportions, under one tokenizer."""

    parts: dict[str, Part] = field(REQUIRED, "the datasets by name, each with its weight")

    def validate(self) -> None:
        if not self.parts:
            raise UserError("parts is empty; name at least one dataset")
