"""Schedules against their formulas, computed step by step in plain Python."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from jaxlm.core.config import ConfigError, UserError, parse, to_yaml
from jaxlm.core.types import ScheduleConfig
from jaxlm.optim.schedules.constant import Constant
from jaxlm.optim.schedules.cosine import Cosine
from jaxlm.optim.schedules.inverse_sqrt import InverseSquareRoot
from jaxlm.optim.schedules.linear import Linear
from jaxlm.optim.schedules.wsd import WarmupStableDecay

TOTAL, WARMUP = 50, 10


def factors(config: ScheduleConfig, steps: range = range(TOTAL + 5)) -> np.ndarray:
    factor = jax.jit(config.build(TOTAL))
    return np.array([factor(step) for step in steps])


def expected(after_warmup, warmup: int = WARMUP) -> np.ndarray:
    return np.array(
        [
            (s + 1) / (warmup + 1)
            if s < warmup
            else after_warmup(s, min(1, (s - warmup) / (50 - warmup)))
            for s in range(TOTAL + 5)
        ]
    )


def wsd(curve, decay: int, final: float):
    def after(s: int, _: float) -> float:
        start = TOTAL - decay
        p = min(1, max(0, (s - start) / decay))
        return final + (1 - final) * curve(p)

    return after


CASES = [
    (Constant(warmup=WARMUP), lambda s, p: 1.0),
    (Linear(warmup=WARMUP, final=0.1), lambda s, p: 1 - 0.9 * p),
    (Linear(warmup=WARMUP), lambda s, p: 1 - p),
    (
        Cosine(warmup=WARMUP, final=0.1),
        lambda s, p: 0.1 + 0.9 * (1 + math.cos(math.pi * p)) / 2,
    ),
    (WarmupStableDecay(warmup=WARMUP), wsd(lambda p: 1 - math.sqrt(p), 10, 0.0)),
    (
        WarmupStableDecay(warmup=WARMUP, decay=20, shape="linear", final=0.2),
        wsd(lambda p: 1 - p, 20, 0.2),
    ),
    (
        WarmupStableDecay(warmup=WARMUP, decay=0.5, shape="cosine"),
        wsd(lambda p: (1 + math.cos(math.pi * p)) / 2, 25, 0.0),
    ),
    (InverseSquareRoot(warmup=WARMUP), lambda s, p: math.sqrt(WARMUP / s)),
    (
        InverseSquareRoot(warmup=WARMUP, timescale=5, final=0.5),
        lambda s, p: max(0.5, 1 / math.sqrt(1 + (s - WARMUP) / 5)),
    ),
]


@pytest.mark.parametrize(("config", "after"), CASES)
def test_closed_form(config, after):
    np.testing.assert_allclose(factors(config), expected(after), rtol=1e-6, atol=1e-6)


def test_without_warmup_the_first_update_has_the_peak():
    for config in (Constant(), Linear(), Cosine(), WarmupStableDecay(), InverseSquareRoot()):
        assert factors(config, range(1)) == [1.0]


def test_the_factor_is_between_zero_and_one_and_has_one_peak():
    for config, _ in CASES:
        values = factors(config)
        assert (values >= 0).all()
        assert (values <= 1).all()
        assert values.argmax() == WARMUP
        assert (np.diff(values[: WARMUP + 1]) > 0).all()
        assert (np.diff(values[WARMUP:]) <= 0).all()


def test_warmup_as_a_fraction_of_the_run():
    np.testing.assert_array_equal(factors(Cosine(warmup=0.2)), factors(Cosine(warmup=10)))


def test_the_final_factor_holds_after_the_end():
    for config in (Linear(final=0.3), Cosine(final=0.3), WarmupStableDecay(final=0.3)):
        np.testing.assert_allclose(factors(config, range(TOTAL, TOTAL + 5)), 0.3, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Cosine(warmup=51), r"schedule.warmup: 51 steps .* run's 50; set it to at most 50"),
        (WarmupStableDecay(warmup=20, decay=31), r"schedule.decay: 31 steps after 20 of warmup"),
        (Cosine(warmup=5.0), r"warmup: 5.0 is neither .* write 5 for steps"),
        (WarmupStableDecay(decay=1.5), r"decay: 1.5 is neither"),
    ],
)
def test_spans_that_do_not_fit_are_one_clear_error(config, words):
    with pytest.raises(UserError, match=words) as caught:
        config.build(TOTAL)
    assert "\n" not in str(caught.value)


def test_from_yaml_and_back():
    config = parse(ScheduleConfig, {"type": "wsd", "warmup": 0.1, "decay": 7, "shape": "linear"})
    assert config == WarmupStableDecay(warmup=0.1, decay=7, shape="linear")
    assert "type: wsd" in to_yaml(config)
    with pytest.raises(ConfigError, match="warmup: 2.5 is neither"):
        parse(ScheduleConfig, {"type": "cosine", "warmup": 2.5})
