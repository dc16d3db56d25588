"""What an augmentation is: a text and random numbers in, a text out.

    data:
      augment: [{type: word_dropout, rate: 0.1}]

It changes columns of a record before the record is encoded, in the training split only. The draws
follow from the run's seed and the row's place in the endless order of rows, which says its epoch
too: no number of hosts, workers or restarts changes them, and a row that comes again is drawn
again. A new one is a file; `jaxlm.core.registry` says where it may be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxlm.core.config import Config, Kind, field

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Augment(Config):
    """A random change of a text."""

    kind: ClassVar = Kind("augments", "augmentation", folder="jaxlm.data.augment")

    columns: tuple[str, ...] = field(
        (), "columns of the record that are changed; empty: the task's own choice"
    )

    def __call__(self, text: str, rng: np.random.RandomState) -> str:
        """The changed text; a text that is not blank stays so."""
        raise NotImplementedError
