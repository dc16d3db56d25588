"""Random deletion of words (Wei and Zou 2019, arXiv:1901.11196, section 2: EDA's RD).

Each word is left out with probability `rate`; where all would be, one of them is kept, drawn
uniformly. A word is what is between white space, and goes with the white space after it, so that
the rest of the text is as it was. In a script without spaces, a text is one word and stays whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxlm.core.config import field
from jaxlm.data.augment.base import Augment

if TYPE_CHECKING:
    import numpy as np

WORD = re.compile(r"\s*\S+\s*")


@dataclass(frozen=True, kw_only=True)
class WordDropout(Augment):
    """Leave words out at random (EDA's random deletion)."""

    rate: float = field(0.1, "probability that a word is left out", ge=0, lt=1)

    def __call__(self, text: str, rng: np.random.RandomState) -> str:
        words = WORD.findall(text)
        if len(words) < 2:
            return text
        kept = rng.random_sample(len(words)) >= self.rate
        if not kept.any():
            kept[rng.randint(len(words))] = True
        return "".join(word for word, keep in zip(words, kept, strict=True) if keep)
