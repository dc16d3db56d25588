"""N-gram models against KenLM's lmplz, against definitions in plain Python, and through files."""

from __future__ import annotations

import gzip
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlm.core import registry
from jaxlm.core.config import UserError, parse
from jaxlm.ngrams.arpa import read_arpa, write_arpa
from jaxlm.ngrams.counting import count, find, stream
from jaxlm.ngrams.model import NgramModel
from jaxlm.ngrams.smoothing.additive import Additive
from jaxlm.ngrams.smoothing.base import InMemory, Smoothing
from jaxlm.ngrams.smoothing.jelinek_mercer import JelinekMercer, deleted_interpolation
from jaxlm.ngrams.smoothing.kneser_ney import KneserNey
from jaxlm.ngrams.smoothing.witten_bell import WittenBell
from tests.ngrams.golden_text import FIXTURES, GOLDEN, sentences
from tools.make_golden_ngram import differences

V, BOS, EOS, PAD = 9, 0, 1, 8


def text(seed: int = 0, number: int = 60) -> np.ndarray:
    """Sentences of the tokens 2 to 6, which end with EOS; 7 does not occur."""
    rng = np.random.default_rng(seed)
    drawn = [rng.choice([2, 2, 2, 3, 3, 4, 5, 6], rng.integers(0, 9)) for _ in range(number)]
    return stream([np.append(each, EOS) for each in drawn], BOS)


def counted(order: int, tokens: np.ndarray | None = None) -> Any:
    tokens = text() if tokens is None else tokens
    return count(tokens, order=order, vocab_size=V, bos=BOS, never=(PAD,))


@pytest.mark.parametrize("name", GOLDEN)
def test_kneser_ney_is_that_of_lmplz(name: str) -> None:
    order, prune = GOLDEN[name]
    want, words = read_arpa(FIXTURES / f"{name}.arpa.gz")
    ids = {word: i for i, word in enumerate(words)}
    assert {"<unk>", "<s>", "</s>"} < set(ids) and max(map(len, want.levels[1:]), default=99) > 50
    lines = [np.array([*(ids[w] for w in line), ids["</s>"]]) for line in sentences()]
    tokens = stream(lines, want.bos)
    counts = count(tokens, order=order, vocab_size=len(words), bos=want.bos)
    found = KneserNey(prune=prune).estimate(counts)
    assert max(differences(found, want)) < 1e-5


def test_counts_are_those_of_a_dictionary() -> None:
    tokens = text()
    pieces = [p for p in np.split(tokens, np.flatnonzero(tokens == BOS)) if len(p)]
    counts = counted(4, tokens)
    for n in range(2, 5):
        grams = counts.orders[n - 1]
        want = Counter(tuple(p[i : i + n].tolist()) for p in pieces for i in range(len(p) - n + 1))
        spelt = spell(counts, n)
        assert dict(zip(spelt, grams.count.tolist(), strict=True)) == want
        assert spelt == sorted(spelt)
        assert [spell(counts, n - 1)[i] for i in grams.suffix] == [g[1:] for g in spelt]
        kinds = Counter(g[1:] for g in want)
        for gram, adjusted in zip(spell(counts, n - 1), counts.adjusted(n - 1), strict=True):
            if BOS not in gram:
                assert adjusted == kinds[gram]


def spell(counts: Any, n: int) -> list[tuple[int, ...]]:
    grams = counts.orders[n - 1]
    last = (grams.key % np.uint64(V)).tolist()
    if n == 1:
        return [(w,) for w in last]
    before = spell(counts, n - 1)
    return [(*before[c], w) for c, w in zip(grams.context, last, strict=True)]


ALL = [
    KneserNey(),
    KneserNey(prune=(0, 1, 1, 2)),
    WittenBell(),
    WittenBell(prune=(0, 1)),
    Additive(delta=0.3),
    JelinekMercer(),
    JelinekMercer(prune=(0, 0, 1)),
    JelinekMercer(weights=(0.1, 0.2, 0.3, 0.3, 0.1)),
]


