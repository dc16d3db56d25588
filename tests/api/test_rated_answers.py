"""What a reward model predicts: a number for each answer, and of two which is preferred."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxlm
from jaxlm.api.prediction import Predictor
from jaxlm.api.prediction_file import predict_file
from jaxlm.core.config import UserError
from jaxlm.serving.app import application
from tests import tiny
from tests.serving.client import ask

PAIRS = [
    {"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": f"{a + b + 1} or so"}
    for a in range(3)
    for b in range(3)
]
SHORT = (
    "train.steps=2",
    "model.num_layers=1",
    "eval={at_end: false, every_steps: null, batch_size: 4}",
)
PLAIN = ("sample.prompts=[]", "logging.tensorboard=false", "mesh={data: 1, num_devices: 1}")


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> jaxlm.Run:
    return trained(tmp_path_factory.mktemp("reward"), "reward")


def trained(folder: Path, objective: str) -> jaxlm.Run:
    source = f"{{type: files, files: {write(folder / 'pairs.jsonl', PAIRS)}}}"
    settings = (
        f"data={{type: records, source: {source}, task: {{type: preference}}, seq_len: 24}}",
        f"objective={{type: {objective}}}",
        "data.packing=whole",
        f"run_dir={folder}/run",
    )
    return jaxlm.train(tiny.load("transformer", *SHORT, *PLAIN, *settings).config)


def reward(run: jaxlm.Run, text: str) -> float:
    """What the head says of the last token of a text that is alone."""
    tokenizer = run.tokenizer
    hidden = run.hidden([[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id][:24]])
    return float(hidden[0, -1] @ np.asarray(run.params["task_head"]["kernel"])[:, 0])


def check_pair(run: jaxlm.Run, pair: dict[str, Any], found: dict[str, Any]) -> None:
    want = {side: reward(run, pair["prompt"] + pair[side]) for side in ("chosen", "rejected")}
    assert found["scores"] == pytest.approx(want, abs=1e-5)
    assert found["preferred"] == max(want, key=lambda side: want[side])


def test_a_pair_and_an_answer_alone_get_their_rewards(run: jaxlm.Run) -> None:
    alone = {"prompt": "1+1=", "completion": "2 or so"}
    long = {"prompt": "2+2=", "chosen": "4" * 30, "rejected": "5" * 15}
    again = {"prompt": "0+0=", "chosen": "0", "rejected": "0"}
    found = run.predict([PAIRS[0], alone, long, again, PAIRS[1]])
    assert found[1] == {"score": pytest.approx(reward(run, "1+1=2 or so"), abs=1e-5)}
    for pair, each in ((PAIRS[0], found[0]), (long, found[2]), (PAIRS[1], found[4])):
        check_pair(run, pair, each)
    assert found[3]["preferred"] is None
    assert {each["preferred"] for each in run.predict(PAIRS)} <= {"chosen", "rejected"}


def test_files_of_pairs_and_of_answers(run: jaxlm.Run, tmp_path: Path) -> None:
    given = write(tmp_path / "pairs.jsonl", PAIRS)
    assert predict_file(run, given, tmp_path / "out.jsonl", report=lambda _: None) == len(PAIRS)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for pair, found in zip(PAIRS, lines, strict=True):
        check_pair(run, pair, found)
    answers = [{"prompt": p["prompt"], "completion": p["rejected"]} for p in PAIRS]
    found = run.predict(write(tmp_path / "answers.jsonl", answers))
    assert [{"score": line["scores"]["rejected"]} for line in lines] == [
        {"score": pytest.approx(each["score"], abs=1e-6)} for each in found
    ]


def test_a_model_that_learnt_from_pairs_writes_answers(tmp_path: Path) -> None:
    """Greedily, as `generate` does, for prompts with a pair beside them or without."""
    run = trained(tmp_path, "orpo")
    given = write(tmp_path / "prompts.jsonl", [{"prompt": pair["prompt"]} for pair in PAIRS])
    found = run.predict(given)
    texts = run.generate([pair["prompt"] for pair in PAIRS], temperature=0, max_tokens=8)
    short = Predictor(run, max_tokens=8)
    assert [each["text"] for each in short(given)] == texts
    assert short(PAIRS) == short(given) == short([pair["prompt"] for pair in PAIRS])
    assert all(each["score"] <= 0 for each in found)


def test_a_server_rates_answers(run: jaxlm.Run) -> None:
    app = application(run, batch_size=4)
    body = {"records": [PAIRS[0], {"prompt": "1+1=", "completion": "2"}]}
    ((status, found),) = ask(app, ("POST", "/predict", body))
    assert status == 200
    check_pair(run, PAIRS[0], found["predictions"][0])
    assert found["predictions"][1]["score"] == pytest.approx(reward(run, "1+1=2"), abs=1e-5)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("2", "record 0: is a text; give a dict of prompt, chosen, rejected"),
        ({"prompt": "1+1="}, "record 0: no column 'chosen'"),
        ({"prompt": "1+1=", "chosen": "2"}, "record 0: no column 'rejected'"),
        ({"prompt": "1+1=", "completion": " "}, "record 0: column 'completion' is empty; fill"),
        ({"prompt": "1+1=", "chosen": "2", "rejected": ""}, "column 'rejected' is empty; fill"),
        ({"prompt": "1+1=", "completion": []}, "column 'completion' is empty; fill it in"),
    ],
)
def test_mistakes_are_one_line(run: jaxlm.Run, record: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        run.predict([record])
    assert said in str(caught.value) and "\n" not in str(caught.value)
