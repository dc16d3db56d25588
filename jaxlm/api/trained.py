"""A trained run as seen by the code that computes with it: its weights, and what they belong to.

`jaxlm.api.run.Run` is one; it makes a `Forward` and a `Predictor`, which need it as this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from jaxlm.core.types import Tokenizer
from jaxlm.generate import Sampling, Writer
from jaxlm.run import RunConfig
from jaxlm.training.program import Program


class Trained(Protocol):
    """A run that has weights; `jaxlm.api.run.Run` says what each of these is."""

    @property
    def path(self) -> Path: ...

    @property
    def config(self) -> RunConfig: ...

    @property
    def program(self) -> Program: ...

    @property
    def params(self) -> dict[str, Any]: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def ends(self) -> Any: ...

    def writer(self, sampling: Sampling, chat: bool | None = None) -> Writer: ...
