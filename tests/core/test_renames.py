"""Keys of older configs: they keep working, and the log names today's."""

from __future__ import annotations

import logging

import pytest

from jaxlm.core import config as configs
from jaxlm.core.config_yaml import Layer, Mark, read_overrides, read_yaml_text
from jaxlm.core.registry import find
from jaxlm.core.renames import MOVED, renamed
from jaxlm.core.types import ScheduleConfig
from jaxlm.data.prompt_formats.encode_source import EncodeSource
from jaxlm.data.prompt_formats.fill_blank import FillBlank
from jaxlm.data.sources.base import Source
from jaxlm.nn.heads.classify import Classify
from jaxlm.nn.learned_blocks import LearnedBlocksConfig
from jaxlm.nn.position import LearnedConfig
from jaxlm.objectives.classification import Classification
from jaxlm.optim.base import OptimizerConfig
from tests import tiny

OLD = "objective={type: sequence_classification, classes: [a, b], pool: last, dropout: 0.3}"
DATA = "data={type: examples, source: {type: synthetic, labels: [a, b]}, seq_len: 32}"


def test_an_old_classifier_is_read_and_the_log_names_todays_keys(caplog):
    with caplog.at_level(logging.INFO, "jaxlm"):
        config = tiny.load("transformer", OLD, DATA, "sample.prompts=[]").config
    assert config.objective == Classification(
        classes=("a", "b"), head=Classify(pool="last", dropout=0.3)
    )
    assert "objective.pool is objective.head.pool now" in caplog.text
    assert "objective.type=sequence_classification is objective.type=classification" in caplog.text
    again = tiny.load("transformer", OLD, DATA, "objective.dropout=0.2", "sample.prompts=[]")
    assert again.config.objective.head == Classify(pool="last", dropout=0.2)
    assert str(again.marks["objective.head.dropout"]) == "command line"


def test_a_key_stays_where_another_part_has_it():
    layer = renamed(read_overrides(["objective={type: mine, pool: last}"]))
    assert layer.values == {"objective": {"type": "mine", "pool": "last"}}


def test_todays_key_goes_before_the_old_one():
    old = {"type": "classification", "pool": "last", "head": {"pool": "mean"}}
    layer = renamed(Layer({"objective": old}, {"objective.pool": Mark("a.yaml:3")}))
    assert layer.values["objective"] == {"type": "classification", "head": {"pool": "mean"}}


def test_a_class_of_ours_is_found_where_it_was_before(caplog):
    old = {
        "optimizer": {"type": "jaxlm.optim.optimizer:AdamW"},
        "data": {"sources": {"a": {"type": "jaxlm.data.sources.corpora:Synthetic"}}},
        "objective": {"type": "mine:AdamW"},
    }
    with caplog.at_level(logging.INFO, "jaxlm"):
        values = renamed(Layer(old)).values
    assert values["optimizer"]["type"] == "adamw" and values["objective"]["type"] == "mine:AdamW"
    assert values["data"]["sources"]["a"]["type"] == "synthetic"
    assert "type: jaxlm.optim.optimizer:AdamW is adamw now" in caplog.text


@pytest.mark.parametrize(("module", "classes"), MOVED.items())
def test_a_moved_class_has_the_type_that_it_is_replaced_by(module, classes):
    base = {
        "jaxlm.optim.optimizer": OptimizerConfig,
        "jaxlm.optim.schedules": ScheduleConfig,
    }.get(module, Source)
    assert {name: find(base, kind).__name__ for name, kind in classes.items()} == {
        name: name for name in classes
    }


def test_a_mistake_in_an_old_key_is_reported_where_it_is(tmp_path):
    with pytest.raises(configs.ConfigError, match="command line: objective.head.dropout: 2"):
        tiny.load("transformer", OLD, DATA, "objective.dropout=2")


