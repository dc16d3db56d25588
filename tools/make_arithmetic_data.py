"""Writes sums of small numbers as JSON lines, for tries of what a model learns from answers.

    python tools/make_arithmetic_data.py data/arithmetic                    (all three kinds)
    python tools/make_arithmetic_data.py data/sums --prompts --largest 19

    --prompts        {"prompt": "7+5=", "answer": "12"}                     to be graded
    --completions    {"prompt": "7+5=", "completion": "12"}                 to be learnt
    --preferences    {"prompt": "7+5=", "chosen": "12", "rejected": "13"}   to be preferred

A rejected answer is wrong by one. Each kind is two files, as in preferences.train.jsonl and
preferences.validation.jsonl. A hash of a problem and the seed holds it out, so it is in the same
split of every kind and for every --largest. The files are a function of the options alone.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KINDS = ("prompts", "completions", "preferences")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder that is written")
    for kind in KINDS:
        parser.add_argument(f"--{kind}", action="store_true", help=f"write {kind}")
    parser.add_argument("--largest", type=int, default=49, help="the largest number in a problem")
    parser.add_argument("--records", type=int, help="the most problems in a split; default: all")
    parser.add_argument("--validation", type=float, default=0.1, help="share held out, in (0, 1)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.largest < 2 or not 0 < args.validation < 1:
        parser.error("--largest is 2 or more, and --validation is between 0 and 1")
    found = split(args.largest, args.validation, args.seed)
    if not all(found.values()):
        parser.error("--validation leaves one of the splits empty; raise --largest")
    args.out.mkdir(parents=True, exist_ok=True)
    for kind in [kind for kind in KINDS if getattr(args, kind)] or KINDS:
        for name, problems in found.items():
            made = [*records(kind, problems[: args.records], args.seed)]
            path = args.out / f"{kind}.{name}.jsonl"
            path.write_text("".join(json.dumps(record) + "\n" for record in made))
            print(f"{path}: {len(made):,} records")


def split(largest: int, validation: float, seed: int = 0) -> dict[str, list[tuple[int, int]]]:
    """All problems (a, b) with 0 <= a, b <= largest, shuffled, by split."""
    problems = [(a, b) for a in range(largest + 1) for b in range(largest + 1)]
    random.Random(seed).shuffle(problems)
    out = [random.Random(f"split {seed} {a}+{b}").random() < validation for a, b in problems]
    found: dict[str, list[tuple[int, int]]] = {"train": [], "validation": []}
    for problem, held_out in zip(problems, out, strict=True):
        found["validation" if held_out else "train"].append(problem)
    return found


def records(kind: str, problems: list[tuple[int, int]], seed: int = 0) -> Iterator[dict[str, Any]]:
    """The records of a kind, one for each problem."""
    for a, b in problems:
        prompt, total = f"{a}+{b}=", a + b
        off = 1 if random.Random(f"{seed} {prompt}").random() < 0.5 or total == 0 else -1
        if kind == "prompts":
            yield {"prompt": prompt, "answer": str(total)}
        elif kind == "completions":
            yield {"prompt": prompt, "completion": str(total)}
        else:
            yield {"prompt": prompt, "chosen": str(total), "rejected": str(total + off)}


if __name__ == "__main__":
    main()
