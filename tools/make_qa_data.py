"""Writes questions about scenes of Shakespeare in SQuAD's format, split by play.

    python tools/make_qa_data.py data/qa         (fetches configs/data/shakespeare.yaml's texts)
    jaxlm train configs/finetune/qa.yaml

A context is a scene's heading and the first sentences of some speeches of it, and there are three
kinds of questions:

    Who says "..."?                   the name above the speech that has these words
    Where is this scene?              the place in the heading
    What is the number of this scene? the numeral in the heading

Every sixth play is in validation.jsonl. In every second context of the others the speakers have
other names, of one to three words of the plays that are trained: plays have few names, and a model
that has seen nobody called SIR learns that names do not include it. Each line is {"id", "title",
"context", "question", "answers": {"text": [...], "answer_start": [...]}}.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from jaxlm.core.config import parse
from jaxlm.data.sources.base import Source

DATA = Path(__file__).parents[1] / "configs" / "data" / "shakespeare.yaml"
HEADING = re.compile(r"^SCENE ([IVX]+)\.\s+(\S[^\n]{3,60}?)\.?\s*$", re.MULTILINE)
SPEECH = re.compile(r"^([A-Z][A-Z' ]{2,20})\.\n((?:[^\n]+\n)+)", re.MULTILINE)
SPEECHES, WORDS = 4, 12  # of a context, and of a speech: its first sentence, or its beginning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder that is written")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    source = parse(Source, yaml.safe_load(DATA.read_text())["source"])
    lines: dict[str, list[str]] = {"train": [], "validation": []}
    plays = [d for d in source.documents() if len(HEADING.findall(d.text)) > 4]
    trained = " ".join(play.text for n, play in enumerate(plays) if not held_out(n))
    words = sorted({word.upper() for word in re.findall(r"\b[A-Za-z]{3,12}\b", trained)})
    for number, play in enumerate(plays):
        title = Path(play.name).stem.removesuffix("_gut")
        split = "validation" if held_out(number) else "train"
        pool = words if split == "train" else []
        for n, made in enumerate(questions(play.text, pool, random.Random(title))):
            lines[split].append(json.dumps({"id": f"{title}-{n}", "title": title, **made}))
    for split, found in lines.items():
        (out / f"{split}.jsonl").write_text("\n".join(found) + "\n")
        print(f"{split}: {len(found):,} questions")


def held_out(number: int) -> bool:
    """Whether the play of this number is in the validation split."""
    return number % 6 == 5


def questions(play: str, pool: list[str], rng: random.Random) -> Iterator[dict[str, Any]]:
    """The questions of a play, in its order; `pool`: words for other names of the speakers."""
    for scene in scenes(play):
        speeches = [(who, cut(said)) for who, said in SPEECH.findall(scene[2])]
        for number, first in enumerate(range(0, len(speeches) - SPEECHES + 1, SPEECHES)):
            shown = speeches[first : first + SPEECHES]
            if pool and number % 2:
                shown = renamed(shown, pool, rng)
            context, starts = laid(scene, shown)
            for start, (name, said) in zip(starts, shown, strict=True):
                words = said.split()[:8]
                quoted = " ".join(words)
                if len(words) > 2 and context.count(quoted) == 1:
                    yield answered(context, f'Who says "{quoted}"?', name, start)
            kind = rng.randrange(4)
            if kind == 0:
                start = context.index(scene[1])
                yield answered(context, "Where is this scene?", scene[1], start)
            elif kind == 1:
                asked = "What is the number of this scene?"
                yield answered(context, asked, scene[0], context.index(scene[0], 6))


def scenes(play: str) -> Iterator[tuple[str, str, str]]:
    """(numeral, place, text) of each scene."""
    found = [*HEADING.finditer(play)]
    ends = [match.start() for match in found[1:]] + [len(play)]
    for match, end in zip(found, ends, strict=True):
        yield match[1], match[2], play[match.end() : end]


def renamed(
    speeches: list[tuple[str, str]], pool: list[str], rng: random.Random
) -> list[tuple[str, str]]:
    """The speeches with another name for each speaker, of one to three words of the pool."""
    names = {name: " ".join(rng.sample(pool, rng.choice((1, 2, 2, 3)))) for name, _ in speeches}
    return [(names[name], said) for name, said in speeches]


def cut(speech: str) -> str:
    """The first sentence of a speech that has three words; what is cut off leaves an ellipsis."""
    words = speech.split()
    for count in range(3, min(len(words), WORDS) + 1):
        if words[count - 1][-1] in ".?!":
            return " ".join(words[:count])
    cut_off = "" if len(words) <= WORDS else "..."
    return " ".join(words[:WORDS]).rstrip(",;:-") + cut_off


def laid(scene: tuple[str, str, str], speeches: list[tuple[str, str]]) -> tuple[str, list[int]]:
    """The context, and where the name of each speech is."""
    context, starts = f"SCENE {scene[0]}. {scene[1]}.\n", []
    for name, said in speeches:
        context += "\n"
        starts.append(len(context))
        context += f"{name}.\n{said}\n"
    return context, starts


def answered(context: str, question: str, text: str, start: int) -> dict[str, Any]:
    assert context[start:].startswith(text)
    answers = {"text": [text], "answer_start": [start]}
    return {"context": context, "question": question, "answers": answers}


if __name__ == "__main__":
    main()
