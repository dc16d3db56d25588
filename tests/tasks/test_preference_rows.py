"""Pairs and labelled answers as rows, and their errors."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.objectives.base_pairs import split_sides
from jaxlm.objectives.prediction import shifted
from jaxlm.tasks.kto import KTO
from jaxlm.tasks.preference import Preference

BYTES = ByteTokenizer()
BOS, EOS = 257, 258
PAIR = {"prompt": "ab", "chosen": "cd", "rejected": "e"}


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": t} for n, t in enumerate(texts)]


def test_the_sides_of_a_pair_lie_in_a_row_and_their_answers_are_trained() -> None:
    task = Preference()
    row = task.encode(PAIR, BYTES, 99)
    assert row["tokens"].tolist() == [BOS, *b"abcd", EOS, BOS, *b"abe", EOS]
    assert row["loss_weights"].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1]
    assert row["sides"].tolist() == [1] * 6 + [2] * 5
    assert task.extent(PAIR, BYTES) == (11, 5, 7)
    cut = task.encode(PAIR, BYTES, 8)  # 4 of each: one trained token
    assert cut["tokens"].tolist() == [BOS, *b"abc", BOS, *b"abe"]
    assert task.identity(PAIR) == task.identity({**PAIR, "chosen": "x"})


def test_a_side_is_a_segment_with_positions_of_its_own() -> None:
    row = Preference().encode(PAIR, BYTES, 99)
    pair = np.repeat([1, 2, 0], [11, 11, 3]).astype(np.int32)
    twice = {k: np.concatenate([v, v, np.zeros(3, v.dtype)]) for k, v in row.items()}
    found = split_sides({**twice, "segment_ids": pair, "positions": pair * 0})
    assert found["segment_ids"].tolist() == [1] * 6 + [2] * 5 + [3] * 6 + [4] * 5 + [0] * 3
    assert found["positions"].tolist() == 2 * [*range(6), *range(5)] + [0] * 3
    batch = shifted(found)
    counted = batch["targets"][batch["loss_weights"] > 0]
    assert counted.tolist() == 2 * [*b"cd", EOS, *b"e", EOS]


def test_messages_are_sides_of_a_conversation() -> None:
    task = Preference(template="plain")
    record = {
        "prompt": chat("hi"),
        "chosen": chat("", "hello")[1:],
        "rejected": chat("", "no")[1:],
    }
    (made,) = task.expand(record)
    row = task.encode(made, task.equipped(BYTES), 99)
    trained = row["tokens"][row["loss_weights"] > 0]
    assert bytes(int(t) for t in trained if t < 256).decode().split() == ["hello", "no"]


UNTRAINED = [{"role": "assistant", "content": "well", "train": False}, *chat("why")]
MESSAGES = {
    "prompt": chat("hi"),
    "chosen": chat("", "hello")[1:],
    "rejected": [*UNTRAINED, *chat("", "because")[1:]],
}


@pytest.mark.parametrize(
    ("template", "record"),
    [
        (None, {**PAIR, "chosen": "c" * 9}),
        (None, {**PAIR, "rejected": "e" * 9}),
        ("plain", MESSAGES),
        ("plain", {**MESSAGES, "chosen": MESSAGES["rejected"], "rejected": MESSAGES["chosen"]}),
    ],
)
def test_a_row_has_room_for_a_pair_if_both_sides_keep_a_trained_token(template, record) -> None:
    task = Preference(template=template)
    tokenizer = task.equipped(BYTES)
    (made,) = task.expand(record)
    extent = task.extent(made, tokenizer)
    for room in range(1, extent.tokens + 1):
        row = task.encode(made, tokenizer, room)
        weights = [row["loss_weights"][row["sides"] == side] for side in (1, 2)]
        kept = all(side[1:].any() for side in weights)
        assert kept == (extent.first < room), room


def test_a_wrong_pair_is_one_line() -> None:
    task = Preference()
    with pytest.raises(UserError, match="^chosen and rejected are equal, so nothing is pref.*row$"):
        task.expand({**PAIR, "rejected": "cd"})
    for column in ("chosen", "rejected"):
        with pytest.raises(UserError, match=f"^column '{column}' is empty; fill it in or remove"):
            task.expand({**PAIR, column: " "})


def test_an_answer_is_desirable_or_not() -> None:
    task = KTO()
    record = {"prompt": "ab", "completion": "c", "label": False}
    (made,) = task.expand(record)
    row = task.encode(made, BYTES, 99)
    assert row["desirable"].tolist() == [2] * 5 and row["loss_weights"].tolist() == [0, 0, 0, 1, 1]
    assert task.encode({**made, "label": True}, BYTES, 3)["desirable"].tolist() == [1] * 3
    with pytest.raises(UserError, match="^column 'label' holds 'good'; write true or false$"):
        task.expand({**record, "label": "good"})
    with pytest.raises(UserError, match="^column 'completion' is empty; fill it in or remove"):
        task.expand({**record, "completion": ""})
