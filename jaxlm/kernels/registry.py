"""Implementations of a kernel, registered by name and platform.

A kernel is one signature with several implementations. `auto` takes the last one registered for
the platform, or "reference" (plain jnp, correct everywhere), and logs its choice once:

    attention_kernels = Kernel("attention")

    @attention_kernels.register("reference")
    def _reference(...): ...

    attention_kernels.pick("auto")(...)

`supports(**features)` says whether an implementation can compute a call; `auto` takes only one that
can.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from jaxlm.core.errors import UserError, few, shown, suggest

logger = logging.getLogger("jaxlm.kernels")

_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)
_gpu: contextvars.ContextVar[float | None] = contextvars.ContextVar("gpu", default=None)


@contextlib.contextmanager
def target_platform(name: str, *, gpu: float | None = None) -> Iterator[None]:
    """A block in which `auto` picks for platform `name`: "cpu", "gpu" or "tpu".

    `gpu`: the compute capability of a GPU that is only described. The devices and libraries of this
    machine are then ignored; the described machine is taken to have every library.
    """
    tokens = _platform.set(name), _gpu.set(gpu)
    try:
        yield
    finally:
        _platform.reset(tokens[0])
        _gpu.reset(tokens[1])


def platform() -> str:
    """The platform that kernels are picked for."""
    return _platform.get() or jax.default_backend()


def described_gpu() -> float | None:
    """The compute capability of the GPU that is only described; None: this machine counts."""
    return _gpu.get()


class Implementation(NamedTuple):
    name: str
    function: Callable[..., Any]
    auto_on: tuple[str, ...]  # the platforms where `auto` may take it
    supports: Callable[..., bool]


class Kernel:
    """One signature and its implementations by name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.implementations: dict[str, Implementation] = {}
        self._logged: set[tuple[str, str]] = set()

    def register(
        self,
        name: str,
        *,
        auto_on: tuple[str, ...] = (),
        supports: Callable[..., bool] = lambda **_: True,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Adds the decorated function, which `auto` takes on `auto_on` if it supports the call."""

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            assert name not in self.implementations, f"{self.name}: {name} is registered twice"
            self.implementations[name] = Implementation(name, function, auto_on, supports)
            return function

        return add

    def pick(self, name: str = "auto", **features: Any) -> Callable[..., Any]:
        """The implementation called `name`, or the platform's best one for the call."""
        if name == "auto":
            return self._auto(**features)
        if name not in self.implementations:
            known = ["auto", *self.implementations]
            raise UserError(
                f"{self.name} implementation {shown(name)}: not registered; {suggest(name, known)}"
            )
        chosen = self.implementations[name]
        if not chosen.supports(**features):
            raise UserError(
                f"{self.name} implementation {name!r}: cannot do {_show(features)}; "
                "use auto or reference"
            )
        return chosen.function

    def _auto(self, **features: Any) -> Callable[..., Any]:
        here = platform()
        chosen = self.implementations["reference"]
        for candidate in reversed(self.implementations.values()):
            if here in candidate.auto_on and candidate.supports(**features):
                chosen = candidate
                break
        if (here, chosen.name) not in self._logged:
            self._logged.add((here, chosen.name))
            logger.info("%s on %s: %s", self.name, here, chosen.name)
        return chosen.function


def _show(features: dict[str, Any]) -> str:
    return few(f"{key}={value}" for key, value in features.items())
