"""Keys of older configs: they keep working, and the log names today's."""

from __future__ import annotations

import logging

import pytest

from jaxlm.core import config as configs
from jaxlm.core.config_yaml import Layer, Mark, read_overrides
from jaxlm.core.renames import renamed
from jaxlm.nn.heads.classify import Classify
from jaxlm.objectives.classification import Classification
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


def test_a_mistake_in_an_old_key_is_reported_where_it_is(tmp_path):
    with pytest.raises(configs.ConfigError, match="command line: objective.head.dropout: 2"):
        tiny.load("transformer", OLD, DATA, "objective.dropout=2")
