"""Masks: how many, of what kinds and where, against binomial bounds and the rows themselves."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from jaxlm.core.config import UserError, parse
from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.objectives.masked_lm import MaskedLM

MASK = 263
BOS, EOS = 257, 258


@cache
def rows(count: int = 300, length: int = 128) -> list[dict]:
    """Two documents and padding each, with bos and eos."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(count):
        tokens = rng.integers(97, 123, length + 1).astype(np.int32)
        tokens[rng.random(length + 1) < 0.2] = ord(" ")
        segments = np.repeat(np.int32([1, 2, 0]), [50, length + 1 - 60, 10])
        tokens[[0, 50]], tokens[[49, -11]], tokens[-10:] = BOS, EOS, 256
        positions = np.concatenate([np.arange(50), np.arange(length + 1 - 60), np.zeros(10)])
        out.append(
            {"tokens": tokens, "segment_ids": segments, "positions": positions.astype(np.int32)}
        )
    return out


def masked(seed: int = 0, first: int = 0, **options) -> list[dict]:
    transform = MaskedLM(mask=MASK, **options).host_transform(ByteTokenizer(), seed)
    return [transform(row, first + i) for i, row in enumerate(rows())]


def within(found: int, total: int, share: float) -> bool:
    """Five standard deviations: one honest run in a million falls outside."""
    return abs(found - total * share) <= 5 * math.sqrt(total * share * (1 - share))


@pytest.mark.parametrize(("rate", "keep", "swap"), [(0.15, 0.8, 0.1), (0.4, 0.5, 0.5), (0.3, 1, 0)])
def test_shares_and_kinds(rate, keep, swap):
    text = chosen = with_mask = same = other = 0
    for row, out in zip(rows(), masked(rate=rate, masked=keep, random=swap), strict=True):
        tokens, asked = row["tokens"][:-1], out["loss_weights"] > 0
        assert (out["targets"] == tokens).all()
        assert (out["tokens"][~asked] == tokens[~asked]).all()
        text += (tokens < 256).sum()
        chosen += asked.sum()
        with_mask += (out["tokens"][asked] == MASK).sum()
        same += (out["tokens"][asked] == tokens[asked]).sum()
        other += ((out["tokens"] != tokens) & (out["tokens"] != MASK)).sum()
        assert (out["tokens"][asked & (out["tokens"] != MASK)] < 256).all()
    assert within(chosen, text, rate)
    assert within(with_mask, chosen, keep)
    assert within(other, chosen, swap * 255 / 256)
    assert with_mask + same + other == chosen


def test_special_tokens_and_padding_stay():
    for row, out in zip(rows(), masked(rate=0.9), strict=True):
        special = row["tokens"][:-1] >= 256
        assert special.sum() == 4 + 9 and not out["loss_weights"][special].any()
        assert (out["segment_ids"] == row["segment_ids"][:-1]).all()
        assert (out["positions"] == row["positions"][:-1]).all()


def test_padding_stays_whatever_its_id():
    transform = MaskedLM(mask=MASK, rate=0.9).host_transform(ByteTokenizer(), 0)
    row = {**rows()[0], "tokens": np.full(129, 97, np.int32)}
    out = transform(row, 0)
    assert not out["loss_weights"][-9:].any() and (out["tokens"][-9:] == 97).all()
    assert out["loss_weights"][:-9].mean() > 0.7


def test_a_row_that_comes_again_is_masked_differently_and_by_the_seed():
    weights = lambda *how: np.array([row["loss_weights"] for row in masked(*how)])  # noqa: E731
    first = weights(0, 0)
    assert (weights(0, 0) == first).all()
    for other in (weights(1, 0), weights(0, 300), weights(0, 2**40)):
        assert 0.2 < (other != first).mean() / (0.15 * 2 * 0.9) < 1.1


def test_whole_words_are_chosen_or_left_together():
    found = 0
    for row, out in zip(rows(), masked(rate=0.3, whole_words=True), strict=True):
        tokens, asked, start = row["tokens"][:-1], out["loss_weights"] > 0, 0
        for end in [i for i in range(1, len(tokens)) if tokens[i] == 32 or tokens[i] > 255]:
            word = asked[start:end][tokens[start:end] < 256]
            assert word.all() or not word.any()
            found += bool(len(word)) and bool(word.all())
            start = end
    assert found > 1000


def test_more_kinds_than_all():
    with pytest.raises(UserError, match="are more than all"):
        parse(MaskedLM, {"masked": 0.8, "random": 0.3})
