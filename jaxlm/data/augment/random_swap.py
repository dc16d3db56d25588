"""Words change places (Wei and Zou 2019, arXiv:1901.11196, section 2: EDA's RS).

From w words rate * w / 2 pairs are drawn, rounded up as often as makes the mean exact, and those of
a pair change places: no word is in two pairs, so exactly twice as many words move. (EDA draws pairs
with replacement, so that a later swap may undo an earlier one.) A word takes its tag along; answers
and entities stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxlm.core.config import field
from jaxlm.data.augment.base import WordAugment, draws

if TYPE_CHECKING:
    import numpy as np

    from jaxlm.data.reading.words import Unit


@dataclass(frozen=True, kw_only=True)
class RandomSwap(WordAugment):
    """Let words change places (EDA's random swap)."""

    rate: float = field(0.1, "share of the words that move", ge=0, le=1)

    def change(self, units: list[Unit], rng: np.random.RandomState) -> list[Unit]:
        words = [i for i, unit in enumerate(units) if unit.is_word]
        pairs = min(draws(self.rate / 2, len(words), rng), len(words) // 2)
        order = rng.permutation(len(words))[: 2 * pairs]
        out = list(units)
        for first, second in order.reshape(-1, 2):
            i, j = words[first], words[second]
            out[i] = units[i]._replace(text=units[j].text, origin=units[j].origin)
            out[j] = units[j]._replace(text=units[i].text, origin=units[i].origin)
        return out
