"""The fuzzer finds what it is there for, and runs the same cases each time."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from pathlib import Path

import pytest

from jaxlm.core.config import UserError
from tests.models.golden_families import load_case

PATH = Path(__file__).parents[2] / "tools/fuzz.py"
spec = importlib.util.spec_from_file_location("fuzz", PATH)
assert spec is not None and spec.loader is not None
fuzz = importlib.util.module_from_spec(spec)
sys.modules["fuzz"] = fuzz
spec.loader.exec_module(fuzz)


def crash():
    raise KeyError("a")


def mistake(text):
    raise UserError(text)


def endless():
    while True:
        with contextlib.suppress(Exception):  # what catches everything must not catch the limit
            time.sleep(1)


@pytest.mark.parametrize(
    ("act", "found"),
    [
        (crash, "KeyError: 'a'"),
        (lambda: mistake("a\nb"), "an error of 2 lines"),
        (lambda: mistake("a" * 5000), "an error of 1 lines"),
        (lambda: "is another content", "is another content"),
        (endless, "took more than 1 s"),
    ],
)
def test_what_must_not_be_is_a_failure(monkeypatch, act, found):
    monkeypatch.setattr(fuzz, "LIMIT", 1)
    outcome = fuzz.attempt("case", act)
    assert isinstance(outcome, fuzz.Failure) and found in outcome.what


def test_errors_and_acceptance_are_good():
    assert fuzz.attempt("case", lambda: mistake("a: wrong; fix it")) == "error"
    assert fuzz.attempt("case", lambda: None) == "accepted"


def test_a_key_of_a_config_json_that_changes_nothing_is_reported(monkeypatch):
    values = {**load_case("llama_mha").config, "logit_scale": 0.5}
    read = fuzz.fuzz_hf.read
    assert read(values, ("logit_scale",), 1.0) is None  # an import names it
    assert read(values, ("rms_norm_eps",), 0.5) is None
    monkeypatch.setattr(fuzz.fuzz_hf.Values, "unread", lambda self, idle=(): {})
    assert read(values, ("logit_scale",), 1.0) == "changes nothing, and no line says so"
    family = fuzz.fuzz_hf.read_config(Path("config.json"), values)[0]
    other = load_case("llama_mha").config["rms_norm_eps"]
    model = family.from_hf(values)
    assert fuzz.fuzz_hf.said_again(family, model, ("rms_norm_eps",), 0.5) == f"comes in as {other}"


def test_a_few_seconds_find_nothing_and_the_seed_says_which_cases(capsys):
    first, again, other = ([name for name, _ in fuzz.field_cases(seed, 50)] for seed in (1, 1, 2))
    assert first == again != other
    assert fuzz.run(seed=1, seconds=2) == [], capsys.readouterr().out
