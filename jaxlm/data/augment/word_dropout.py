"""Random deletion of words (Wei and Zou 2019, arXiv:1901.11196, section 2: EDA's RD).

Each word is left out with probability `rate`; where all would be, one of them is kept, drawn
uniformly. A word is what is between white space, or a Chinese character; it goes with the white
space after it, so that the rest of the text is as it was. Answers stay, and so do entities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxlm.core.config import field
from jaxlm.data.augment.base import WordAugment

if TYPE_CHECKING:
    import numpy as np

    from jaxlm.data.reading.words import Unit


@dataclass(frozen=True, kw_only=True)
class WordDropout(WordAugment):
    """Leave words out at random (EDA's random deletion)."""

    rate: float = field(0.1, "probability that a word is left out", ge=0, lt=1)

    def change(self, units: list[Unit], rng: np.random.RandomState) -> list[Unit]:
        if len(units) < 2:
            return units
        free = [i for i, unit in enumerate(units) if unit.free]
        gone = {i for i, u in zip(free, rng.random_sample(len(free)), strict=True) if u < self.rate}
        if len(gone) == len(units):
            gone.discard(rng.randint(len(units)))
        return [unit for i, unit in enumerate(units) if i not in gone]
