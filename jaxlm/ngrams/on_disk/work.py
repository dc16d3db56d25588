"""Work in units, each of which is one file of a folder: it can be resumed and shared.

    work = Work(folder, process=0, processes=2)
    work.stage(["windows.0", "windows.1"], lambda i: {"words": ...})
    work.load("windows.1", "words")

A unit's file has its arrays and appears when it is whole. Each process makes the units whose number
is its own, modulo the number of processes, skips those that are there, and waits for the others.
"""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxlm.core.config import UserError

Arrays = dict[str, np.ndarray]


class Work:
    """The units of a folder, for one of several processes."""

    def __init__(
        self,
        folder: str | Path,
        *,
        process: int = 0,
        processes: int = 1,
        patience: float = 3600.0,
        on_unit: Callable[[str], None] = lambda name: None,
    ) -> None:
        """patience: seconds without a new file of another process, after which it is an error;
        on_unit: called with the name of each unit that this process made.
        """
        if not 0 <= process < processes:
            raise UserError(f"process {process} is not one of {processes}; number them from 0")
        self.folder, self.process, self.processes = Path(folder), process, processes
        self.patience, self.on_unit = patience, on_unit
        self.folder.mkdir(parents=True, exist_ok=True)

    def stage(self, names: Sequence[str], make: Callable[[int], Arrays]) -> None:
        """Makes the units that are this process's and missing, and waits for all others."""
        for i in range(self.process, len(names), self.processes):
            if not self.has(names[i]):
                self.write(names[i], make(i))
                self.on_unit(names[i])
        missing = [name for name in names if not self.has(name)]
        since = time.monotonic()
        while missing:
            time.sleep(0.02)
            left = [name for name in missing if not self.has(name)]
            if len(left) < len(missing):
                since = time.monotonic()
            missing = left
            if time.monotonic() - since > self.patience:
                raise UserError(
                    f"{self.folder}: {missing[0]} did not come from another process; start all "
                    f"{self.processes} of them"
                )

    def has(self, name: str) -> bool:
        return self._path(name).exists()

    def write(self, name: str, arrays: Arrays) -> None:
        temporary = self.folder / f".{name}.{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, self._path(name))

    def load(self, name: str, array: str) -> np.ndarray:
        """An array of a unit, read into memory."""
        path = self._path(name)
        try:
            with np.load(path) as arrays:
                found: np.ndarray = arrays[array]
            return found
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
            raise UserError(f"{path}: damaged; remove the folder and build again") from None

    def clear(self) -> None:
        """Removes the files of all units."""
        for path in [*self.folder.glob("*.npz"), *self.folder.glob(".*.tmp")]:
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"
