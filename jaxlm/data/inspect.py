"""What is really in the rows: decoded segment by segment, with the share of padding."""

from __future__ import annotations

from jaxlm.data.prepared import Prepared


def inspect(
    prepared: Prepared, split: str = "train", *, rows: int = 4, seed: int = 0, batch_size: int = 1
) -> str:
    """`rows` rows of a split as text for a terminal."""
    raise NotImplementedError
