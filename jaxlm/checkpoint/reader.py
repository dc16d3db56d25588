"""Reading checkpoints: find the newest whose every byte is as written, restore it onto any mesh.

    reader = CheckpointReader(run.checkpoints)
    step = reader.latest()
    params = reader.restore_partial(step, {"params": abstract_params})["params"]

It renames and removes nothing, so it may read beside a running trainer; the trainer's own
`Checkpointer` does the same and sets damaged checkpoints aside.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxlm.checkpoint import state_io
from jaxlm.checkpoint.state_io import StateMetadata
from jaxlm.core.checksums import CHECKSUMS, find_damage
from jaxlm.core.config import UserError
from jaxlm.distributed.consensus import decide, processes
from jaxlm.runs import checkpoints as dirs
from jaxlm.runs.checkpoints import CheckpointInfo, step_folder
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import mismatch, missing_checkpoint, missing_files, read_record


class CheckpointReader:
    """The checkpoints of one folder. All processes of a run make the same calls.

    `report` gets one line for each message for the user, in the caller's thread.
    """

    _made = itertools.count()

    def __init__(self, folder: str | Path, *, report: Callable[[str], None] = print) -> None:
        self.folder = Path(folder).absolute()
        self._report = report
        self._name = f"checkpoints/{next(self._made)}"
        self._calls = itertools.count()
        self._told: set[str] = set()

    def list(self) -> list[CheckpointInfo]:
        """Every checkpoint, oldest first, half-written and set-aside ones too; imports no jax."""
        return dirs.list_checkpoints(self.folder)

    def latest(self, verify: bool = True) -> int | None:
        """The newest step whose every byte is as written; None where nothing was ever saved.

        A damaged one is reported with the file and the reason, and passed over. Raises `UserError`
        where there are checkpoints but not one is good: a run never starts from scratch on its own.
        `verify=False` reads no arrays: it only asks whether the save was committed.
        """
        bad: list[str] = []
        for step in reversed(self._steps()):
            damage = self._damage(step, verify)
            if damage is None:
                run = RunDir(self.folder.parent)
                if missing := missing_checkpoint(run, read_record(run)[0]):
                    self._report(missing)
                return step
            if not self.path(step).exists():
                continue  # pruned by the trainer that runs beside this reader
            bad.append(f"{step} ({damage})")
            self._pass_over(step, damage)
        aside = [info.path.name for info in self.list() if dirs.CORRUPT in info.path.suffix]
        if not bad and not aside:
            run = RunDir(self.folder.parent)
            if missing := missing_checkpoint(run, read_record(run)[0]):
                raise UserError(missing)
            return None
        raise UserError(
            f"{self.folder}: no good checkpoint among {', '.join(bad or aside)}; "
            "put back a copy of one, or start again in another run folder"
        )

    def choose(self, step: int | str | None) -> int | None:
        """The step that was asked for, its every byte as written, or else the newest good one.

        step: "best" is the one that `checkpoint.keep_best` kept with the best value. Raises
        `UserError` where the one that was asked for is missing or damaged.
        """
        if step is None:
            return self.latest()
        if isinstance(step, str):
            step = self._named(step)
        self.read_metadata(step)
        damage = self._damage(step, True)
        if damage is not None:
            raise UserError(
                f"{self.path(step)}: damaged, {damage}; ask for another step, or for none: the "
                "newest good one is used"
            )
        return step

    def _named(self, name: str) -> int:
        """The step that a word means."""
        if name != "best":
            raise UserError(f"step: {name!r} is not a step; give a number or best")
        best = dirs.best_of(self.folder, dirs.committed_steps(self.folder))
        if not best:
            raise UserError(
                f"{self.folder}: no checkpoint is known as the best; set checkpoint.keep_best when "
                "the run is trained, or give the number of a step"
            )
        return best[0]

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of a checkpoint, straight into the dtypes and shardings of `abstract_state`.

        `abstract_state` is the pytree with `jax.ShapeDtypeStruct` leaves that carry their sharding,
        on any mesh. Raises `UserError` that lists the leaves that are missing, left over or of
        another dtype or shape.
        """
        return state_io.read(self.path(step), abstract_state, whole=True)

    def restore_partial(self, step: int, abstract_state: Any) -> Any:
        """As `restore`, for a part of the tree ({"params": ...}): nothing else is read."""
        return state_io.read(self.path(step), abstract_state, whole=False)

    def read_metadata(self, step: int) -> StateMetadata:
        """Names, dtypes and shapes of the arrays of a checkpoint; imports no jax."""
        return state_io.read_metadata(self.path(step))

    def read_file(self, step: int, name: str) -> bytes:
        """One of the files saved with a checkpoint ("data.json", "tokenizer/config.json")."""
        path = self.path(step) / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path}: not in the checkpoint; choose another step") from None

    def path(self, step: int) -> Path:
        return step_folder(self.folder, step)

    def _steps(self) -> Sequence[int]:
        """The committed steps as process 0 sees them."""

        def look(_: list[str]) -> str:
            return json.dumps(dirs.committed_steps(self.folder))

        return json.loads(decide(self._key("steps"), "", look))

    def _damage(self, step: int, verify: bool) -> str | None:
        """The damage that any of the processes found, each having read its share of the files."""
        index, count = processes()
        path = self.path(step)
        try:
            if verify:
                mine = find_damage(path, index, count) or self._mismatch(step) or ""
            else:
                mine = "" if (path / CHECKSUMS).exists() else f"{CHECKSUMS}: missing"
        except PermissionError as error:
            raise UserError(f"{error.filename}: {error.strerror}; make it readable") from None
        key = self._key(f"damage-{step}")
        return decide(key, mine, lambda texts: next(filter(None, texts), "")) or None

    def _mismatch(self, step: int) -> str | None:
        """Why a sound checkpoint is not this run's step; what is wrong with the run's record is
        reported once.
        """
        run = RunDir(self.folder.parent)
        record, problems = read_record(run)
        for problem in [*problems, *(missing_files(run, record) if record else ())]:
            if problem not in self._told:
                self._told.add(problem)
                self._report(problem)
        return mismatch(self.path(step), step, record)

    def _pass_over(self, step: int, damage: str) -> None:
        self._report(f"checkpoint {step}: damaged, {damage}; the one before it is used")

    def _key(self, what: str) -> str:
        """A name for a decision of all processes that none had before."""
        return f"{self._name}/{next(self._calls)}-{what}"
