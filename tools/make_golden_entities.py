"""Writes tests/fixtures/entities.json: random tags, and what seqeval makes of them.

    python tools/make_golden_entities.py                (needs seqeval 1.2.2)

A case has true and predicted sentences of a scheme (with tags that break its rules), and
precision, recall and F1 in default and in strict mode.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from seqeval.metrics.sequence_labeling import get_entities
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as default_scores
from seqeval.metrics.v1 import precision_recall_fscore_support as strict_scores
from seqeval.scheme import IOB2, IOBES

FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "entities.json"
SCHEMES: dict[str, Any] = {"BI": IOB2, "BIES": IOBES}


def main() -> None:
    rng = random.Random(0)
    cases = []
    for letters, scheme in SCHEMES.items():
        for types in (("PER",), ("PER", "LOC", "ORG")):
            for _ in range(4):
                true = [sentence(rng, letters, types) for _ in range(6)]
                said = [[t if rng.random() < 0.8 else tag(rng, letters, types) for t in tags]
                        for tags in true]  # fmt: skip
                one = {"average": "micro", "zero_division": 0}
                cases.append({
                    "true": true,
                    "said": said,
                    "entities": [[list(e) for e in get_entities(tags)] for tags in said],
                    "default": list(default_scores(true, said, **one)[:3]),
                    "strict": list(strict_scores(true, said, scheme=scheme, **one)[:3]),
                })  # fmt: skip
    FIXTURE.write_text(json.dumps(cases) + "\n")
    print(f"{FIXTURE.name}: {len(cases)} cases")


def sentence(rng: random.Random, letters: str, types: tuple[str, ...]) -> list[str]:
    return [tag(rng, letters, types) for _ in range(rng.randrange(1, 12))]


def tag(rng: random.Random, letters: str, types: tuple[str, ...]) -> str:
    letter = rng.choice(letters + "O")
    return letter if letter == "O" else f"{letter}-{rng.choice(types)}"


if __name__ == "__main__":
    main()
