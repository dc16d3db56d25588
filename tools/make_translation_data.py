"""Writes parallel texts of LibreOffice's help, and its pages with their titles, split by page.

    python tools/make_translation_data.py data/help         (fetches three Debian packages, 8 MB)
    python tools/make_translation_data.py data/help --archives *.deb
    jaxlm train configs/finetune/translate_en_de.yaml

A paragraph has one id in all languages (MPL-2.0). Paragraphs that are equal in both languages are
left out, and so is a pair that is there already. Every tenth page is for validation, without the
sources that training has. Written are, each with .train.jsonl and .validation.jsonl,

    en-de, en-zh      {"translation": {"en": "...", "de": "..."}}
    titles            {"document": "the paragraphs of an English page", "summary": "its title"}
"""

from __future__ import annotations

import argparse
import hashlib
import html
import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERSION = "4:7.4.7-1+deb12u14"
PACKAGES = {  # language: package, SHA-256
    "en": (
        "libreoffice-help-en-us",
        "8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712",
    ),
    "de": (
        "libreoffice-help-de",
        "00490b63c509ac96f7f212d6a6e40452d3e0d1f97ccf4b824dd5ec4c01e8277f",
    ),
    "zh": (
        "libreoffice-help-zh-cn",
        "db867cdece4c2f9c7eebe65e519c6cf386fdcf49d6e061db3dffec893b3e1dee",
    ),
}
PAGE = re.compile(r"/help/[^/]+/text/(.+\.html)$")
BLOCK = re.compile(r'<(p|h\d) id="((?:par|hd)_id\w+)"[^>]*>(.*?)</\1>', re.DOTALL)
BREAK = re.compile(r"<(?:br|img|li|td)[^>]*>")
TAG = re.compile(r"<[^>]*>")

Pages = dict[str, dict[str, str]]  # {page: {id: text}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder that is written")
    parser.add_argument("--archives", type=Path, nargs=3, help="the packages, where they are here")
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    pages = {language: pages_of(path) for language, path in found(arguments.archives, out)}
    for language in ("de", "zh"):
        write(out, f"en-{language}", pairs(pages["en"], pages[language], language), "translation")
    write(out, "titles", titles(pages["en"]), "document")


def found(archives: list[Path] | None, folder: Path) -> Iterator[tuple[str, Path]]:
    """(language, archive) of each package, checked."""
    for language, (name, sha256) in PACKAGES.items():
        paths = [p for p in archives or sorted(folder.glob("*.deb")) if p.name.startswith(name)]
        if not paths:
            fetch(name, folder)
            paths = sorted(folder.glob(f"{name}_*.deb"))
        if hashlib.sha256(paths[0].read_bytes()).hexdigest() != sha256:
            sys.exit(f"{paths[0]}: is not {name} {VERSION}; remove it")
        yield language, paths[0]


def fetch(name: str, folder: Path) -> None:
    try:
        subprocess.run(["apt-get", "download", f"{name}={VERSION}"], cwd=folder, check=True)
    except (OSError, subprocess.CalledProcessError):
        sys.exit(f"{name} {VERSION}: apt-get cannot fetch it; name the archives with --archives")


def pages_of(archive: Path) -> Pages:
    pages = {}
    with tarfile.open(fileobj=io.BytesIO(member(archive, "data.tar.xz"))) as tar:
        for entry in sorted(tar.getmembers(), key=lambda m: m.name):
            match, file = PAGE.search(entry.name), tar.extractfile(entry)
            if match and file is not None:
                pages[match[1]] = blocks(file.read().decode("utf-8"))
    return pages


def member(archive: Path, name: str) -> bytes:
    """A member of an archive of `ar`, which a Debian package is."""
    content, at = archive.read_bytes(), 8
    while at < len(content):
        header = content[at : at + 60].decode("ascii")
        size, begin = int(header[48:58]), at + 60
        if header[:16].strip().rstrip("/") == name:
            return content[begin : begin + size]
        at = begin + size + size % 2
    sys.exit(f"{archive}: has no {name}")


def blocks(page: str) -> dict[str, str]:
    """The paragraphs and headings of a page by their ids, in order."""
    texts: dict[str, str] = {}
    for _, name, content in BLOCK.findall(page):
        inline = TAG.sub("", BREAK.sub(" ", content))
        text = " ".join(html.unescape(inline).split())
        if sum(map(str.isalpha, text)) > 1:
            texts.setdefault(name, text)
    return texts


def pairs(ours: Pages, theirs: Pages, language: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for page, texts in ours.items():
        for name, text in texts.items():
            other = theirs.get(page, {}).get(name, text)
            if other != text:
                yield page, {"translation": {"en": text, language: other}}


def titles(pages: Pages) -> Iterator[tuple[str, dict[str, Any]]]:
    for page, texts in pages.items():
        headings = [text for name, text in texts.items() if name.startswith("hd_")]
        body = [text for name, text in texts.items() if name.startswith("par_")]
        if headings and len(body) > 1:
            yield page, {"document": " ".join(body), "summary": headings[0]}


def write(out: Path, name: str, records: Iterator[tuple[str, dict[str, Any]]], key: str) -> None:
    lines: dict[str, list[str]] = {"train": [], "validation": []}
    every = list(records)
    number = {page: n for n, page in enumerate(dict.fromkeys(page for page, _ in every))}
    seen: set[str] = set()  # pairs, and sources of training
    for split in lines:
        for page, record in every:
            if (number[page] % 10 == 9) != (split == "validation"):
                continue
            line = json.dumps(record, ensure_ascii=False)
            source = record[key]["en"] if key == "translation" else record[key]
            if line in seen or (split == "validation" and source in seen):
                continue
            seen.update((line, source) if split == "train" else (line,))
            lines[split].append(line)
    for split, some in lines.items():
        (out / f"{name}.{split}.jsonl").write_text("\n".join(some) + "\n", encoding="utf-8")
    print(f"{name}: {len(lines['train']):,} for training, {len(lines['validation']):,} held out")


if __name__ == "__main__":
    main()
