"""The budget of restarts: a few without a newer checkpoint, no limit with one.

budget = Budget(3, progress=0)
budget.spend(progress=100)       # True: a newer checkpoint renews the budget, then one is used
"""

from __future__ import annotations

import re
from pathlib import Path


class Budget:
    """The restarts that are left; a newer checkpoint renews them."""

    def __init__(self, restarts: int, progress: int) -> None:
        self._restarts = self.left = restarts
        self._progress = progress

    def spend(self, progress: int) -> bool:
        """Uses one restart; False if none is left."""
        if progress > self._progress:
            self._progress, self.left = progress, self._restarts
        if self.left == 0:
            return False
        self.left -= 1
        return True

    @property
    def pause(self) -> float:
        """Seconds to wait before the next start: 0 at first, then longer and longer."""
        used = self._restarts - self.left
        return 0.0 if used <= 1 else min(60.0, 2.0 ** (used - 1))


def newest_checkpoint(run_dir: Path) -> int:
    """The step of the newest committed checkpoint of a run; 0 before the first."""
    try:
        names = [entry.name for entry in (run_dir / "checkpoints").iterdir()]
    except OSError:
        return 0
    return max((int(name) for name in names if re.fullmatch(r"\d+", name)), default=0)
