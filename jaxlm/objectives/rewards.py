"""Rewards: functions that grade a text that a model wrote.

    rewards = Rewards(task, ("task", "my_rewards:is_short"))
    rewards({"prompt": "2 + 2 =", "completion": "4"}, "5")      # [0.0, 1.0]

"task" is the grade of the data's task. Others are functions of a module, installed or in the
working folder, of a record and a text:

    def is_short(record: dict, text: str) -> float:
        return float(len(text) < 20)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown
from jaxlm.core.registry import import_class
from jaxlm.tasks.base import Record, Task

TASK = "task"
LARGEST = 1e30  # rewards are squared in float32
Reward = Callable[[Record, str], float]


class Rewards:
    """Grades by several functions. Raises `UserError` where one cannot be found."""

    def __init__(self, task: Task, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._functions = [_function(task, name) for name in names]

    def __call__(self, record: Record, text: str) -> np.ndarray:
        """[number of functions] float32. Raises `UserError` that names record and function."""
        pairs = zip(self.names, self._functions, strict=True)
        return np.array([_grade(name, f, record, text) for name, f in pairs], np.float32)


def short_name(name: str) -> str:
    """The name of a reward in metrics: "is_short" of "my_rewards:is_short"."""
    return name.rpartition(":")[2]


def _function(task: Task, name: str) -> Reward:
    if name == TASK:
        return task.grade
    try:
        found = import_class(name, "function")
    except UserError as error:
        raise UserError(f"objective.rewards: {error}") from None
    if not callable(found):
        raise UserError(
            f"objective.rewards: {name} cannot be called; name a function of (record, text)"
        )
    function: Reward = found
    return function


def _grade(name: str, function: Reward, record: Record, text: str) -> float:
    here = f"record {shown(record)}, answer {shown(text)}"
    try:
        value: Any = function(record, text)
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"objective.rewards: {name} raised {said} ({here}); correct the function"
        ) from error
    number = isinstance(value, int | float | np.number | np.bool_)
    if not number or not abs(value) < LARGEST:  # not a comparison that is true of NaN
        raise UserError(
            f"objective.rewards: {name} returned {shown(value)} ({here}); return a finite number"
        )
    return float(value)
