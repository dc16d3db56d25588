"""From a text to the sorted n-grams of each part, with their counts and suffixes.

    windows.S       the windows of a piece of the text that have two tokens or more, by part, and
                    how often each token occurs
    grams.P         of a part, orders 2 to N: keys by the part's own numbers of contexts, counts
    suffix.N.P      the number of each n-gram's suffix, and how many n-grams have each suffix

A window is the N tokens from a place on, as one or more 64-bit words in which the first token is
highest and 0 is after the end of the sentence: sorted windows are sorted n-grams of all orders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxlm.ngrams.counting import sorted_places, window_bits
from jaxlm.ngrams.on_disk.text import Text
from jaxlm.ngrams.on_disk.work import Arrays, Work

SAMPLED = 1 << 18  # places by which parts are made equally large
TOGETHER = 1 << 10  # places of a sample that follow each other


@dataclass(frozen=True)
class Plan:
    """What is counted, and the division into parts."""

    order: int
    vocab_size: int
    bos: int
    piece: int  # places of the text that are read at a time
    length: int  # of the text
    bounds: np.ndarray  # [P - 1] uint64: the first pair of tokens of each part after the first

    @property
    def parts(self) -> int:
        return len(self.bounds) + 1

    @property
    def pieces(self) -> int:
        return -(-self.length // self.piece)


class Sizes:
    """How many n-grams each part has, by order, and the number of the first one."""

    def __init__(self, sizes: np.ndarray) -> None:
        """sizes [P, N + 1], by part and order."""
        self.sizes = sizes
        self.first = np.cumsum(sizes, axis=0) - sizes

    def of(self, n: int, part: int) -> tuple[int, int]:
        """(the number of the first n-gram of a part, how many there are)"""
        return int(self.first[part, n]), int(self.sizes[part, n])


def planned(text: Text, *, order: int, vocab_size: int, bos: int, most: int) -> Plan:
    """Parts of about `most` places of the text, by a sample of its pairs of tokens."""
    length = len(text)
    parts = -(-length // most)
    bounds = np.zeros(0, np.uint64)
    if parts > 1:
        blocks = np.linspace(0, length - 1, max(1, SAMPLED // TOGETHER)).astype(np.int64)
        read = [text.read(int(at), int(at) + TOGETHER) for at in blocks]
        pairs = np.sort(np.concatenate([_pairs(_codes(r), r != bos, vocab_size) for r in read]))
        pairs = pairs[_has_second(pairs, vocab_size)]
        parts = min(parts, max(1, len(pairs)))
        bounds = np.unique(pairs[np.arange(1, parts) * len(pairs) // parts])
    return Plan(order, vocab_size, bos, most, length, bounds)


def count_on_disk(text: Text, plan: Plan, work: Work) -> Sizes:
    """All steps from the text to counts and suffixes."""
    pieces = [f"windows.{i}" for i in range(plan.pieces)]
    parts = range(plan.parts)
    work.stage(pieces, lambda i: _windows(text, plan, i))
    work.stage([f"grams.{p}" for p in parts], lambda p: _grams(plan, work, pieces, p))
    sizes = Sizes(np.stack([work.load(f"grams.{p}", "sizes") for p in parts]))
    for n in range(2, plan.order + 1):
        names = [f"suffix.{n}.{p}" for p in parts]
        work.stage(names, lambda p, n=n: _suffixes(plan, work, sizes, n, p))  # type: ignore[misc]
    return sizes


def token_counts(plan: Plan, work: Work) -> np.ndarray:
    """[V] how often each token is predicted; bos never."""
    total = np.zeros(plan.vocab_size, np.int64)
    for i in range(plan.pieces):
        total += work.load(f"windows.{i}", "tokens")
    total[plan.bos] = 0
    return total


def global_keys(plan: Plan, work: Work, sizes: Sizes, n: int, part: int) -> np.ndarray:
    """[M] uint64: the keys of a part's n-grams by the numbers of contexts over all parts."""
    key = work.load(f"grams.{part}", f"{n}.key")
    if n > 2:
        key += np.uint64(sizes.of(n - 1, part)[0] * plan.vocab_size)
    return key


# -------------------------------------------------------------------------------------- the steps


def _windows(text: Text, plan: Plan, piece: int) -> Arrays:
    begin = piece * plan.piece
    tokens = text.read(begin, begin + plan.piece + plan.order - 1)
    size = min(plan.piece, len(tokens), plan.length - begin)
    code, inside = _codes(tokens), tokens != plan.bos
    words = _packed(code, inside, plan, size)
    pairs = _pairs(code, inside, plan.vocab_size)[:size]
    longer = np.flatnonzero(_has_second(pairs, plan.vocab_size))
    part = np.searchsorted(plan.bounds, pairs[longer], "right").astype(np.uint16)
    words = words[:, longer[np.argsort(part, kind="stable")]]
    ends = np.cumsum(np.bincount(part, minlength=plan.parts))
    arrays = {f"words.{p}": w for p, w in enumerate(np.split(words, ends[:-1], axis=1))}
    arrays["tokens"] = np.bincount(tokens[:size], minlength=plan.vocab_size)
    return arrays


