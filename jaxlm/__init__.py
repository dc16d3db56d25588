"""jaxlm: one engine that trains every kind of language model, and never loses a run.

    import jaxlm

    run = jaxlm.train("configs/quickstart.yaml")
    run = jaxlm.load("runs/quickstart")
    run.generate("To be, or not")

jax is imported when one of these names is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxlm.api import Run, load, steps, train
    from jaxlm.run import RunConfig

__version__ = "0.1.0"
__all__ = ["Run", "RunConfig", "__version__", "load", "steps", "train"]

_PLACES = dict.fromkeys(("Run", "load", "steps", "train"), "jaxlm.api")
_PLACES["RunConfig"] = "jaxlm.run"


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'jaxlm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
