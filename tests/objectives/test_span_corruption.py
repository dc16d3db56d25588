"""Pairs of source and target, put together again into the text by a plain walk over both."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest
from flax import nnx

from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.objectives.span_corruption import SpanCorruption
from tests import tiny

PAD, BOS, EOS, START = 256, 257, 258, 256
MARKS = tuple(range(599, 499, -1))
OBJECTIVE = SpanCorruption(sentinels=MARKS, start=START, multiple_of=1)


def row_of(rng: np.random.Generator, sizes: list[int], length: int) -> dict:
    """Documents of these sizes, with bos and eos where they have room, then padding."""
    tokens = np.full(length + 1, PAD, np.int32)
    segments = np.zeros(length + 1, np.int32)
    at = 0
    for number, size in enumerate(sizes, 1):
        text = rng.integers(0, 256, size)
        if size > 2:
            text[0], text[-1] = BOS, EOS
        tokens[at : at + size], segments[at : at + size] = text, number
        at += size
    return {"tokens": tokens, "segment_ids": segments, "positions": segments * 0}


def ragged(count: int, length: int, seed: int = 0) -> list[dict]:
    """Rows of one to many documents, with padding or without."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        sizes, most = [], (8, 60, length + 1)[i % 3]
        while sum(sizes) < length + 1:
            sizes.append(min(int(rng.integers(3, most + 1)), length + 1 - sum(sizes)))
        out.append(row_of(rng, sizes[: max(1, len(sizes) - i % 2)], length))
    return out


def of_segment(out: dict, number: int, prefix: str = "") -> tuple[list[int], list[int]]:
    inside = out[f"{prefix}segment_ids"] == number
    assert (out[f"{prefix}positions"][inside] == np.arange(inside.sum())).all()
    return out[f"{prefix}tokens"][inside].tolist(), np.flatnonzero(inside).tolist()


def healed(source: list[int], target: list[int]) -> list[int]:
    """The text: each sentinel of the source gives way to what follows it in the target."""
    spans: dict[int, list[int]] = {}
    for token in target:
        if token in MARKS:
            spans[token] = []
            last = token
        else:
            spans[last].append(token)
    if target:
        assert spans.pop(last) == [], "a closing sentinel"
        assert [*spans, last] == list(MARKS[: len(spans) + 1])
    assert [t for t in source if t in MARKS] == list(spans)
    assert all(spans.values())
    return [t for token in source for t in spans.get(token, [token])]


@pytest.mark.parametrize("length", [32, 509])
def test_source_and_target_give_the_text_back(length):
    transform = OBJECTIVE.host_transform(ByteTokenizer(), seed=0)
    noise = whole = 0
    for index, row in enumerate(ragged(60, length)):
        out = transform(row, index)
        tokens, segments = row["tokens"][:-1], row["segment_ids"][:-1]
        for number in range(1, segments.max() + 1):
            text = tokens[segments == number].tolist()
            source, _ = of_segment(out, number, "source_")
            inputs, places = of_segment(out, number)
            target = out["targets"][places].tolist()
            if not source:  # there was no room for the last ones, of a few tokens each
                assert index % 3 == 0 and not target
                continue
            assert inputs == [START, *target][: len(inputs)]
            assert healed(source, target) == text
            noise += len([t for t in target if t not in MARKS])
            whole += len(text)
            assert not {BOS, EOS} & set(target)
        real = out["segment_ids"] > 0
        assert (out["loss_weights"] == real).all()
        assert (out["targets"][~real] == PAD).all() and (out["tokens"][~real] == PAD).all()
        assert out["source_segment_ids"].max() >= segments.max() - (index % 3 == 0) * 9
    assert 0.12 < noise / whole < 0.17


def test_lengths_are_t5s_and_full_rows_fill_them():
    """The closed form; for one document of 568 tokens T5 has 512 and 114 (its final eos each)."""
    assert OBJECTIVE.lengths(568) == (512 - 1, 114)
    assert SpanCorruption(multiple_of=128).lengths(568) == (512, 128)
    rng = np.random.default_rng(1)
    for length in (2, 3, 7, 33, 64, 568):
        transform = OBJECTIVE.host_transform(ByteTokenizer(), seed=0)
        out = transform(row_of(rng, [length + 1], length), 0)
        if length > 10:
            assert (out["source_segment_ids"] == 1).all() and (out["segment_ids"] == 1).all()
        assert (len(out["source_tokens"]), len(out["tokens"])) == OBJECTIVE.lengths(length)


def test_spans_are_of_the_mean_length_and_occur_everywhere():
    transform = OBJECTIVE.host_transform(ByteTokenizer(), seed=3)
    rng, left_out, spans = np.random.default_rng(2), np.zeros(100), 0
    for index in range(400):
        row = row_of(rng, [101], 100)
        row["tokens"][:] = np.arange(101)  # every token is its place
        target = transform(row, index)["targets"]
        left_out[target[target < 256]] += 1
        spans += (target > 256).sum() - 1
    assert left_out.sum() / spans == pytest.approx(3)  # 15 tokens in 5 spans
    assert left_out.sum() == 400 * 15
    assert left_out[1:-1].min() > 25 and left_out.max() < 100  # of 60 on average


@cache
def tiny_pair():
    config, data = tiny.prepared(tiny.load("t5", "model.dropout=0").config)
    program = tiny.program(config)
    return config, data, program, tiny.params_of(program)


@pytest.mark.parametrize("changed", [1, 2, 3])
def test_a_document_changes_no_others_logits(changed):
    """Bitwise, whether its source or its own text is another one."""
    config, data, program, params = tiny_pair()
    row = row_of(np.random.default_rng(0), [15, 9, 9], 32)
    ids = tuple(range(263, 258, -1))
    much = config.objective.replace(density=0.4, sentinels=ids)
    transform = much.host_transform(data.tokenizer, 0)
    found = (transform(row, index) for index in range(100))
    row = next(out for out in found if {1, 2, 3} <= {*out["segment_ids"]})  # all have a target
    batch = {k: v[None] for k, v in row.items()}

    @jax.jit
    def logits(batch):
        model = nnx.merge(program.graphdef, params)
        return model.logits(config.objective.read(model, batch, None, None).hidden)[0]

    before = np.asarray(logits(batch))
    for name in ("source_", ""):
        inside = batch[f"{name}segment_ids"] == changed
        other = np.where(inside, batch[f"{name}tokens"] ^ 1, batch[f"{name}tokens"])
        after = np.asarray(logits({**batch, f"{name}tokens": other}))
        own, real = batch["segment_ids"][0] == changed, batch["segment_ids"][0] > 0
        assert (before[real & ~own] == after[real & ~own]).all()
        assert (before[own] != after[own]).any(-1).all()
