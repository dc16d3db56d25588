"""How often a run may be started again: a few times without progress, else as often as it takes.

budget = Budget(3, progress=0)
budget.spend(progress=100)       # True: a newer checkpoint, the budget is whole again, less one
"""

from __future__ import annotations

import re
from pathlib import Path


class Budget:
    """Restarts that are left; a newer checkpoint renews them."""

    def __init__(self, restarts: int, progress: int) -> None:
        self._restarts = self.left = restarts
        self._progress = progress

    def spend(self, progress: int) -> bool:
        """Takes one restart; False where none is left."""
        if progress > self._progress:
            self._progress, self.left = progress, self._restarts
        if self.left == 0:
            return False
        self.left -= 1
        return True

    @property
    def pause(self) -> float:
        """Seconds to wait before the next start: none at first, then more and more."""
        used = self._restarts - self.left
        return 0.0 if used <= 1 else min(60.0, 2.0 ** (used - 1))


def newest_checkpoint(run_dir: Path) -> int:
    """The step of the newest committed checkpoint of a run; 0 before the first."""
    try:
        names = [entry.name for entry in (run_dir / "checkpoints").iterdir()]
    except OSError:
        return 0
    return max((int(name) for name in names if re.fullmatch(r"\d+", name)), default=0)
