"""Mixtures: exact rates, every part in epochs of its own, ids that no two parts share."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest

from jaxlm.core.config import UserError
from jaxlm.data.mixture import PART_BITS, Interleaved, MixtureData, Part
from jaxlm.data.sources.text import TextFiles
from jaxlm.data.text import TextData
from jaxlm.data.tokenizers.base import Bytes


class Counting:
    """Row i is {"id": i modulo n}."""

    def __init__(self, n: int) -> None:
        self.rows_per_epoch = n

    def __getitem__(self, index: int) -> dict:
        return {"id": index % self.rows_per_epoch, "index": index}


@pytest.mark.parametrize("weights", [[1.0], [3.0, 1.0], [0.7, 0.2, 0.1], [5.0, 1.0, 1.0, 2.5]])
def test_rates_are_exact_and_each_part_is_read_in_order(weights) -> None:
    mixed = Interleaved([Counting(11) for _ in weights], weights)
    total = sum(Fraction(str(w)) for w in weights)
    seen: Counter[int] = Counter()
    for i in range(1, 1001):
        part, place = mixed.locate(i - 1)
        assert place == seen[part]  # the next row of that part: none is skipped, none repeated
        seen[part] += 1
        for k, weight in enumerate(weights):
            assert abs(seen[k] - i * Fraction(str(weight)) / total) <= len(weights)
    assert [seen[k] * total for k in range(len(weights))] == pytest.approx(
        [1000 * Fraction(str(w)) for w in weights], abs=float(total)
    )


def test_a_far_row_is_found_without_counting() -> None:
    mixed = Interleaved([Counting(5), Counting(7)], [0.3, 0.1])
    last = dict(mixed.locate(4 * 10**15 - k) for k in range(8, 0, -1))  # the last row of each part
    assert last == {0: 3 * 10**15 - 1, 1: 10**15 - 1}


def mixture(make_corpus, **changes) -> MixtureData:
    def text(name: str, count: int) -> TextData:
        files = (make_corpus(count, name),)
        return TextData(
            source=TextFiles(files=files), seq_len=16, validation_fraction=0.3, **changes
        )

    return MixtureData(
        parts={
            "big": Part(weight=3, data=text("big", 9)),
            "small": Part(weight=1, data=text("small", 5)),
        }
    )


def test_mixture_of_texts(make_corpus, tmp_path) -> None:
    data = mixture(make_corpus)
    prepared = data.prepare(Bytes(), tmp_path / "cache", report=lambda line: None)
    rows = prepared.rows("train", batch_size=4, seed=0)
    n = rows.rows_per_epoch
    parts = [int(rows[i]["id"]) >> PART_BITS for i in range(4 * 40)]
    assert Counter(parts) == {0: 120, 1: 40}
    small = [
        int(rows[i]["id"]) & (1 << PART_BITS) - 1
        for i in range(4 * n)
        if int(rows[i]["id"]) >> PART_BITS
    ]
    size = prepared.manifest["parts"]["small"]["splits"]["train"]["rows"]
    first, second = small[:size], small[size : 2 * size]
    assert sorted(first) == sorted(second) == list(range(size)) and first != second
    assert n == size + prepared.manifest["parts"]["big"]["splits"]["train"]["rows"]


def test_parts_of_one_size_are_shuffled_apart(make_corpus, tmp_path) -> None:
    part = mixture(make_corpus).parts["big"].data
    data = MixtureData(parts={"one": Part(data=part), "two": Part(data=part)})
    rows = data.prepare(Bytes(), tmp_path / "cache", report=lambda line: None).rows(
        "train", batch_size=1, seed=0
    )
    ids = [int(rows[i]["id"]) for i in range(rows.rows_per_epoch)]
    mask = (1 << PART_BITS) - 1
    orders = [[i & mask for i in ids if i >> PART_BITS == k] for k in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


def test_validation_is_each_part_after_the_other(make_corpus, tmp_path) -> None:
    data = mixture(make_corpus)
    prepared = data.prepare(Bytes(), tmp_path / "cache", report=lambda line: None)
    whole = prepared.rows("validation", batch_size=4, seed=0)
    sizes = []
    for name in ("big", "small"):
        alone = prepared.rows(f"validation/{name}", batch_size=4, seed=0)
        for i in range(alone.rows_per_epoch):
            assert whole[sum(sizes) + i]["tokens"].tolist() == alone[i]["tokens"].tolist()
        sizes.append(alone.rows_per_epoch)
    assert whole.rows_per_epoch == sum(sizes)
    ids = [int(whole[i]["id"]) for i in range(sum(sizes))]
    assert len(set(ids)) == len(ids)
    assert int(whole[sum(sizes)]["id"]) == ids[0]


def test_training_texts_are_those_of_all_parts(make_corpus) -> None:
    data = mixture(make_corpus)
    each = [list(part.data.training_texts()) for part in data.parts.values()]
    assert list(data.training_texts()) == each[0] + each[1]
    assert len(each[0]) < 9 and len(each[1]) < 5


def test_mistakes(make_corpus, tmp_path) -> None:
    with pytest.raises(UserError, match="order: shuffle"):
        mixture(make_corpus, order="stream").validate()
    with pytest.raises(UserError, match="at least one"):
        MixtureData(parts={}).validate()
    data = mixture(make_corpus)
    with pytest.raises(UserError, match="small is a mixture"):
        MixtureData(parts={"small": Part(data=data)}).validate()
    uneven = MixtureData(
        parts={
            **data.parts,
            "third": Part(data=data.parts["big"].data.replace(seq_len=8)),
        }
    )
    with pytest.raises(UserError, match="seq_len differs"):
        uneven.prepare(Bytes(), tmp_path / "cache", report=lambda line: None)
