"""Reads the fixtures that tools/make_golden_nn.py wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[1] / "fixtures" / f"{name}.npz") as arrays:
        return dict(arrays)


def under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """{"b": ...} of the keys "prefix/b"."""
    return {
        key.removeprefix(prefix + "/"): value
        for key, value in arrays.items()
        if key.startswith(prefix + "/")
    }


def assert_close(actual, desired, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the largest value."""
    desired = np.asarray(desired)
    bound = tolerance * max(1.0, float(np.abs(desired).max()))
    np.testing.assert_allclose(np.asarray(actual), desired, rtol=0, atol=bound)