@pytest.mark.parametrize("smoothing", ALL, ids=lambda s: f"{type(s).__name__}{s.prune}")
def test_probabilities_sum_to_1_and_batches_agree_with_single_contexts(smoothing: Any) -> None:
    model = smoothing.estimate(counted(4))
    rng = np.random.default_rng(1)
    for _ in range(60):
        context = rng.choice([2, 3, 4, 5, 6, 7], rng.integers(0, 7))
        context = np.append(BOS, context)[rng.integers(0, 2) :]
        log_p = model.next_log_probs(context)
        assert abs(np.exp(log_p).sum() - 1) < 1e-9
        assert log_p[[BOS, PAD]].max() == -np.inf and log_p[7] > -np.inf
        token = int(rng.integers(1, 8))
        assert model.log_probs(np.append(context, token))[-1] == pytest.approx(log_p[token])


def test_a_stream_is_scored_sentence_by_sentence() -> None:
    model = KneserNey().estimate(counted(4))
    parts = [p for p in np.split(text(1), np.flatnonzero(text(1) == BOS)) if len(p)]
    log_p, used = model.matched(np.concatenate(parts))
    np.testing.assert_array_equal(log_p, np.concatenate([model.log_probs(p) for p in parts]))
    places = np.concatenate([np.arange(len(p)) for p in parts])
    assert (used <= places + 1).all() and used.max() == 4


def test_a_long_stream_is_scored_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = KneserNey().estimate(counted(4))
    tokens = text(3)
    want, orders = model.matched(tokens)
    monkeypatch.setattr("jaxlm.ngrams.model.TOGETHER", 7)
    log_p, used = model.matched(tokens)
    np.testing.assert_array_equal(log_p, want)
    np.testing.assert_array_equal(used, orders)


def test_witten_bell_and_additive_are_those_of_their_definitions() -> None:
    tokens = text()
    pieces = [p for p in np.split(tokens, np.flatnonzero(tokens == BOS)) if len(p)]
    grams = Counter(
        tuple(p[i : i + n].tolist())
        for p in pieces for n in (1, 2, 3) for i in range(len(p) - n + 1)
    )  # fmt: skip
    del grams[(BOS,)]

    def continued(context: tuple[int, ...]) -> dict[int, int]:
        size = len(context)
        return {g[-1]: c for g, c in grams.items() if len(g) == size + 1 and g[:-1] == context}

    def witten_bell(context: tuple[int, ...], token: int) -> float:
        after = continued(context)
        lower = 1 / (V - 2) if not context else witten_bell(context[1:], token)
        if not after:
            return lower
        return (after.get(token, 0) + len(after) * lower) / (sum(after.values()) + len(after))

    def additive(context: tuple[int, ...], token: int) -> float:
        after = continued(context)
        return (after.get(token, 0) + 0.5) / (sum(after.values()) + 0.5 * (V - 2))

    for smoothing, definition in ((WittenBell(), witten_bell), (Additive(delta=0.5), additive)):
        model = smoothing.estimate(counted(3, tokens))
        for context in [(2, 3), (7, 2), (BOS, 2), (4, 4), (BOS,), (5, 7), (6, 6)]:
            for token in range(1, 8):
                own = model.next_log_probs(np.array(context))[token]
                assert own == pytest.approx(math.log(definition(context, token)), abs=1e-12)


def test_jelinek_mercer_mixes_relative_frequencies() -> None:
    tokens = stream([np.array([2, 3, 2, 3, 2, 4, EOS])], BOS)
    mixed = JelinekMercer(weights=(0.25, 0.25, 0.5)).estimate(counted(2, tokens))
    p = np.exp(mixed.next_log_probs(np.array([2])))
    assert p[3] == pytest.approx(0.25 / (V - 2) + 0.25 * 2 / 7 + 0.5 * 2 / 3)
    assert p[5] == pytest.approx(0.25 / (V - 2))
    unseen = np.exp(mixed.next_log_probs(np.array([7])))
    assert unseen[3] == pytest.approx(0.5 / (V - 2) + 0.5 * 2 / 7)
    # a text that repeats itself is best predicted by its longest contexts
    cycle = stream([np.array([2, 3, 4, 5, 6] * 40)], BOS)
    weights = deleted_interpolation(InMemory(counted(3, cycle)))
    assert weights.sum() == pytest.approx(1) and weights[2:].sum() > 0.9
    with pytest.raises(UserError, match="weights: 2 of them for orders 0 to 3; give 4, or none"):
        JelinekMercer(weights=(0.5, 0.5)).estimate(counted(3))


