"""Buckets of character n-grams by fastText, and Huffman codes by gensim, for the tests.

python tools/make_golden_word_vectors.py       # needs fasttext-wheel and gensim 4.4
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import fasttext
from gensim.models import Word2Vec

OUT = Path(__file__).parents[1] / "tests" / "fixtures" / "word_vectors.json"
WORDS = ["sea", "where", "a", "of", "naïve", "Straße", "山", "看山是山", "ox\u0301", "'tis", "моря"]
BUCKETS, MINN, MAXN = 1009, 3, 6
COUNTS = [311, 205, 97, 88, 53, 41, 29, 17, 11, 7, 5, 3]


def fasttext_buckets() -> list[dict]:
    """The buckets of each word, without its own row, which comes before those of the n-grams."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(" ".join(WORDS) for _ in range(5)))
        file.flush()
        model = fasttext.train_unsupervised(
            file.name, dim=2, minCount=1, minn=MINN, maxn=MAXN, bucket=BUCKETS, thread=1, verbose=0
        )
    size = len(model.get_words(on_unicode_error="strict"))
    found = []
    for word in WORDS:
        ids = [int(i) for _, i in zip(*model.f.getSubwords(word, "strict"), strict=True)]
        found.append({"word": word, "buckets": [i - size for i in ids if i >= size]})
    return found


def gensim_codes() -> list[list[int]]:
    model = Word2Vec(vector_size=2, hs=1, negative=0, min_count=1)
    model.build_vocab_from_freq({f"w{i}": count for i, count in enumerate(COUNTS)})
    return [model.wv.get_vecattr(f"w{i}", "code").tolist() for i in range(len(COUNTS))]


if __name__ == "__main__":
    golden = {
        "fasttext": {"minn": MINN, "maxn": MAXN, "buckets": BUCKETS, "words": fasttext_buckets()},
        "huffman": {"counts": COUNTS, "codes": gensim_codes()},
    }
    OUT.write_text(json.dumps(golden, ensure_ascii=False) + "\n")
