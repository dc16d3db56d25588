"""Which implementation `auto` takes, and what it says."""

from __future__ import annotations

import logging

import pytest

from jaxlm.core.config import UserError
from jaxlm.kernels.registry import Kernel, target_platform


@pytest.fixture
def kernel():
    kernel = Kernel("sums")
    kernel.register("reference")(lambda: "reference")
    kernel.register("fast", auto_on=("tpu",), supports=lambda even=True: even)(lambda: "fast")
    return kernel


def test_auto_picks_for_the_platform(kernel):
    assert kernel.pick()() == "reference"
    with target_platform("tpu"):
        assert kernel.pick()() == "fast"
        assert kernel.pick(even=False)() == "reference"
        assert kernel.pick("reference")() == "reference"
    assert kernel.pick("fast")() == "fast"


def test_auto_says_once_what_it_picked(kernel, caplog):
    with caplog.at_level(logging.INFO, "jaxlm.kernels"):
        for _ in range(3):
            kernel.pick()
        with target_platform("tpu"):
            kernel.pick()
            kernel.pick()
    assert [r.getMessage() for r in caplog.records] == [
        "sums on cpu: reference",
        "sums on tpu: fast",
    ]


def test_unknown_and_unfit_names_are_errors(kernel):
    with pytest.raises(UserError, match="sums implementation 'refrence'.*did you mean reference"):
        kernel.pick("refrence")
    with pytest.raises(UserError, match="'zzz'.*choose one of auto, fast, reference"):
        kernel.pick("zzz")
    with pytest.raises(UserError, match="'fast': cannot do even=False"):
        kernel.pick("fast", even=False)
