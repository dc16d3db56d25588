"""The text of the golden ARPA files: sentences of few words, drawn from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parents[1] / "fixtures" / "ngrams"
# {name: (order, prune)} of the files
GOLDEN = {"order4": (4, ()), "pruned3": (3, (0, 1, 2)), "order1": (1, ())}
WORDS = 60


def sentences(number: int = 150) -> list[list[str]]:
    """Sentences of 1 to 9 words, some of which are drawn twice: longer n-grams come again."""
    rng = np.random.RandomState(7)
    weights = 1 / np.arange(1, WORDS + 1)
    drawn = [
        [f"w{i}" for i in rng.choice(WORDS, rng.randint(1, 10), p=weights / weights.sum())]
        for _ in range(number)
    ]
    return drawn + [drawn[i] for i in rng.randint(0, number, number // 3)]
