"""A config of one's own needs at most eight keys and a start; the shipped one for chats
needs none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from jaxlm.cli import main
from jaxlm.data.tokenizers.base import Bytes
from jaxlm.run import load_run
from tests import tiny
from tests.commands import ROOT

CHAT = ROOT / "configs" / "finetune" / "chat.yaml"
MOST = 8
OWN = """\
data:
  type: records
  source: {{type: files, files: own.jsonl}}
  task: {{type: {task}}}
  {more}
objective: {{type: {objective}}}
optimizer: {{type: adamw}}
train: {{epochs: 3}}
"""
TURNS = [{"role": role, "content": "a"} for role in ("user", "assistant")]
# {task: (its objective, a record)}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat, template: plain": ("causal_lm", {"messages": TURNS}),
    "prompt_completion": ("causal_lm", {"prompt": "a", "completion": "b"}),
    "preference": ("dpo", {"prompt": "a", "chosen": "b", "rejected": "c"}),
    "classification": ("classification", {"text": "a", "label": ["x", "y"]}),
    "multi_label": ("multi_label", {"text": "a", "label": [["x"], ["x", "y"]]}),
    "pair": ("classification", {"text": "a", "text_b": "b", "label": ["x", "y"]}),
    "regression": ("regression", {"text": "a", "label": [0.5, 1.5]}),
    "tagging": ("tagging", {"tokens": ["a", "b"], "tags": [["X", "Y"]] * 2}),
}


def varied(record: dict[str, Any], n: int) -> dict[str, Any]:
    """Record number n: another text, and one of the labels."""
    made = dict(record)
    for name, value in record.items():
        if name in ("label", "tags"):
            made[name] = value[n % 2]
        elif name == "messages":
            made[name] = [{**turn, "content": f"a {n}"} for turn in value]
        elif name == "tokens":
            made[name] = [f"{word}{n}" for word in value]
        elif name in ("text", "prompt"):
            made[name] = f"{value} {n}"
    return made


def leaves(value: Any) -> int:
    return sum(map(leaves, value.values())) if isinstance(value, dict) else 1


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder with its config, and the working folder beside it."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "start"
    run.mkdir()
    smoke = ROOT / "configs" / "smoke" / "transformer.yaml"
    (run / "config.yaml").write_text(smoke.read_text())
    return run


@pytest.mark.parametrize("task", TASKS)
def test_eight_keys_and_a_start_are_a_config(task: str, start: Path) -> None:
    objective, record = TASKS[task]
    # the start of this test has no chat template; rows have 128 tokens where nothing is said
    more = "" if "template" in task else "seq_len: 64"
    text = OWN.format(task=task, objective=objective, more=more)
    assert leaves(yaml.safe_load(text)) <= MOST
    Path("own.yaml").write_text(text)
    rows = [varied(record, n) for n in range(20)]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_run("own.yaml", [f"init.from={start}", "cache_dir=cache"]).config
    assert config.model == load_run(start / "config.yaml").config.model
    data: Any = config.data
    assert data.seq_len == (64 if more else 128)
    assert (config.init.from_, config.train.epochs) == (str(start), 3)
    # the rest comes from the records, with the tokenizer of the start
    resolved, prepared = tiny.prepared(config.replace(tokenizer=Bytes()))
    assert resolved.model.vocab_size is not None
    assert set(prepared.splits) == {"train", "validation"}
    assert sum(split.counts["rows"] for split in prepared.splits.values()) == 20


def test_the_shipped_config_needs_no_key_of_ones_own(
    start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (f"init.from={start}", "data.source.files=x.jsonl")
    assert main(["config", "show", str(CHAT), *settings]) == 0
    shown = capsys.readouterr().out
    assert 'data.source.files: ["x.jsonl"]' in shown and f"init.from: {start}" in shown
    config = load_run(CHAT, settings).config
    assert config.model.replace(dropout=0.0) == (
        load_run(start / "config.yaml").config.model.replace(dropout=0.0)
    )
