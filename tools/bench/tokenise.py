"""Tokenising one large file into a token store, beside sentencepiece itself on the same text.

    python tools/bench/tokenise.py --text corpus.txt

jaxlm reads the file, tokenises, hashes and writes the store; sentencepiece encodes the file's
lines, which are in memory, in one call with as many threads as there are cores. Both tokenise with
the same BPE model of 4,096 ids. "whole" is one call for the text as a whole. Without --text the
text is made up of words with a Zipf distribution.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sides import arguments, compare, emit

from jaxlm.core.cores import available_cores
from jaxlm.data.sources.text import TextFiles
from jaxlm.data.store.tokenise import Options, prepare_store
from jaxlm.data.tokenizers.sentencepieces import SentencePiece, SentencePieceTokenizer, train_model


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = arguments(__doc__)
    parser.add_argument("--text", help="a text file")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        size = 60_000 if options.tiny else 5_000_000
        text = made_up(size) if options.text is None else Path(options.text).read_text()
        path = Path(folder) / "corpus.txt"
        path.write_text(text)
        config = SentencePiece(vocab_size=400 if options.tiny else 4096)
        tokenizer = SentencePieceTokenizer(train_model(config, lambda: [text[:1_000_000]]))
        library, numbers = tokenizer._processor, itertools.count()
        lines = text.splitlines(keepends=True)

        def store(workers: int) -> None:
            cache = Path(folder) / f"cache{next(numbers)}"
            source = {"source": TextFiles(files=(str(path),))}
            prepare_store(
                source,
                tokenizer,
                Options(),
                cache,
                workers=workers,
                report=lambda line: None,
            )
            shutil.rmtree(cache)

        tokens = len(tokenizer.encode(text))
        sides = {
            "jaxlm, to a store": lambda: store(0),
            "jaxlm, to a store, workers 2": lambda: store(2),
            "jaxlm, in memory": lambda: tokenizer.encode_batch([text]),
            "sentencepiece, lines": lambda: library.encode(lines, num_threads=available_cores()),
            "sentencepiece, whole": lambda: library.encode(text),
        }
        rounds = 1 if options.tiny else options.rounds
        rows = [compare(sides, name="one file", work=tokens, unit="tokens", rounds=rounds)]
    print(f"{available_cores()} cores; seconds of the clock: {rows[0]['seconds']}")
    emit("tokenise", rows, options.json)
    return rows


def made_up(size: int) -> str:
    """About `size` characters of lines of made-up words."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    vocabulary = ["".join(rng.choice(letters, rng.integers(1, 10))) for _ in range(5000)]
    drawn = np.minimum(rng.zipf(1.3, size // 5) - 1, 4999)
    words = iter(vocabulary[i] for i in drawn)
    lines = iter(lambda: " ".join(itertools.islice(words, 9)), "")
    return "\n".join(lines)[:size]


if __name__ == "__main__":
    main()
