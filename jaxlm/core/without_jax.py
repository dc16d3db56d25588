"""Loads a config without jax: placeholders take the place of the numeric libraries.

    with without_jax():
        resolved = load_run("run.yaml")     # 0.6 s; with jax 2 to 5 s

A part's config and its computation are in one file, which imports jax. To show a config, or to
write it into a job, its fields are enough. So, as Sphinx's `autodoc_mock_imports` does to read
docstrings, imports of these libraries give placeholders, of which any attribute, call or index is
a placeholder again. To compute or to decide with one raises `NeedsJax`; `reading` then runs its
function again, with the libraries themselves. At the end the modules that were imported with
placeholders are removed, so a later import loads the real ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from jaxlm.core.errors import UserError

T = TypeVar("T")

LIBRARIES = frozenset(
    {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "tensorstore", "qwix", "numpy"}
)


class NeedsJax(Exception):
    """A placeholder was computed with, or decided something."""


def reading(function: Callable[[], T]) -> T:
    """The result of `function`, without jax if it can do without and jax is not imported yet."""
    if "jax" not in sys.modules:
        try:
            with without_jax():
                return function()
        except UserError as error:
            if isinstance(_first_cause(error), UserError):
                raise  # else a part's module failed, perhaps because of a placeholder
        except Exception:  # it needs jax; what is a bug is raised again below
            pass
    return function()


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def without_jax() -> Iterator[None]:
    before = set(sys.modules)
    finder = _Finder(LIBRARIES - before)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            module = sys.modules[name]
            if name.startswith("jaxlm.") or _holds_placeholders(module) or _uses_ours(module):
                _forget(name)


def _holds_placeholders(module: ModuleType) -> bool:
    return any(isinstance(v, (_Placeholder, _Module)) for v in (module, *vars(module).values()))


def _uses_ours(module: ModuleType) -> bool:
    """Whether a module has classes or functions of this package, which are imported again."""
    values = [v for v in vars(module).values() if isinstance(v, (type, FunctionType))]
    return any(str(v.__module__).startswith("jaxlm.") for v in values)


def _forget(name: str) -> None:
    module = sys.modules.pop(name)
    package, _, own = name.rpartition(".")
    if vars(sys.modules.get(package, sys)).get(own) is module:
        delattr(sys.modules[package], own)


class _Placeholder:
    """Anything that a numeric library has: a base class, a decorator, a constant."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return _Placeholder()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _Placeholder()

    def __getitem__(self, key: Any) -> Any:
        return _Placeholder()

    def __or__(self, other: Any) -> Any:  # of types: jax.Array | None
        return _Placeholder()

    __ror__ = __or__

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (_Base,)

    def __instancecheck__(self, instance: Any) -> bool:
        return False  # nothing that is read from a file is one of jax's

    def _needs(self, *args: Any) -> Any:
        raise NeedsJax

    __bool__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __len__ = __iter__ = _needs
    __contains__ = __int__ = __float__ = __index__ = __neg__ = _needs
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _needs
    __truediv__ = __rtruediv__ = __floordiv__ = __mod__ = __pow__ = __rpow__ = __matmul__ = _needs
    __hash__ = object.__hash__


class _Base:
    """The base of a class whose own base is a placeholder."""

    def __class_getitem__(cls, key: Any) -> Any:
        return cls

    def __init_subclass__(cls, **options: Any) -> None:
        pass


class _Module(ModuleType):
    """A module of placeholders."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return _Placeholder()


class _Finder(MetaPathFinder, Loader):
    """Gives placeholders for these libraries; those that are imported already stay real."""

    def __init__(self, libraries: frozenset[str]) -> None:
        self._libraries = libraries

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self._libraries:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass
