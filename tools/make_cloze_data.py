"""Writes sentences of the Brown corpus in which a noun is hidden, split by document.

    python tools/make_tagging_data.py data/brown
    python tools/make_cloze_data.py data/brown data/cloze --vocab BERT/vocab.txt
    jaxlm finetune configs/finetune/cloze_en.yaml init.from=BERT

    {"text": "the [MASK] said Friday an investigation produced no evidence .", "answer": "jury"}

A sentence of 6 to 14 words gives one record: one of its nouns (tag NN) that the training documents
have at least `--least` times, and that is one token of `--vocab`. Which one follows from `--seed`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SPLITS = ("train", "validation")
WORDS = range(6, 15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tagged", type=Path, help="the folder of tools/make_tagging_data.py")
    parser.add_argument("out", type=Path, help="the folder that is written")
    parser.add_argument("--least", type=int, default=50, help="a noun's number in training")
    parser.add_argument("--vocab", type=Path, help="a file of tokens, one a line; left out: any")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not all((arguments.tagged / f"{split}.jsonl").exists() for split in SPLITS):
        sys.exit(f"{arguments.tagged}: has no tagged words; run tools/make_tagging_data.py")
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = Counter(noun for record in tagged(arguments.tagged, "train") for noun in nouns(record))
    frequent = {noun for noun, count in found.items() if count >= arguments.least}
    if arguments.vocab is not None:
        frequent &= {*arguments.vocab.read_text(encoding="utf-8").splitlines()}
    rng = random.Random(arguments.seed)
    counts = []
    for split in SPLITS:
        lines = [
            json.dumps(hidden(record, frequent, rng)) + "\n"
            for record in tagged(arguments.tagged, split)
            if len(record["tokens"]) in WORDS and not frequent.isdisjoint(nouns(record))
        ]
        (arguments.out / f"{split}.jsonl").write_text("".join(lines))
        counts.append(f"{split}: {len(lines):,} sentences")
    print(", ".join(counts), f"({len(frequent)} nouns)")


def tagged(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    with open(folder / f"{split}.jsonl", encoding="utf-8") as file:
        yield from map(json.loads, file)


def nouns(record: Mapping[str, Any]) -> list[str]:
    """Its singular common nouns, in lower case."""
    pairs = zip(record["tokens"], record["tags"], strict=True)
    return [word.lower() for word, tag in pairs if tag == "NN" and word.isalpha()]


def hidden(record: Mapping[str, Any], among: set[str], rng: random.Random) -> dict[str, str]:
    """The sentence without one of its nouns, and the noun."""
    words, tags = list(record["tokens"]), record["tags"]
    places = [n for n, word in enumerate(words) if tags[n] == "NN" and word.lower() in among]
    place = rng.choice(places)
    answer, words[place] = words[place].lower(), "[MASK]"
    return {"text": " ".join(words), "answer": answer, "document": record["document"]}


if __name__ == "__main__":
    main()
