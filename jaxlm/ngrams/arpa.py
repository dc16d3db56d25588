r"""ARPA files, the format in which KenLM, SRILM and others exchange n-gram models.

    \data\
    ngram 1=5
    ...
    \1-grams:
    -0.69897	word	-0.30103

Each line has the logarithm to base 10 of a probability, the words, and the logarithm of the weight
of backing off. The sentence begins with <s>, whose probability is written as 1, as KenLM does.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.files import disk_errors
from jaxlm.ngrams.counting import find
from jaxlm.ngrams.model import Level, NgramModel

BOS = "<s>"
LN10 = math.log(10)
LEAST = -99.0  # the logarithm of 0
SHORTEST = 4  # bytes of the line of an n-gram


def write_arpa(model: NgramModel, words: Sequence[str], path: str | Path) -> None:
    """Writes a model, to a name that ends in .gz compressed. `words` names each id, without white
    space; that of bos is written as <s>.

    Raises `UserError` for names that the format cannot hold.
    """
    names = [BOS if i == model.bos else word for i, word in enumerate(words)]
    for i, word in enumerate(names):
        if len(word.split()) != 1 or word.split()[0] != word:
            raise UserError(f"{path}: token {i}, {word!r}, has white space, which ARPA cannot hold")
    if len(set(names)) != len(names):
        raise UserError(f"{path}: two tokens have one name; ARPA needs a name for each")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # ends as the name does
    try:
        with disk_errors(path), _opened(temporary, "wt") as file:
            _write(model, names, file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(model: NgramModel, names: Sequence[str], file: IO[str]) -> None:
    file.write("\\data\\\n")
    file.writelines(f"ngram {n}={len(m)}\n" for n, m in enumerate(model.levels, start=1))
    grams = [""]
    for n, level in enumerate(model.levels, start=1):
        context, last = np.divmod(level.key, np.uint64(model.vocab_size))
        before = " " if n > 1 else ""
        grams = [
            f"{grams[c]}{before}{names[w]}"
            for c, w in zip(context.tolist(), last.tolist(), strict=True)
        ]
        log_p = np.maximum(level.log_prob / LN10, LEAST)
        if n == 1:
            log_p[model.bos] = 0.0
        backoff = np.maximum(level.backoff / LN10, LEAST).tolist()
        file.write(f"\n\\{n}-grams:\n")
        if n == model.order:
            lines = (f"{p:.7g}\t{g}\n" for p, g in zip(log_p.tolist(), grams, strict=True))
        else:
            lines = (
                f"{p:.7g}\t{g}\t{b:.7g}\n"
                for p, g, b in zip(log_p.tolist(), grams, backoff, strict=True)
            )
        file.writelines(lines)
    file.write("\n\\end\\\n")


def read_arpa(path: str | Path) -> tuple[NgramModel, list[str]]:
    """(the model, the word of each id). Ids are in the order of the file.

    Raises `UserError`, with the line, for what is not a whole ARPA file, and for n-grams whose
    beginnings are missing, as some programs prune them.
    """
    words: dict[str, int] = {}
    levels: list[Level] = []
    try:
        with disk_errors(path), _opened(path, "rt") as file:
            lines = enumerate(file, start=1)
            sizes = _sizes(path, lines)
            most = os.fstat(file.fileno()).st_size // SHORTEST
            if not str(path).endswith(".gz") and max(sizes) > most:
                n = sizes.index(max(sizes)) + 1
                raise UserError(
                    f"{path}: promises {max(sizes)} {n}-grams, for which it is cut short"
                )
            for n, size in enumerate(sizes, start=1):
                ids, log_p, backoff, numbers = _section(path, lines, n, size, words)
                levels.append(_level(path, levels, ids, log_p, backoff, numbers, len(words)))
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text, as an ARPA file is") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be decompressed ({error}); copy it again") from None
    if BOS not in words:
        raise UserError(f"{path}: has no {BOS}; a model of sentences needs it")
    levels[0].log_prob[words[BOS]] = -np.inf
    return NgramModel(levels, len(words), words[BOS]), list(words)


def _sizes(path: str | Path, lines: Iterator[tuple[int, str]]) -> list[int]:
    """The number of n-grams of each order, as the head names it."""
    sizes: list[int] = []
    for number, line in lines:
        if line.startswith("ngram "):
            order, _, size = line[6:].partition("=")
            if order.strip() != str(len(sizes) + 1) or not size.strip().isdigit():
                raise UserError(
                    f"{path}, line {number}: not the number of n-grams of the next order"
                )
            sizes.append(int(size))
        elif line.strip() == "\\1-grams:" and sizes:
            return sizes
        elif line.strip() not in ("", "\\data\\"):
            break
    raise UserError(f"{path}: not an ARPA file, which begins with \\data\\ and numbers of n-grams")


def _section(
    path: str | Path, lines: Iterator[tuple[int, str]], n: int, size: int, words: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(ids [M, n], log p [M], backoff [M], numbers of the lines [M]) of the n-grams of an order, up
    to the head of the next one. The words of order 1 are numbered.
    """
    ids = np.zeros((size, n), np.int64)
    log_p, backoff, numbers = np.zeros(size), np.zeros(size), np.zeros(size, np.int64)
    row = 0
    for number, line in lines:
        parts = line.split()
        if not parts:
            continue
        if parts[0].startswith("\\") and len(parts) == 1:
            if row < size:
                break
            return ids, log_p * LN10, backoff * LN10, numbers
        if n == 1 and len(parts) > 1:
            words.setdefault(parts[1], len(words))
        try:
            assert row < size and n + 1 <= len(parts) <= n + 2
            ids[row] = [words[word] for word in parts[1 : n + 1]]
            log_p[row] = float(parts[0])
            backoff[row] = float(parts[n + 1]) if len(parts) > n + 1 else 0.0
        except (AssertionError, KeyError, ValueError):
            raise UserError(
                f"{path}, line {number}: not one of the {size} {n}-grams: a logarithm, "
                "words that are 1-grams, and a weight"
            ) from None
        numbers[row] = number
        row += 1
    raise UserError(f"{path}: has {row} {n}-grams of the {size} that it promises; it is cut short")


def _level(
    path: str | Path,
    below: list[Level],
    ids: np.ndarray,
    log_p: np.ndarray,
    backoff: np.ndarray,
    numbers: np.ndarray,
    vocab_size: int,
) -> Level:
    """The n-grams of an order in the order of their keys."""
    context = np.zeros(len(ids), np.int64)
    for n, token in enumerate(ids.T[:-1]):
        context = find(below[n].key, _key(context, token, vocab_size))
        if (context < 0).any():
            line = numbers[context < 0][0]
            raise UserError(
                f"{path}, line {line}: the beginning of the n-gram is not among the n-grams of "
                "lower orders; write the file again without such pruning"
            )
    key = _key(context, ids[:, -1], vocab_size)
    order = np.argsort(key, kind="stable")
    key = key[order]
    if (twice := np.flatnonzero(key[1:] == key[:-1])).size:
        raise UserError(f"{path}, line {numbers[order[twice[0] + 1]]}: the n-gram comes twice")
    return Level(key, log_p[order], backoff[order])


def _key(context: np.ndarray, token: np.ndarray, vocab_size: int) -> np.ndarray:
    return context.astype(np.uint64) * np.uint64(vocab_size) + token.astype(np.uint64)


def _opened(path: str | Path, mode: str) -> IO[str]:
    if str(path).endswith(".gz"):
        return gzip.open(path, mode, encoding="utf-8")  # type: ignore[return-value]
    return open(path, mode.rstrip("t"), encoding="utf-8", newline="\n")
