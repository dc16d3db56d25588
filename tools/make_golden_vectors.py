"""Writes tests/fixtures/vectors: files of word vectors, and their scores, by gensim.

    python tools/make_golden_vectors.py                (needs gensim)

The words and vectors are made up: countries, capitals and plurals with noise, so that some answers
are right and some are wrong, and words in two letter cases.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from gensim.models import KeyedVectors

OUT = Path(__file__).parents[1] / "tests" / "fixtures" / "vectors"
SIZE, NOISE = 8, 0.55


def main() -> None:
    rng = np.random.default_rng(7)
    capital, plural = rng.normal(0, 1, (2, SIZE))
    words: dict[str, np.ndarray] = {}
    for i in range(12):
        land = rng.normal(0, 1, SIZE)
        words[f"Land{i}"] = land
        words[f"city{i}"] = land + capital + rng.normal(0, NOISE, SIZE)
        thing = rng.normal(0, 1, SIZE)
        words[f"thing{i}"] = thing
        words[f"thing{i}s"] = thing + plural + rng.normal(0, NOISE, SIZE)
    for i in range(0, 12, 3):  # later, in other letter case
        words[f"land{i}"] = words[f"Land{i}"] + rng.normal(0, 0.1, SIZE)
    for case in ("CITY1", "City1", "cIty1", "ciTy1", "citY1", "CITy1"):
        words[case] = words["city1"] + rng.normal(0, 0.01, SIZE)
    words |= {"好": rng.normal(0, 1, SIZE), "naïve": rng.normal(0, 1, SIZE)}
    table = KeyedVectors(SIZE)
    table.add_vectors(list(words), np.array([*words.values()], np.float32))
    OUT.mkdir(parents=True, exist_ok=True)
    table.save_word2vec_format(str(OUT / "word2vec.bin"), binary=True, sort_attr="")
    _write_text(table, OUT / "word2vec.txt", header=True)
    _write_text(table, OUT / "glove.txt", header=False)
    for name, has_header in (("word2vec.txt", True), ("glove.txt", False)):
        again = KeyedVectors.load_word2vec_format(str(OUT / name), no_header=not has_header)
        assert (again.vectors == table.vectors).all(), name

    questions, pairs = OUT / "questions.txt", OUT / "pairs.tsv"
    questions.write_text(_questions(), encoding="utf-8")
    pairs.write_text(_pairs(rng), encoding="utf-8")
    golden = {
        "words": list(words),
        "nearest": table.most_similar("city3", topn=4),
        "analogy": table.most_similar(positive=["city4", "Land5"], negative=["Land4"], topn=4),
    }
    for limit in (300_000, 30):
        score, sections = table.evaluate_word_analogies(str(questions), restrict_vocab=limit)
        golden[f"questions_{limit}"] = [score] + [
            [s["section"], len(s["correct"]), len(s["correct"]) + len(s["incorrect"])]
            for s in sections
        ]
        pearson, spearman, unknown = table.evaluate_word_pairs(str(pairs), restrict_vocab=limit)
        golden[f"pairs_{limit}"] = [float(spearman[0]), float(pearson[0]), float(unknown)]
    (OUT / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


def _write_text(table: KeyedVectors, path: Path, *, header: bool) -> None:
    """As gensim's own writer, whose numbers are not readable with numpy 2."""
    lines = [f"{len(table)} {SIZE}"] if header else []
    for word in table.index_to_key:
        lines.append(" ".join([word, *(str(float(x)) for x in table[word])]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _questions() -> str:
    lines = [": capitals"]
    lines += [
        f"land{a} City{a} land{b} city{b}" for a in range(12) for b in range(0, 12, 2) if a != b
    ]
    lines += ["land1 city1 land2", "land1 city1 nowhere city2", ": nothing known", "a b c d"]
    lines += [": plurals"]
    lines += [f"thing{a} thing{a}s thing{b} thing{b}s" for a in range(12) for b in (3, 7) if a != b]
    lines += ["thing1 city1 thing1 city1", "city1 city2 city1 city1"]
    return "\n".join(lines) + "\n"


def _pairs(rng: np.random.Generator) -> str:
    lines = ["# made-up words", "Word 1\tWord 2\tHuman"]
    for i in range(11):
        lines.append(f"LAND{i}\tcity{i}\t{rng.integers(4, 9)}")
        lines.append(f"thing{i}\tcity{i + 1}\t{rng.integers(0, 5)}.5")
    lines += ["thing1\tnowhere\t3.0", "", "thing1\tthing2"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
