"""The config of a ladder: the models that are compared, and the budgets that each is trained for.

    title: Models of Shakespeare
    measure: eval/bits_per_char
    budgets: [{seconds: 10}, {seconds: 60}, {seconds: 1800, optional: true}]
    overrides: [eval.baseline=false]
    rungs:
      - {name: trigram, config: ../classic/ngram.yaml, overrides: [model.order=3]}
      - name: LSTM
        config: ../quickstart_lstm.yaml
        at: {10s: [model.hidden_size=128]}

A rung is the config of a run under overrides: those of the ladder, the rung's, those for a budget.
Paths of configs are relative to the ladder's file, as those of `include:` are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jaxlm.core.config import REQUIRED, Config, Resolved, UserError, field, load, suggest
from jaxlm.core.errors import shown
from jaxlm.hf.opened import run_of
from jaxlm.run import RunConfig, load_run


@dataclass(frozen=True, kw_only=True)
class Budget(Config):
    """How long a rung is trained: a time, or a number of steps."""

    seconds: float | None = field(None, "training time", gt=0)
    steps: int | None = field(None, "optimizer steps, the same for each rung", ge=1)
    optional: bool = field(False, "only where it is asked for by name")

    def validate(self) -> None:
        if (self.seconds is None) == (self.steps is None):
            raise UserError("seconds, steps: set exactly one of the two")

    @property
    def title(self) -> str:
        """ "10 s", "4 min", "20 steps"."""
        if self.seconds is None:
            return f"{self.steps} steps"
        whole = self.seconds >= 60 and self.seconds % 60 == 0
        return f"{self.seconds / 60:g} min" if whole else f"{self.seconds:g} s"

    @property
    def name(self) -> str:
        """The title without a space."""
        return self.title.replace(" ", "")


@dataclass(frozen=True, kw_only=True)
class Rung(Config):
    """A model of the ladder."""

    name: str = field(REQUIRED, "the model's name on the page")
    config: str = field(REQUIRED, "the config of its runs, relative to this file")
    overrides: tuple[str, ...] = field((), "settings over the config, as on the command line")
    at: dict[str, tuple[str, ...]] = field(dict, "more settings at a budget, by its name")
    own_length: bool = field(
        False, "train as long as the config says, one point; so is a model that is counted"
    )
    note: str = field("", "a sentence about it on the page")

    @property
    def slug(self) -> str:
        """Its name as the name of a folder."""
        return re.sub(r"\W+", "_", self.name.lower()).strip("_")


@dataclass(frozen=True, kw_only=True)
class LadderConfig(Config):
    """The rungs of a ladder, and their budgets."""

    title: str = field(REQUIRED, "the heading of the page")
    measure: str = field(REQUIRED, "what is compared, a key of result.json")
    budgets: tuple[Budget, ...] = field(REQUIRED, "how long each rung is trained")
    overrides: tuple[str, ...] = field((), "settings of every run, below those of its rung")
    rungs: tuple[Rung, ...] = field(REQUIRED, "the models, the simplest first")

    def validate(self) -> None:
        names = [budget.name for budget in self.budgets]
        _check_unique("budgets", names)
        _check_unique("rungs", [rung.slug for rung in self.rungs])
        for number, rung in enumerate(self.rungs):
            for name in rung.at:
                if name not in names:
                    raise UserError(
                        f"rungs.{number}.at: there is no budget {shown(name)}; "
                        f"{suggest(name, names)}"
                    )

    def chosen(self, names: tuple[str, ...] | None) -> list[Budget]:
        """The budgets of these names, in the order of the file; None: those not optional.

        Raises `UserError` for a name that no budget has.
        """
        if names is None:
            return [budget for budget in self.budgets if not budget.optional]
        names = tuple(name.replace(" ", "") for name in names)
        known = [budget.name for budget in self.budgets]
        for name in names:
            if name not in known:
                raise UserError(
                    f"--budgets: there is no budget {shown(name)}; {suggest(name, known)}"
                )
        return [budget for budget in self.budgets if budget.name in names]


@dataclass(frozen=True)
class Task:
    """One run of a ladder: a rung at a budget; None: one that has its own length."""

    rung: Rung
    budget: Budget | None
    run: Resolved[RunConfig]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.rung.slug if self.budget is None else f"{self.rung.slug}-{self.budget.name}"

    @property
    def title(self) -> str:
        return self.rung.name if self.budget is None else f"{self.rung.name}, {self.budget.title}"


def load_ladder(path: str | Path) -> LadderConfig:
    return load(path, LadderConfig).config


def tasks_of(
    path: str | Path,
    ladder: LadderConfig,
    budgets: list[Budget],
    overrides: tuple[str, ...],
    folder: Path,
    rungs: tuple[str, ...] | None = None,
) -> list[Task]:
    """The runs of a ladder, the short ones first; each run's folder is in `folder`.

    overrides: of every run, over all others. rungs: names; None: all. Raises `UserError` for a name
    that no rung has, and for what a rung's config or override has wrong.
    """
    names = [rung.name for rung in ladder.rungs]
    for name in rungs or ():
        if name not in names:
            raise UserError(f"--rungs: there is no rung {shown(name)}; {suggest(name, names)}")
    found: list[Task] = []
    for rung in ladder.rungs:
        if rungs is not None and rung.name not in rungs:
            continue
        single = _run(path, ladder, rung, None, overrides)
        if rung.own_length or not single.config.objective.descends:
            found.append(Task(rung, None, single))
            continue
        found += [Task(rung, b, _run(path, ladder, rung, b, overrides)) for b in budgets]
    found.sort(key=lambda task: -1 if task.budget is None else budgets.index(task.budget))
    return [_in_folder(task, folder) for task in found]


def _run(
    path: str | Path,
    ladder: LadderConfig,
    rung: Rung,
    budget: Budget | None,
    overrides: tuple[str, ...],
) -> Resolved[RunConfig]:
    own = rung.at.get(budget.name, ()) if budget is not None else ()
    every = (*ladder.overrides, *rung.overrides, *own, *overrides)
    return load_run(Path(path).parent / rung.config, every, run_of)


def _in_folder(task: Task, folder: Path) -> Task:
    config = task.run.config.replace(run_dir=str(folder / task.name))
    return Task(task.rung, task.budget, Resolved(config, task.run.marks))


def _check_unique(key: str, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{key}: {shown(twice)} is there twice; give each one a name of its own")
