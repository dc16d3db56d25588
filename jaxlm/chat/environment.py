"""Compiles a chat template as transformers does: in a sandbox, with the same options and names.

    compiled = compile_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    text, spans = render(compiled, messages=[{"role": "user", "content": "Hi"}])

A template comes with a model's files, so it is not trusted: it sees plain JSON values, and changes
none of them (`ImmutableSandboxedEnvironment`). Beside jinja's own it has `raise_exception`,
`strftime_now`, `tojson` without escapes, `break` and `continue`, and

    {% generation %}what the assistant says{% endgeneration %}

whose spans are reported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

Span = tuple[int, int]

_tracked: ContextVar[tuple[list[str], list[Span]] | None] = ContextVar("tracked", default=None)


class Generation(Extension):
    """The tag `generation`; the characters that it writes are noted while `_tracking` is on."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_write"), [], [], body).set_lineno(line)

    def _write(self, caller: Any) -> str:
        written = caller()
        tracked = _tracked.get()
        if tracked is not None:
            blocks, spans = tracked
            start = sum(map(len, blocks))
            spans.append((start, start + len(written)))
        return written


class _Dict:
    """`dict` of a template: its constructors alone."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` of a template, without attributes of Python's own."""

    def __init__(*args: Any, **values: Any) -> None:
        self, rest = args[0], args[1:]
        attributes = dict(*rest, **values)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace may not have the attribute {name!r}")


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@lru_cache(maxsize=32)
def compile_template(source: str) -> jinja2.Template:
    """Raises `jinja2.TemplateError` where the source is not a template."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    return environment.from_string(source)


@contextmanager
def _tracking(blocks: list[str], spans: list[Span]) -> Iterator[None]:
    token = _tracked.set((blocks, spans))
    try:
        yield
    finally:
        _tracked.reset(token)


def render(compiled: jinja2.Template, **values: Any) -> tuple[str, list[Span]]:
    """(text, characters within `generation` tags). Raises whatever the template raises."""
    blocks: list[str] = []
    spans: list[Span] = []
    with _tracking(blocks, spans):
        for block in compiled.generate(**values):
            blocks.append(block)
    return "".join(blocks), spans


def plain(value: Any) -> Any:
    """A JSON value made of Python's own types, whose methods the sandbox knows."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    return str(value)
