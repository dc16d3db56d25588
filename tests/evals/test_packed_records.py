"""Several records in a row cost and weigh what each costs in a row of its own."""

from __future__ import annotations

import json

import pytest

from jaxlm.core.measures import values_of
from jaxlm.evals.sums import SplitSums
from tests import tiny


def test_packed_loss_is_unpacked_loss(tmp_path):
    pairs = [{"q": f"{i} and {i * i % 7}?", "a": "so " * (i % 6 + 1)} for i in range(37)]
    (tmp_path / "qa.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    found, sizes = [], []
    for packing in ("null", "whole"):
        config, data = tiny.prepared(
            tiny.load(
                "transformer",
                f"data={{type: records, source: {{type: jsonl, files: {tmp_path}/qa.jsonl}}}}",
                "data.task={type: tests.tasks.toy_tasks:Continuation, given_text: q, answer: a}",
                f"data={{seq_len: 63, validation_fraction: 0, shuffle: false, packing: {packing}}}",
                "model.dropout=0",
                "sample.prompts=[]",
            ).config
        )
        program = tiny.program(config)
        rows = data.rows("train", batch_size=4, seed=0)
        transform = config.objective.host_transform(data.tokenizer, 0)
        sums = SplitSums(program, rows, data.row_spec, transform, 4)
        found.append(values_of(sums.measure(tiny.params_of(program))))
        sizes.append(rows.rows_per_epoch)
    assert sizes[0] == 37 and sizes[1] < 20
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert {"loss", "accuracy", "bits_per_byte"} <= found[0].keys()
