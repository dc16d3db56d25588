"""Writes sentences of the Brown corpus with what they contain: any number of labels a sentence.

    python tools/make_tagging_data.py data/brown
    python tools/make_labels_data.py data/brown data/labels
    jaxlm train configs/finetune/labels_en.yaml

    {"text": "They did not stop .", "labels": ["negation", "past", "pronoun"], "document": "ca01"}

The labels follow from the parts of speech, see `LABELS`; a sentence may have no label. Sentences of
5 to 30 words are taken. The splits are those of the tagged words, by document.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

SPLITS = ("train", "validation")
WORDS = range(5, 31)
# {label: how its tags begin}; a negation has a word of its own, or is a part of a verb
LABELS = {
    "comparison": ("JJR", "JJT", "RBR", "RBT"),
    "modal verb": ("MD",),
    "name": ("NP",),
    "number": ("CD", "OD"),
    "past": ("VBD", "HVD", "BED", "DOD"),
    "pronoun": ("PP",),
    "question word": ("WDT", "WP", "WRB", "WQL"),
}
NEGATION = ("not", "n't", "never", "cannot", "nothing", "nobody", "none", "no")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tagged", type=Path, help="the folder of tools/make_tagging_data.py")
    parser.add_argument("out", type=Path, help="the folder that is written")
    arguments = parser.parse_args()
    if not all((arguments.tagged / f"{split}.jsonl").exists() for split in SPLITS):
        sys.exit(f"{arguments.tagged}: has no tagged words; run tools/make_tagging_data.py")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        counts: Counter[str] = Counter()
        rows = []
        for line in (arguments.tagged / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if len(record["tokens"]) not in WORDS:
                continue
            labels = labels_of(record["tokens"], record["tags"])
            counts.update(labels)
            text = " ".join(record["tokens"])
            rows.append({"text": text, "labels": labels, "document": record["document"]})
        (arguments.out / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
        shares = ", ".join(f"{name} {counts[name] / len(rows):.0%}" for name in sorted(counts))
        print(f"{split}: {len(rows):,} sentences ({shares})")


def labels_of(tokens: Sequence[str], tags: Sequence[str]) -> list[str]:
    """The labels of a sentence, sorted."""
    found = {label for label, begins in LABELS.items() if any(t.startswith(begins) for t in tags)}
    words = [token.lower() for token in tokens]
    if any(word in NEGATION or word.endswith("n't") for word in words):
        found.add("negation")
    return sorted(found)


if __name__ == "__main__":
    main()
