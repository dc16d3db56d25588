"""A run of conversations: trained packed, resumed, asked, and its template in the folder."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm import cli
from jaxlm.api.prediction import Predictor
from jaxlm.chat.template import named
from jaxlm.core.config import UserError
from jaxlm.hf.vocabularies import files_of, template_files
from jaxlm.serving.app import application
from tests import tiny
from tests.chat.test_golden import tokenizer
from tests.serving.client import ask

QUIET = ("eval.at_end=false", "eval.every_steps=null", "sample.prompts=[]")


@pytest.fixture(scope="module")
def run(tmp_path_factory, shared_programs) -> jaxlm.Run:
    folder = tmp_path_factory.mktemp("chat")
    talk = [
        [{"role": "user", "content": f"say {c}"}, {"role": "assistant", "content": c * 3}]
        for c in "abcdefgh" * 3
    ]
    lines = [json.dumps({"messages": messages}) for messages in talk]
    (folder / "chats.jsonl").write_text("\n".join(lines) + "\n")
    settings = (
        f"data={{type: records, source: {{type: jsonl, files: {folder}/chats.jsonl}}}}",
        "data.task={type: chat, template: plain}",
        "data.packing=whole",
        "data.seq_len=96",
        "data.validation_fraction=0",
        "sample.max_tokens=6",
        "train.steps=60",
        "model.dropout=0",
        "logging.tensorboard=false",
    )
    config = tiny.load("transformer", *QUIET, *settings, f"run_dir={folder}/run").config
    return jaxlm.train(config)


def test_a_run_answers_in_its_template(run) -> None:
    assert run.tokenizer.chat_template == named("plain")
    assert (run.path / "tokenizer" / "chat_template.jinja").is_file()
    prompt = "say c"
    answer = run.generate(prompt, max_tokens=6, temperature=0.0)
    talk = json.dumps([{"role": "user", "content": prompt}])
    assert answer == run.generate(talk, max_tokens=6, temperature=0.0)
    by_hand = run.generate("User: say c\nAssistant:", chat=False, max_tokens=6, temperature=0.0)
    assert answer == by_hand != run.generate(prompt, chat=False, max_tokens=6, temperature=0.0)
    found = run.predict([{"messages": json.loads(talk)}])
    assert found == [{"text": answer, "score": found[0]["score"]}] and found[0]["score"] < 0
    with pytest.raises(UserError, match="record 0: column 'messages' holds no list of messages"):
        run.predict([{"messages": "say c"}])


def test_all_batches_of_prompts_are_one_program(run, caplog: pytest.LogCaptureFixture) -> None:
    talks = [{"messages": [{"role": "user", "content": f"say {c}"}]} for c in "abcde"]
    predict = Predictor(jaxlm.load(run.path), batch_size=2, max_tokens=5)  # asked nowhere else
    with jax.log_compiles(), caplog.at_level("WARNING"):
        found = [*predict(talks), *predict(talks[:2])]
    want = [predict([talk])[0] for talk in talks[3:]]
    said = [line for line in caplog.messages if line.startswith("Compiling jit(_draw)")]
    assert len(said) == 1, caplog.messages
    assert found[3:5] == want and len(found) == 7


def test_written_answers_are_scored(run, capsys) -> None:
    """Greedily and by beams, as `score` has them of the answers to the same records."""
    path = run.path.parent / "chats.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    both = "evaluators={greedy: {type: task}, beams: {type: task, num_beams: 2, max_tokens: 3}}"
    assert cli.main(["eval", str(run.path), "--data", str(path), "--json", both]) == 0
    found = json.loads(capsys.readouterr().out)["final"]
    task = run.config.data.task
    for name, writing in (("greedy", {}), ("beams", {"num_beams": 2, "max_tokens": 3})):
        said = [task.said(answer) for answer in Predictor(run, 8, **writing)(records)]
        for measure in task.score(said, records):
            assert found[f"eval/{name}/{measure.name}"] == pytest.approx(measure.value)
    words = ["--input", str(path), "--output", str(path.with_name("out.jsonl")), "--beams", "2"]
    assert cli.main(["predict", str(run.path), *words]) == 0
    lines = path.with_name("out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == Predictor(run, num_beams=2)(records)
    assert cli.main(["predict", str(run.path), *words[:-1], "3"]) == 2
    assert "has predictions of another writing" in capsys.readouterr().err
    assert cli.main(["predict", str(run.path), *words[:-2], "--length-penalty", "2"]) == 2
    assert "--length-penalty: needs a beam search; add --beams 4" in capsys.readouterr().err


def test_a_server_answers_as_the_run_does(run) -> None:
    talk = [{"role": "user", "content": "say c"}]
    asked = {"messages": talk, "max_tokens": 6, "temperature": 0}
    chat = "/v1/chat/completions"
    found = ask(
        application(run),
        ("POST", chat, asked),
        ("POST", chat, {**asked, "max_tokens": 1}),
        ("POST", "/predict", {"records": [{"messages": talk}]}),
        ("POST", chat, {**asked, "n": 2}),
    )
    answer = run.generate("say c", max_tokens=6, temperature=0.0)
    first, short = (body["choices"][0] for _, body in found[:2])
    assert (first["message"]["content"], short["finish_reason"]) == (answer, "length")
    assert found[2] == (200, {"predictions": run.predict([{"messages": talk}])})
    assert found[3][0] == 400 and found[3][1]["error"]["message"].startswith("n: unknown key")


def test_the_loss_falls_on_answers_alone(run) -> None:
    losses = [line["train/loss"] for line in run.metrics if "train/loss" in line]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_an_export_has_the_template() -> None:
    own = tokenizer().with_chat_template(named("chatml"))
    files = files_of(own)
    assert files["chat_template.jinja"].decode() == named("chatml").source
    assert json.loads(files["tokenizer_config.json"])["chat_template"] == named("chatml").source
    assert "chat_template" not in json.loads(files_of(tokenizer())["tokenizer_config.json"])
    assert template_files(own, files) == {}
    other = template_files(own.with_chat_template(named("llama3")), files)
    assert other["chat_template.jinja"].decode() == named("llama3").source
    assert json.loads(other["tokenizer_config.json"])["eos_token"] == "</s>"
