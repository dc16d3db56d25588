"""What transformers generates with each option, and the cases that were asked of it.

tools/make_golden_generation.py wrote tests/fixtures/generation.npz, for models of
tests/models/golden_families.py:

    case = cases()["gpt2_penalties"]
    case.options                       # those of `jaxlm.core.sampling.Sampling`
    case.eos_ids, case.ids             # [2, T], padded with 0 after the end

Each prompt was continued alone. `drawn` cases have no ids but the scores that a draw was made from.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FIXTURE = Path(__file__).parents[1] / "fixtures" / "generation.npz"
STEPS = 20
LETTERS = "abcdefghij"


@dataclass(frozen=True)
class Golden:
    """One case."""

    name: str
    model: str  # of tests/models/golden_families.py
    options: dict[str, Any]
    eos_ids: tuple[int, ...]
    arrays: dict[str, np.ndarray]


def pieces(vocab: int) -> list[str]:
    """The text of each id: one letter, or two or three, so that texts cross the tokens' borders."""
    words = (itertools.product(LETTERS, repeat=n) for n in (1, 2, 3))
    return ["".join(word) for word in itertools.islice(itertools.chain(*words), vocab)]


class Pieces:
    """What `Stops.of` reads of a tokenizer with these pieces."""

    special_tokens: dict[str, int] = {}

    def __init__(self, vocab: int) -> None:
        self.token_bytes = [piece.encode() for piece in pieces(vocab)]


def cases() -> dict[str, Golden]:
    found = {}
    with np.load(FIXTURE) as file:
        arrays = dict(file)
    for name, case in json.loads(str(arrays.pop("cases"))).items():
        own = {
            key.removeprefix(f"{name}/"): value
            for key, value in arrays.items()
            if key.startswith(f"{name}/")
        }
        options = case["options"]
        if "stop" in options:
            options["stop"] = tuple(options["stop"])
        found[name] = Golden(name, case["model"], options, tuple(case["eos_ids"]), own)
    return found
