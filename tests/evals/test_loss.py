"""Evaluation against a plain walk over the held-out documents, one at a time."""

import math
from collections.abc import Iterator
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.measures import Measure, ratios, tables_of, values_of
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.evals.evaluators import evaluators_of
from jaxlm.evals.one_pass import OnePass
from jaxlm.evals.sums import SplitSums
from jaxlm.mesh import MeshConfig
from jaxlm.training.session import Session
from tests import tiny

SEQ_LEN = 32


def session(name: str, *overrides: str, mesh: MeshConfig = tiny.ONE) -> Session:
    config = tiny.load(name, f"data.seq_len={SEQ_LEN}", *overrides).config
    config, prepared = tiny.prepared(config)
    return Session(config, prepared, tiny.program(config, mesh))


def whole(s: Session, params) -> list[Measure]:
    """The measures of the default evaluator over the whole split."""
    (found,) = evaluators_of(s)[0].measuring.after(params, [None])
    return found


def documents(rows) -> Iterator[list[int]]:
    """The split's documents as lists of ids, put together again from its windows, in order."""
    parts: dict[int, list[int]] = {}
    number = 0
    for i in range(rows.rows_per_epoch):
        row = rows[i]
        for t in range(
            len(row["tokens"]) - (i + 1 < rows.rows_per_epoch)
        ):  # windows overlap by one
            if row["segment_ids"][t] == 0:
                continue
            number += row["positions"][t] == 0
            parts.setdefault(number, []).append(int(row["tokens"][t]))
    return iter(parts.values())


@pytest.mark.parametrize("batch_size", [3, 8])
def test_sums_are_those_of_a_walk_over_the_documents(batch_size):
    s = session("transformer", "model.dropout=0")
    rows = s.prepared.rows("validation", batch_size=1, seed=0)
    params = tiny.params_of(s.program)
    sums = SplitSums(s.program, rows, s.prepared.row_spec, s.transform(0), batch_size, spread=True)
    values = values_of(sums.measure(params))

    texts = list(documents(rows))
    pieces = s.prepared.tokenizer.token_bytes
    text = b"".join(pieces[i] for ids in texts for i in ids[1:])
    predicted = sum(len(ids) - 1 for ids in texts)
    nll, hits = 0.0, 0

    @jax.jit
    def all_logits(row):
        model = nnx.merge(s.program.graphdef, params)
        hidden, *_ = model(
            row["tokens"][None, :-1],
            positions=row["positions"][None, :-1],
            segment_ids=row["segment_ids"][None, :-1],
        )
        return model.logits(hidden)[0]

    for i in range(rows.rows_per_epoch):  # the same windows, by numpy, from the logits alone
        row = rows[i]
        logits = np.asarray(all_logits(row), np.float64)
        for t, target in enumerate(row["tokens"][1:]):
            if row["segment_ids"][t] and row["segment_ids"][t] == row["segment_ids"][t + 1]:
                nll += math.log(np.exp(logits[t]).sum()) - logits[t, target]
                hits += logits[t].argmax() == target
    assert values["loss"] == pytest.approx(nll / predicted, rel=1e-5)
    assert values["accuracy"] == pytest.approx(hits / predicted)
    assert values["perplexity"] == pytest.approx(math.exp(nll / predicted), rel=1e-4)
    assert values["bits_per_byte"] == pytest.approx(nll / math.log(2) / len(text), rel=1e-5)
    characters = len(text.decode())
    assert values["bits_per_char"] == pytest.approx(nll / math.log(2) / characters, rel=1e-5)


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_one_pass_measures_the_first_batches_and_the_whole(name):
    s = session(name)
    rows = s.prepared.rows("validation", batch_size=2, seed=0)
    params = tiny.params_of(s.program)
    sums = SplitSums(
        s.program, rows, s.prepared.row_spec, s.transform(0), 2, spread=name == "transformer"
    )
    assert sums.num_batches > 2
    counts = [2, None, 1, 2]
    found = [s.program.objective.measures(each) for each in sums(params, counts)]
    assert found == [sums.measure(params, count) for count in counts]
    assert {measures[0].name for measures in found} == {"loss"}
    assert len({measures[0].value for measures in found}) == 3


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_one_pass_reads_each_row_once_and_pads(n, spread):
    class Rows:
        rows_per_epoch = n

        def __getitem__(self, i):
            return {"id": np.int64(i), "segment_ids": np.ones(2, np.int32)}

    spec = RowSpec({"segment_ids": Entry((2,)), "tokens": Entry((2,), pad=7)})
    one = OnePass(Rows(), spec, spread=spread)
    assert sorted(int(one[i]["id"]) for i in range(n)) == list(range(n))
    assert one[n]["segment_ids"].tolist() == [0, 0] and one[n]["tokens"].tolist() == [7, 7]


def test_a_part_of_a_spread_pass_covers_the_whole_split():
    class Rows:
        rows_per_epoch = 1000

        def __getitem__(self, i):
            return {"id": i}

    first = sorted(OnePass(Rows(), RowSpec({}), spread=True)[i]["id"] for i in range(20))
    assert max(np.diff([0, *first, 1000])) < 1000 / 20 * 2


def test_the_carried_state_makes_windows_one_long_text():
    """In lanes, windows of 8 with the state carried score as windows of 32 do."""
    losses = []
    for length in (8, 32):
        s = session("lstm", f"data.seq_len={length}", "eval.batch_size=1")
        losses.append(whole(s, tiny.params_of(s.program))[0].value)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_mesh_changes_nothing():
    one = session("transformer")
    many = session("transformer", mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    params = tiny.params_of(one.program)
    moved = jax.tree.map(lambda x, s: jax.device_put(x, s), params, many.program.param_shardings)
    want = values_of(whole(one, params))
    got = values_of(whole(many, moved))
    assert got == pytest.approx(want, rel=1e-5)


class Figures:
    """A program whose batches have the sums that their rows say, in float32 as on a device."""

    model = SimpleNamespace(carries_state=False)
    mesh = tiny.ONE.build()

    class objective:
        @staticmethod
        def measures(sums):
            loss = {"loss": sums["loss"]}
            return [*ratios(loss), Measure("table", sums["table"][0], show="table")]

    @staticmethod
    def eval_step(params, batch, carry, references):
        total, weight = batch["total"].sum(), batch["weight"].sum()
        return {"loss": (total, weight), "table": (weight[None], weight)}, carry


def test_sums_over_many_batches_are_exact():
    """Each batch has 2^20 targets or so; in float32 their count would stop at 2^24."""
    rng = np.random.default_rng(0)
    weights = rng.integers(2**20, 2**21, 300) | 1
    totals = (weights * rng.uniform(2, 4, 300)).astype(np.float32)

    class Rows:
        rows_per_epoch = 300

        def __getitem__(self, i):
            weight, total = np.int32(weights[i]), totals[i]
            return {"id": i, "segment_ids": np.ones(1, np.int32), "weight": weight, "total": total}

    measures = SplitSums(Figures, Rows(), RowSpec({}), lambda row, _: row, 1).measure(None)
    values, tables = values_of(measures), tables_of(measures)
    count = sum(map(int, weights))
    assert count > 2**28
    assert values["loss"] == pytest.approx(math.fsum(map(float, totals)) / count, rel=1e-14)
    assert int(tables["table"][0]) == count