def test_what_a_file_holds_comes_back(tmp_path: Path) -> None:
    model = KneserNey(prune=(0, 0, 1)).estimate(counted(3))
    words = ["<s>", "</s>", *"abcdef", "<pad>"]
    for name in ("model.arpa", "model.arpa.gz"):
        write_arpa(model, words, tmp_path / name)
        again, found = read_arpa(tmp_path / name)
        assert found == words and again.bos == BOS
        tokens = text(2)
        np.testing.assert_allclose(again.log_probs(tokens), model.log_probs(tokens), rtol=2e-6)
    with gzip.open(tmp_path / "model.arpa.gz", "rt") as file:
        content = file.read()
    assert content == (tmp_path / "model.arpa").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.replace("\\data\\", "data"), "not an ARPA file"),
        (lambda s: s[: len(s) // 2], "is cut short|not one of the"),
        (lambda s: s.replace("\ta b\t", "\ta z\t", 1), "line .*: not one of the .* 2-grams"),
        (lambda s: s.replace("<s>", "<q>"), "has no <s>"),
        (lambda s: s.replace("ngram 2=", "ngram 2=99999999999"), "2-grams, .* cut short"),
        (lambda s: s.replace("\ta b\t", "\ta a\t", 1), "the n-gram comes twice|beginning"),
    ],
)
def test_a_broken_file_is_named(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.arpa"
    write_arpa(KneserNey().estimate(counted(3)), ["<s>", "</s>", *"abcdef", "<pad>"], path)
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=message) as error:
        read_arpa(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08cut", b"plain", b"", gzip.compress(b"\xff")])
def test_a_damaged_compressed_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.arpa.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.arpa\.gz") as error:
        read_arpa(tmp_path / "a.arpa.gz")
    assert "\n" not in str(error.value)


def test_words_must_be_ones_that_a_file_can_hold(tmp_path: Path) -> None:
    model = WittenBell().estimate(counted(2))
    with pytest.raises(UserError, match="token 2, 'a b', has white space"):
        write_arpa(model, ["<s>", "</s>", "a b", *"bcdef", "<pad>"], tmp_path / "x")
    with pytest.raises(UserError, match="two tokens have one name"):
        write_arpa(model, ["<s>", "</s>", *"aacdef", "<pad>"], tmp_path / "x")


def test_too_little_text_for_discounts_is_an_error_without_a_fallback() -> None:
    few = counted(2, stream([np.array([2, 3, EOS])], BOS))
    with pytest.raises(
        UserError, match=r"fallback: the text has too few 1-grams .*\[0.5, 1, 1.5\]"
    ):
        KneserNey(fallback=None).estimate(few)
    assert isinstance(KneserNey().estimate(few), NgramModel)


def test_what_cannot_be_counted_is_a_users_error() -> None:
    with pytest.raises(UserError, match="order: 9 is not from 1 to 8"):
        counted(9)
    with pytest.raises(UserError, match="needs bos"):
        counted(2, np.array([2, 3]))
    with pytest.raises(UserError, match="prune"):
        parse(Smoothing, {"type": "kneser_ney", "prune": [1, 2]})
    with pytest.raises(UserError, match="fallback: needs three"):
        parse(Smoothing, {"fallback": [0.5, 3, 1]})


def test_large_keys_are_found_without_packing() -> None:
    """Their places do not fit beside them into 64 bits."""
    rng = np.random.default_rng(0)
    for bits in (6, 20, 40, 63):  # few keys close together are in a table
        keys = np.unique(rng.integers(0, 2**bits, 500, np.uint64))
        wanted = np.concatenate([rng.permutation(keys)[:100], keys[:50] + np.uint64(1)])
        place = {int(key): i for i, key in enumerate(keys)}
        assert find(keys, wanted).tolist() == [place.get(int(key), -1) for key in wanted]
    assert find(keys[:0], wanted).max() == -1


def test_smoothings_are_parts() -> None:
    assert registry.names(Smoothing) == ["additive", "jelinek_mercer", "kneser_ney", "witten_bell"]
    assert parse(Smoothing, {"type": "additive", "delta": 2}) == Additive(delta=2.0)


def test_windows_and_numbers_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short n-grams fit into 64 bits and are sorted once; others take a sort for each order."""
    by_windows = [counted(n) for n in (1, 2, 5)]
    monkeypatch.setattr("jaxlm.ngrams.counting.window_bits", lambda vocab_size: 64)
    for found, want in zip(by_windows, [counted(n) for n in (1, 2, 5)], strict=True):
        for own, other in zip(found.orders, want.orders, strict=True):
            for name in ("key", "count", "suffix", "context", "at_start"):
                np.testing.assert_array_equal(getattr(own, name), getattr(other, name))
