"""Parts A and B, put together again into the text by a plain walk over both; answers of records."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from flax import nnx

import jaxlm
from jaxlm.core.config import UserError
from jaxlm.data.prompt_formats.continuation import Continuation
from jaxlm.data.prompt_formats.fill_blank import FillBlank
from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.objectives.blank_infilling import BlankInfilling
from jaxlm.objectives.causal_lm import CausalLM
from tests import tiny
from tests.objectives.test_span_corruption import BOS, EOS, ragged, row_of

MASK, LONG, START, END = 263, 262, 261, 260
OBJECTIVE = BlankInfilling(mask=MASK, long_mask=LONG, start=START, end=END, multiple_of=1)


def blanks(out: dict, number: int) -> tuple[list[int], dict[int, list[int]]]:
    """(part A, {place of a blank: its tokens in the order in which they are written})."""
    inside = np.flatnonzero(out["segment_ids"] == number)
    assert (np.diff(inside) == 1).all()
    assert (out["positions"][inside] == np.arange(len(inside))).all()
    tokens, targets, prefix, weights = (
        out[key][inside].tolist() for key in ("tokens", "targets", "prefix", "loss_weights")
    )
    places = out["places"][inside].tolist()
    size = sum(prefix)
    part_a, spans = tokens[:size], {}
    assert prefix == [True] * size + [False] * (len(inside) - size)
    assert weights == [0.0] * size + [1.0] * (len(inside) - size)
    assert places[:size] == [[i, 0] for i in range(size)]
    for k in range(size, len(inside)):
        place, within = places[k]
        if tokens[k] == START:
            assert within == 1 and place not in spans
            spans[place] = []
        else:
            assert within == len(spans[place]) + 1 and targets[k - 1] == tokens[k]
        ends = k + 1 == len(inside) or tokens[k + 1] == START
        assert (targets[k] == END) == ends
        if not ends:
            spans[place].append(targets[k])
    return part_a, spans


def walk(long_rows: float, length: int, count: int = 60):
    """(row's tokens, segments, parts of each document) of many rows."""
    objective = OBJECTIVE.replace(long_rows=long_rows)
    transform = objective.host_transform(ByteTokenizer(), seed=0)
    for index, row in enumerate(ragged(count, length)):
        out = transform(row, index)
        segments = row["segment_ids"][:-1]
        assert len(out["tokens"]) == objective.length(length)
        for number in range(1, segments.max() + 1):
            text = row["tokens"][:-1][segments == number].tolist()
            yield index, text, *blanks(out, number)


def healed(part_a: list[int], spans: dict[int, list[int]]) -> list[int]:
    return [t for i, token in enumerate(part_a) for t in spans.get(i, [token])]


@pytest.mark.parametrize("length", [32, 509])
def test_short_blanks_give_the_text_back(length):
    noise, whole, sizes, in_order, several = 0, 0, [], 0, 0
    for _, text, part_a, spans in walk(0, length):
        assert healed(part_a, spans) == text
        assert {part_a[i] for i in spans} <= {MASK} and part_a.count(MASK) == len(spans)
        assert not {BOS, EOS} & {t for span in spans.values() for t in span}
        places = sorted(spans)
        assert all(b - a > 1 for a, b in zip(places[:-1], places[1:], strict=True))
        sizes += map(len, spans.values())
        whole += len(text)
        noise += sum(map(len, spans.values()))
        if len(spans) > 1:
            several += 1
            in_order += list(spans) == places
    assert 0.11 < noise / whole <= 0.155
    assert min(sizes) == 1 and 2.2 < np.mean(sizes) < 3.4
    assert 0 < in_order < 0.7 * several


@pytest.mark.parametrize("length", [32, 509])
def test_long_blanks_give_the_text_back(length):
    shares = []
    for index, text, part_a, spans in walk(1, length):
        assert healed(part_a, spans) == text
        body = [i for i, t in enumerate(text) if t < 256]
        if spans:
            ((place, span),) = spans.items()
            assert part_a[-1] == LONG and place == len(part_a) - 1
            seen = sum(t < 256 for t in part_a)
            assert 1 <= seen <= (len(body) + 1) // 2
            shares.append(1 - seen / len(body))
        else:
            assert len(body) < 2 or index % 3 == 0  # more documents than blanks have room for
    assert 0.6 < np.mean(shares) < 0.85


def test_rows_are_of_both_kinds_by_config():
    rng = np.random.default_rng(0)
    transform = OBJECTIVE.replace(long_rows=0.3).host_transform(ByteTokenizer(), seed=0)
    row = row_of(rng, [65], 64)
    found = [transform(row, index)["tokens"] for index in range(400)]
    long = sum(LONG in tokens for tokens in found)
    assert abs(long - 120) < 5 * (400 * 0.3 * 0.7) ** 0.5
    assert all((LONG in tokens) != (MASK in tokens) for tokens in found)


def test_a_row_of_padding():
    out = OBJECTIVE.host_transform(ByteTokenizer(), 0)(row_of(np.random.default_rng(0), [], 32), 0)
    assert not out["loss_weights"].any() and not out["segment_ids"].any()
    assert out["places"].shape == (OBJECTIVE.length(32), 2)


# ------------------------------------------------------------------------------ answers of records

ANSWERS = OBJECTIVE.replace(answers=3)


def answers_row(documents: list[tuple[list[int], list[float]]], length: int) -> dict:
    """A row [length + 1] of documents of (tokens, loss weights)."""
    tokens, segments, weights = [], [], []
    for number, (ids, own) in enumerate(documents, 1):
        tokens, weights = tokens + ids, weights + own
        segments += [number] * len(ids)
    room = length + 1 - len(tokens)
    return {
        "tokens": np.array(tokens + [256] * room, np.int32),
        "segment_ids": np.array(segments + [0] * room, np.int32),
        "positions": np.zeros(length + 1, np.int32),
        "loss_weights": np.array(weights + [0] * room, np.float32),
    }


def test_the_answer_of_a_record_is_its_blank() -> None:
    """The prompt is the context, what follows the answer is left out, and each token of the answer
    keeps its weight. An answer that a special token ends has no other end.
    """
    ended = ([BOS, 1, 2, 3, 7, 8, EOS, 9], [0, 0, 0, 0, 1, 0.5, 1, 0])
    endless = ([BOS, 4, 5, 6], [0, 0, 0.25, 0.25])
    none = ([BOS, 1, 2], [1, 0, 0])  # nothing predicts the first token
    out = ANSWERS.host_transform(ByteTokenizer(), 0)(answers_row([ended, none, endless], 20), 0)
    assert len(out["tokens"]) == ANSWERS.length(20) >= 20 + 1 + 2 * 3
    size = int((out["segment_ids"] > 0).sum())
    asked = [BOS, 1, 2, 3, LONG, START, 7, 8], [BOS, 4, LONG, START, 5, 6]
    assert out["tokens"][:size].tolist() == asked[0] + asked[1]
    assert out["segment_ids"][:size].tolist() == [1] * 8 + [3] * 6
    learnt = out["loss_weights"] > 0
    assert out["targets"][learnt].tolist() == [7, 8, EOS, 5, 6, END]
    assert out["loss_weights"][learnt].tolist() == [1, 0.5, 1, 0.25, 0.25, 0.25]
    assert out["prefix"][:size].tolist() == [True] * 5 + [False] * 3 + [True] * 3 + [False] * 3
    assert out["places"][:8].tolist() == [[i, 0] for i in range(5)] + [[4, k] for k in (1, 2, 3)]
    assert out["places"][8:14].tolist() == [[i, 0] for i in range(3)] + [[2, k] for k in (1, 2, 3)]
    # what the model reads is what `jaxlm generate` asks it with
    tokens = np.array([[BOS, 1, 2, 3, LONG]])
    form = FillBlank(start_id=START, blank_ids=(MASK, LONG))
    assert form.opened([BOS, 1, 2, 3]) == tokens[0].tolist()
    asked_with = form.arrange(tokens, np.ones((1, 5), np.int32), 0).read
    for key in ("tokens", "positions", "places", "prefix"):
        np.testing.assert_array_equal(asked_with[key][0], out[key][:6])


def test_a_cut_answer_has_no_end() -> None:
    row = answers_row([([BOS, 1, 2, 3, 4], [0, 0, 1, 1, 1])], 4)
    out = ANSWERS.host_transform(ByteTokenizer(), 0)(row, 0)
    assert out["targets"][out["loss_weights"] > 0].tolist() == [2, 3, 4]


def test_one_answer_of_a_conversation_is_drawn() -> None:
    talk = [BOS, 1, 2, EOS, 3, 4, EOS, 5, 6, EOS], [0, 0, 1, 1, 0, 1, 1, 0, 1, 1]
    transform, row = ANSWERS.host_transform(ByteTokenizer(), 0), answers_row([talk], 12)
    found = Counter()
    for index in range(300):
        out = transform(row, index)
        answer = tuple(out["targets"][out["loss_weights"] > 0].tolist())
        context = out["tokens"][out["prefix"]].tolist()[:-1]
        assert context == talk[0][: talk[0].index(answer[0])]
        found[answer] += 1
    assert [*sorted(found)] == [(2, EOS), (4, EOS), (6, EOS)] and min(found.values()) > 70


def test_a_row_of_more_records_than_there_is_room_for() -> None:
    row = answers_row([([BOS, 1, 2], [0, 0, 1])] * 4, 12)
    with pytest.raises(UserError, match="holds 4 records, and there is room for 3; raise it, or"):
        ANSWERS.host_transform(ByteTokenizer(), 0)(row, 0)


@pytest.fixture(scope="module")
def sums(tmp_path_factory) -> dict:
    """The rows of sums, packed or not, for a tiny GLM."""
    path = tmp_path_factory.mktemp("sums") / "sums.jsonl"
    pairs = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in range(9) for b in (3, 7)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    data = (
        f"data={{type: records, source: {{type: jsonl, files: {path}}}, seq_len: 32, "
        "task: {type: prompt_completion}, validation_fraction: 0}"
    )
    own = (
        data,
        "model.dropout=0",
        "sample.prompts=[]",
        "eval.at_end=false",
        "eval.every_steps=null",
    )
    return {
        packing: tiny.prepared(tiny.load("glm", *own, f"data.packing={packing}").config)
        for packing in ("null", "whole")
    }


def test_packed_answers_have_the_same_loss(sums) -> None:
    found = {}
    for packing, (config, prepared) in sums.items():
        assert config.objective.answers == {"null": 1, "whole": 4}[packing]
        rows = prepared.rows("train", batch_size=4, seed=0)
        transform = config.objective.host_transform(prepared.tokenizer, 0)
        batch = [transform(rows[n], n) for n in range(rows.rows_per_epoch)]
        spec = config.objective.transform_spec(prepared.row_spec)
        for row in batch:
            spec.check(row, "blank_infilling")
        model = config.objective.build_model(config.model, rngs=nnx.Rngs(0))
        stacked = {key: np.stack([row[key] for row in batch]) for key in spec}
        loss = config.objective.loss(model, stacked, key=None, cache=None)
        found[packing] = (len(batch), float(loss.loss_sum), float(loss.weight))
    assert found["null"][0] == 18 > found["whole"][0]
    assert found["null"][2] == found["whole"][2]
    assert found["null"][1] == pytest.approx(found["whole"][1], rel=1e-5)


def test_the_blank_of_answers_is_the_models_own(sums) -> None:
    """The one that a prompt gets, of a model that was trained with blanks before."""
    config, prepared = sums["null"]
    before = config.model.replace(prompt=FillBlank(start_id=260, blank_ids=(261, 259)))
    objective = BlankInfilling().resolve(prepared, before)
    assert (objective.start, objective.long_mask, objective.mask) == (260, 259, None)
    assert objective.complete(before).prompt == before.prompt


def test_a_model_of_blanks_that_learns_the_next_token_is_asked_for_it(sums) -> None:
    config, _ = sums["null"]
    assert isinstance(config.model.prompt, FillBlank)
    assert CausalLM().complete(config.model).prompt == Continuation()
    plain = tiny.load("transformer").config.model
    assert CausalLM().complete(plain) == plain


def test_a_glm_answers_what_it_has_learnt(tmp_path, shared_programs) -> None:
    """A tiny GLM writes the answers of its records, by the verbs that ask it."""
    pairs = [{"prompt": f"say {c}", "completion": c * 2} for c in "abcdefgh"]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    source = f"{{type: jsonl, files: {tmp_path}/pairs.jsonl}}"
    task = "{type: prompt_completion, template: plain}"
    settings = (
        f"data={{type: records, source: {source}, seq_len: 31, task: {task}, packing: whole, "
        "validation_fraction: 0}",
        "model.dropout=0",
        "sample.prompts=[]",
        "eval={every_steps: null, at_end: false}",
        "train={steps: 150, batch_size: 8}",
        "checkpoint.every_steps=null",
        "optimizer={type: adamw, learning_rate: 1.0e-2, schedule: {type: constant}}",
        "logging.tensorboard=false",
        f"run_dir={tmp_path}/run",
    )
    run = jaxlm.train(tiny.load("glm", *settings).config)
    asked = [{"prompt": pair["prompt"]} for pair in pairs]
    assert [p["text"].strip() for p in run.predict(asked)] == [p["completion"] for p in pairs]
    assert run.generate("say c", max_tokens=6, temperature=0.0).strip() == "cc"
