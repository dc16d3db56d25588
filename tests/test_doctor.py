"""What `jaxlm doctor` finds and says."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from jaxlm import doctor


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return doctor.examine(tmp_path_factory.mktemp("cache") / "not" / "there", seconds=0.02)


def test_it_sees_this_machine(found):
    assert found["versions"]["jax"] == __import__("jax").__version__
    assert found["devices"]["count"] == found["devices"]["local"] == 8
    assert (found["devices"]["platform"], found["devices"]["processes"]) == ("cpu", 1)
    assert 0 < found["memory"]["available"] <= found["memory"]["total"]
    assert 0 < found["cache"]["free"] <= found["cache"]["total"]


def test_the_self_test_passes(found):
    test = found["self_test"]
    assert test["matmul_agrees"] and test["all_reduce_agrees"] and found["ok"]
    assert test["gflops_float32"] > 0.1 and test["gflops_bfloat16"] > 0.01


def test_nothing_is_made_in_the_cache_folder(found):
    assert found["cache"]["writable"] and not Path(found["cache"]["path"]).exists()


def test_it_is_plain_data_and_aligned_text(found):
    assert json.loads(json.dumps(found)) == found
    text = doctor.render(found)
    assert "8 x cpu (cpu)" in text and "sum over 8 devices" in text and "GFLOP/s" in text
    places = {
        line.index(value)
        for line in text.splitlines()
        for value in ("right", "yes")
        if line.endswith(value)
    }
    assert len(places) == 1


def test_what_is_wrong_is_named_with_its_fix(found, monkeypatch):
    bad = copy.deepcopy(found)
    bad["versions"]["grain"] = "not installed"
    bad["cache"]["free"] = 2**20
    bad["memory"]["available"] = 2**20
    bad["self_test"]["matmul_agrees"] = bad["self_test"]["all_reduce_agrees"] = False
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    problems = doctor._problems(bad)
    beginnings = ["grain is not installed", "a GPU is here but", "only 0.0 GiB free at"]
    beginnings += ["only 0.0 GiB of memory", "jax multiplies wrongly", "a sum over the devices"]
    assert len(problems) == len(beginnings)
    for problem, beginning in zip(problems, beginnings, strict=True):
        assert problem.startswith(beginning) and "; " in problem
    assert "! grain is not installed" in doctor.render({**bad, "problems": problems})


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    cache = doctor._cache(tmp_path / "file" / "inner")
    assert not cache["writable"]


def test_wrong_results_are_seen(monkeypatch):
    import jax.numpy as jnp
    import numpy as np

    monkeypatch.setattr("jax.numpy.matmul", lambda a, b, precision: jnp.dot(a, b) + 0.01)
    assert not doctor._matmul_agrees()
    monkeypatch.setattr("jax.make_array_from_callback", lambda *_: np.ones(128, np.int32))
    assert not doctor._all_reduce_agrees()
