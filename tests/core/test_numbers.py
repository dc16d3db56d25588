"""Numbers as texts."""

import random

import pytest

from jaxlm.core.numbers import duration, human, scientific


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999.4, "999"),
        (999.9, "1.00k"),
        (12_345, "12.3k"),
        (99_960, "100k"),
        (999_900, "1.00M"),
        (4_560_000, "4.56M"),
        (1.2e9, "1.20B"),
        (3e12, "3.00T"),
        (float("inf"), "inf"),
    ],
)
def test_human(value, text):
    assert human(value) == text


def test_human_is_near_the_value():
    units = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
    rng = random.Random(0)
    for _ in range(500):
        value = 10 ** rng.uniform(2, 14.9)
        text = human(value)
        scale = units.get(text[-1], 1)
        assert float(text.rstrip("kMBT")) * scale == pytest.approx(value, rel=0.0051)


def test_duration():
    spans = {0: "0s", 59.6: "1m00s", 252: "4m12s", 3840: "1h04m", 3 * 86400 + 7 * 3600: "3d07h"}
    for seconds, text in spans.items():
        assert duration(seconds) == text


def test_scientific():
    texts = {3e-4: "3e-4", 2.7e-4: "2.7e-4", 0: "0", 1.0: "1e0"}
    assert {value: scientific(value) for value in texts} == texts
