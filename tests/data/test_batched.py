"""Rows that are gathered together are the rows that are read one by one, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlm.data.loader import Loader
from jaxlm.data.mixture import Chained, Interleaved
from jaxlm.data.rows.batched import Alike, batch_of, stack
from jaxlm.data.rows.order import InOrder, Shuffled, shuffled_index, shuffled_indices
from jaxlm.data.rows.packing import PackedRows
from jaxlm.data.rows.windows import Lanes, Windows
from jaxlm.data.tokenizers.characters import CharacterTokenizer
from jaxlm.objectives.causal_lm import CausalLM


def same(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype and found[key].shape == value.shape, key
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.fixture(params=["all", "some", "long"])
def documents(request, make_documents, random_texts):
    """All documents of a file; some of them, with others between them; a few long ones."""
    if request.param == "long":
        return make_documents(random_texts(1, 3, 100, 200))
    found = make_documents(random_texts(0, 60, 1, 50))
    if request.param == "all":
        return found
    return found.select(np.random.default_rng(0).random(len(found)) < 0.6)


def datasets(documents) -> dict:
    windows = Windows(documents, 16, 9)
    packed = PackedRows.plan(documents, 16, 9)
    mixed = [Shuffled(windows, 1), Shuffled(packed, 2)]
    return {
        "shuffled": Shuffled(windows, 3),
        "in order": InOrder(windows),
        "lanes": Lanes(windows, 5),
        "packed": Shuffled(packed, 3),
        "mixture": Interleaved(mixed, [2, 1]),
        "chained": Chained([InOrder(windows), InOrder(packed)], [0, 2]),
    }


@pytest.mark.parametrize("kind", ["shuffled", "in order", "lanes", "packed", "mixture", "chained"])
def test_a_batch_is_its_rows(documents, kind) -> None:
    """Over the borders of epochs and the padded last row, in any order, and far away."""
    rows = datasets(documents)[kind]
    n = rows.rows_per_epoch
    spans = [range(7), range(n - 4, n + 6), range(10**12, 10**12 + 5), [5, 2, 2, 3 * n - 1, n // 2]]
    for span in spans:
        indices = np.array(span, np.int64)
        same(batch_of(rows, indices), stack([rows[index] for index in indices.tolist()]))


@pytest.mark.parametrize("length", [1, 2, 3, 5, 31, 257, 1024, 5000, 3_000_001])
def test_the_order_of_a_batch_is_that_of_single_places(length) -> None:
    places = {*range(40), length - 1, length, 3 * length + length // 2, 10**13 + 7, 2**40}
    indices = np.array([*places, *range(7 * length, 7 * length + 50)], np.int64)
    wanted = [shuffled_index(index, length, 5) for index in indices.tolist()]
    assert shuffled_indices(indices, length, 5).tolist() == wanted


def test_the_batches_of_causal_lm_are_its_rows(documents) -> None:
    """With the sums of bytes and characters of several lengths."""
    tokenizer = CharacterTokenizer(
        [chr(c) for c in [*range(0x20, 0xD800), *range(0x10000, 0x12000)]], False
    )
    transform = CausalLM().host_transform(tokenizer, 0)
    assert isinstance(transform, Alike)
    for rows in datasets(documents).values():
        together = Loader(rows, transform, 5, prefetch=0).batches(3)
        alone = Loader(rows, lambda row, index: transform(row, index), 5, prefetch=0).batches(3)
        for _ in range(4):
            made = next(together)
            same(made, next(alone))
            assert all(value.flags.c_contiguous for value in made.values())