def _grams(plan: Plan, work: Work, pieces: list[str], part: int) -> Arrays:
    words = np.concatenate([work.load(name, f"words.{part}") for name in pieces], axis=1)
    if len(words) == 1:
        words[0].sort()
    else:
        words = words[:, np.lexsort(words[::-1])]
    new = np.ones(words.shape[1], bool)
    new[1:] = (words[:, 1:] != words[:, :-1]).any(axis=0)
    starts = np.flatnonzero(new)
    counts = np.diff(starts, append=words.shape[1])
    words = words[:, starts]
    first = _digit(words, 1, plan)
    number = first - 1  # of the n-gram of one order less with which a window begins
    begins = _changes(first)
    arrays: Arrays = {}
    sizes = np.zeros(plan.order + 1, np.int64)
    for n in range(2, plan.order + 1):
        digit = _digit(words, n, plan)
        begins |= _changes(digit)
        chosen = np.flatnonzero(begins & (digit > 0))
        key = number[chosen].astype(np.uint64) * np.uint64(plan.vocab_size)
        key += (digit[chosen] - 1).astype(np.uint64)
        count = np.add.reduceat(np.where(digit > 0, counts, 0), chosen) if len(chosen) else counts
        arrays[f"{n}.key"] = key
        arrays[f"{n}.count"] = count[: len(chosen)].astype(np.uint32)
        at_start = np.searchsorted(first[chosen], [plan.bos + 1, plan.bos + 2])
        arrays[f"{n}.at_start"] = at_start  # from where to where n-grams begin with bos
        sizes[n] = len(chosen)
        number = np.cumsum(begins & (digit > 0)) - 1
    return {**arrays, "sizes": sizes}


def _suffixes(plan: Plan, work: Work, sizes: Sizes, n: int, part: int) -> Arrays:
    key = work.load(f"grams.{part}", f"{n}.key")
    context, token = np.divmod(key, np.uint64(plan.vocab_size))
    if n == 2:
        order, found = sorted_places(token)
        found = found.astype(np.int64)
    else:
        below = work.load(f"suffix.{n - 1}.{part}", "suffix")[context.astype(np.int64)]
        wanted = below.astype(np.uint64) * np.uint64(plan.vocab_size) + token
        order, asked = sorted_places(wanted)
        found = np.empty(len(asked), np.int64)
        for q in range(plan.parts):
            start, size = sizes.of(n - 1, q)
            if size:
                keys = global_keys(plan, work, sizes, n - 1, q)
                low = np.searchsorted(asked, keys[0])
                high = np.searchsorted(asked, keys[-1], "right")
                found[low:high] = start + np.searchsorted(keys, asked[low:high])
    suffix = np.empty(len(key), np.uint32 if _fits(sizes, n) else np.int64)
    suffix[order] = found
    starts = np.flatnonzero(_changes(found))
    number, kinds = found[starts], np.diff(starts, append=len(found))
    arrays = {"suffix": suffix}
    for q in range(plan.parts):  # each part reads what is its own
        begin, size = (0, plan.vocab_size) if n == 2 else sizes.of(n - 1, q)
        low, high = np.searchsorted(number, [begin, begin + size])
        arrays[f"number.{q}"] = (number[low:high] - begin).astype(np.uint32)
        arrays[f"kinds.{q}"] = kinds[low:high].astype(np.uint32)
        if n == 2:
            break
    return arrays


def _fits(sizes: Sizes, n: int) -> bool:
    return int(sizes.sizes[:, n - 1].sum()) < 2**32


def _packed(code: np.ndarray, inside: np.ndarray, plan: Plan, size: int) -> np.ndarray:
    """[words, size] uint64: the windows that begin at the first `size` places."""
    bits = window_bits(plan.vocab_size)
    each = 64 // bits
    words = np.zeros((-(-plan.order // each), size), np.uint64)
    alive = np.ones(size, bool)
    for n in range(plan.order):
        have = min(size, len(code) - n)
        alive[max(have, 0) :] = False
        if n:
            alive[:have] &= inside[n : n + have]
        shift = np.uint64(bits * (each - 1 - n % each))
        words[n // each, :have] |= np.where(alive[:have], code[n : n + have], 0) << shift
    return words


def _digit(words: np.ndarray, n: int, plan: Plan) -> np.ndarray:
    """[M] int64: the n-th token of windows, plus 1; 0 after the end of the sentence."""
    bits = window_bits(plan.vocab_size)
    each = 64 // bits
    word, place = divmod(n - 1, each)
    shifted = words[word] >> np.uint64(bits * (each - 1 - place))
    return (shifted & np.uint64((1 << bits) - 1)).astype(np.int64)


def _codes(tokens: np.ndarray) -> np.ndarray:
    return tokens.astype(np.uint64) + np.uint64(1)


def _pairs(code: np.ndarray, inside: np.ndarray, vocab_size: int) -> np.ndarray:
    """[T] uint64: each token with the next of its sentence, as one number."""
    pairs = code * np.uint64(vocab_size + 1)
    pairs[:-1] += np.where(inside[1:], code[1:], 0)
    return pairs


def _has_second(pairs: np.ndarray, vocab_size: int) -> np.ndarray:
    """[M] bool: not the last token of a sentence, which begins no n-gram of order 2 or more."""
    return pairs % np.uint64(vocab_size + 1) != 0


def _changes(ordered: np.ndarray) -> np.ndarray:
    new = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return new
