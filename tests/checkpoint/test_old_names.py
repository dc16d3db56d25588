"""Checkpoints of older versions are read by the names that parameters have today."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxlm.checkpoint import state_io
from jaxlm.checkpoint.renames import present_names
from jaxlm.core.tree import flatten, unflatten

STATE = {  # of a classifier today: its parameters, moments and average
    f"{tree}/{path}": (i + 1.0) * np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    for i, tree in enumerate(("params", "ema", "opt_state/0/mu"))
    for path in ("embed/table", "layers/ffn/kernel", "task_head/kernel", "task_head/bias")
}


def old_name(path: str) -> str:
    for tree in ("params", "ema", "opt_state/0/mu"):
        if path.startswith(f"{tree}/task_head/"):
            return path.replace("task_head/", "")
        if path.startswith(f"{tree}/"):
            return path.replace(f"{tree}/", f"{tree}/backbone/")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    old = {old_name(path): jax.numpy.asarray(x) for path, x in (STATE | STEP).items()}
    assert "params/backbone/embed/table" in old and "opt_state/0/mu/kernel" in old
    metadata, finish = state_io.start_writing(folder, 3, unflatten(old))
    finish()
    (folder / state_io.METADATA).write_bytes(metadata.to_json())
    return folder


STEP = {"step": np.int32(3), "opt_state/0/count": np.int32(3)}


def test_an_old_classifier_is_read(folder):
    metadata = state_io.read_metadata(folder)
    assert metadata.arrays.keys() == (STATE | STEP).keys()
    shapes = {
        path: jax.ShapeDtypeStruct(np.shape(x), x.dtype) for path, x in (STATE | STEP).items()
    }
    found = flatten(state_io.read(folder, unflatten(shapes), whole=True))
    for path, x in (STATE | STEP).items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)
    part = {"ema": {"task_head": {"bias": shapes["ema/task_head/bias"]}}}
    found = state_io.read(folder, part, whole=False)["ema"]["task_head"]["bias"]
    np.testing.assert_array_equal(found, STATE["ema/task_head/bias"])


def test_names_of_today_stay():
    names = ["params/embed/table", "params/task_head/kernel", "params/kernel", "step"]
    assert present_names(names) == {name: name for name in names}


def test_the_records_that_naive_bayes_has_counted_are_the_models():
    names = ["params/task_head/read", "params/task_head/counts"]
    assert present_names(names) == {"params/read": names[0], "params/task_head/counts": names[1]}
