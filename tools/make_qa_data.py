"""Writes questions about scenes of Shakespeare in SQuAD's format, split by play.

    python tools/make_qa_data.py data/qa         (fetches configs/data/shakespeare.yaml's texts)
    jaxlm train configs/finetune/qa.yaml

A context is a scene's heading and some speeches of it, and there are three kinds of questions:

    Who says "..."?                   the name above the speech that has these words
    Where is this scene?              the place in the heading
    What is the number of this scene? the numeral in the heading

Every sixth play is in validation.jsonl. Each line is {"id", "title", "context", "question",
"answers": {"text": [...], "answer_start": [...]}}.
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
SPEECHES, LINES = 4, 1  # of a context, and of a speech


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder that is written")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    source = parse(Source, yaml.safe_load(DATA.read_text())["source"])
    lines: dict[str, list[str]] = {"train": [], "validation": []}
    plays = [d for d in source.documents() if len(HEADING.findall(d.text)) > 4]
    for number, play in enumerate(plays):
        title = Path(play.name).stem.removesuffix("_gut")
        split = "validation" if number % 6 == 5 else "train"
        for n, made in enumerate(questions(play.text, random.Random(title))):
            lines[split].append(json.dumps({"id": f"{title}-{n}", "title": title, **made}))
    for split, found in lines.items():
        (out / f"{split}.jsonl").write_text("\n".join(found) + "\n")
        print(f"{split}: {len(found):,} questions")


def questions(play: str, rng: random.Random) -> Iterator[dict[str, Any]]:
    """The questions of a play, in its order."""
    for scene in scenes(play):
        speeches = [(who, cut(said)) for who, said in SPEECH.findall(scene[2])]
        for first in range(0, len(speeches) - SPEECHES + 1, SPEECHES):
            context, starts = laid(scene, speeches[first : first + SPEECHES])
            for start, (name, said) in zip(starts, speeches[first:], strict=False):
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


def cut(speech: str) -> str:
    return "\n".join(speech.strip().split("\n")[:LINES])


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
