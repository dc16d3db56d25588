"""The table of chips is consistent, and finds a chip by each of its names."""

from __future__ import annotations

from collections import Counter

import pytest

from jaxlm.core.chips import CHIPS, chip_of, cloud_chip


def test_every_name_means_one_chip() -> None:
    for names in ([c.cloud for c in CHIPS.values()], [c.kinds for c in CHIPS.values()]):
        assert max(Counter(name for each in names for name in each).values()) == 1
    for key, chip in CHIPS.items():
        assert key == chip.name
        assert all(chip_of(kind) is chip for kind in chip.kinds)
        assert all(cloud_chip(name) is chip for name in chip.cloud)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),  # also begins with the v5p's "TPU v5"
        ("TPU v5", "v5p"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("cpu", None),
    ],
)
def test_jaxs_name_of_a_device_finds_its_chip(kind: str, name: str | None) -> None:
    chip = chip_of(kind)
    assert (chip.name if chip else None) == name