BLANKS = {"type": "learned", "max_seq_len": 33, "offset": 0, "blocks": True}
PLAIN = BLANKS | {"blocks": False}


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("key", ["model", "model.encoder"])
def test_a_table_for_blanks_is_a_type_of_positions(caplog, key, listed):
    def read(position):
        values = {"position": [position] if listed else position}
        layer = Layer({"model": values if key == "model" else {"encoder": values}})
        model = renamed(layer).values["model"]
        found = (model if key == "model" else model["encoder"])["position"]
        return found[0] if listed else found

    with caplog.at_level(logging.INFO, "jaxlm"):
        assert read(PLAIN) == {"type": "learned", "max_seq_len": 33, "offset": 0}
        assert not caplog.records
        assert read(BLANKS) == {"type": "learned_blocks", "max_seq_len": 33, "offset": 0}
    (line,) = caplog.messages
    assert line == f"config: {key}.position.blocks is {key}.position.type=learned_blocks now"
    assert read({"type": "mine:P", "blocks": True}) == {"type": "mine:P", "blocks": True}


def test_blanks_of_the_command_line_are_read_with_the_file():
    plain = "model.position={type: learned, max_seq_len: 33}"
    old = "model.position.blocks=true"
    (position,) = tiny.load("glm", plain, old).config.model.position
    assert position == LearnedBlocksConfig(max_seq_len=33)
    (position,) = tiny.load("glm", "model.position.blocks=false").config.model.position
    assert position == LearnedConfig(max_seq_len=33)


OLD_DATA = """
data:
  type: examples
  source: {type: csv, files: a.csv, label_column: stars}
  classes: [bad, good]
  add_bos: false
  seq_len: 64
"""


def test_labelled_texts_of_older_versions_are_records(tmp_path, caplog):
    layer = read_yaml_text(OLD_DATA, tmp_path / "old.yaml")
    with caplog.at_level(logging.INFO, logger="jaxlm"):
        found = renamed(layer)
    assert found.values["data"] == {
        "type": "records",
        "source": {"type": "csv", "files": "a.csv", "label_column": "stars"},
        "task": {"type": "classification", "classes": ["bad", "good"], "add_bos": False},
        "seq_len": 64,
    }
    assert str(found.marks["data.task.classes"]).endswith("old.yaml:5")
    assert "data.type=examples is data.type=records now" in caplog.text
    assert renamed(found).values == found.values


def test_in_a_mixture_and_nowhere_else():
    parts = {
        "a": {"data": {"type": "examples", "classes": ["x", "y"]}},
        "b": {"data": {"type": "text"}},
    }
    values = {"data": {"type": "mixture", "parts": parts}, "objective": {"classes": ["x", "y"]}}
    found = renamed(Layer(values)).values
    task = {"type": "classification", "classes": ["x", "y"]}
    assert found["data"]["parts"]["a"]["data"] == {"type": "records", "task": task}
    assert found["objective"] == {"classes": ["x", "y"]}
    text = {"data": {"type": "text", "add_bos": False}}
    assert renamed(Layer(dict(text))).values == {"data": {"type": "text", "add_bos": False}}


def test_an_old_key_of_the_command_line_overrides_a_file():
    layer = Layer({"data": {"type": "examples", "classes": ["a", "b"]}})
    layer = renamed(layer)
    layer.merge(renamed(read_overrides(["data.classes=[b, a]"])))
    found = renamed(layer)
    assert found.values["data"]["task"] == {"type": "classification", "classes": ["b", "a"]}
    assert str(found.marks["data.task.classes"]) == "command line"


@pytest.mark.parametrize(
    ("name", "keys", "want"),
    [
        ("t5", ["model.start_id=256", "model.blank_ids=[]"], EncodeSource(start_id=256)),
        (
            "glm",
            ["model.start_id=261", "model.blank_ids=[263, 262]"],
            FillBlank(start_id=261, blank_ids=(263, 262)),
        ),
        ("transformer", ["model.start_id=null", "model.blank_ids=[]"], None),
    ],
)
def test_the_ids_of_prompts_that_each_old_run_has_are_of_its_format(name, keys, want):
    assert tiny.load(name, *keys).config.model.prompt == want
