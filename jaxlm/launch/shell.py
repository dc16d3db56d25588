"""All quoting for shells: every word, comment and script of the targets is made here.

    join(("ls", "--", "a $(b)"))                 # ls -- 'a $(b)'
    script("host_run.sh", environment={})        # templates/host_run.sh with its values quoted
    comment("train runs/a\\nrm -rf runs")         # one line that begins with "# "

A text from a config gets into a script only through these functions, so none of it is executed. In
a template `{{ value }}` is one quoted word. Two filters insert a text as it is: `code`, for what is
shell code by intent, such as the `setup` lines of a launch file, and `line`, for a comment that
another program reads; the text must then be a single line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlm.core.config_yaml import is_one_line
from jaxlm.core.templates import environment

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
LINE = 100  # a longer command gets one option a line


class Code(str):
    """Text that is shell code already, and is not quoted."""


def quote(text: str) -> str:
    """One shell word."""
    return text if isinstance(text, Code) else shlex.quote(text)


def join(words: Iterable[str]) -> str:
    """The words of a command on one line."""
    return " ".join(map(quote, words))


def command(words: Iterable[str]) -> str:
    """The words of a command, with one option a line where the line gets long."""
    words = list(words)
    line = join(words)
    if len(line) <= LINE or "\n" in line:
        return line
    first, *rest = words
    breaks = [" \\\n  " if re.match(r"--\w", word) else " " for word in rest]
    return quote(first) + "".join(gap + quote(w) for gap, w in zip(breaks, rest, strict=True))


def assignments(variables: Mapping[str, str], before: str = "") -> list[str]:
    """NAME=value for each variable, with `before` in front, such as "export "."""
    return [f"{before}{name}={quote(value)}" for name, value in variables.items()]


def comment(text: str) -> str:
    """A comment of one line; characters that end a line are shown as escapes."""
    shown = "".join(char if is_one_line(char) else ascii(char)[1:-1] for char in text)
    return f"# {shown}"


def heredoc(text: str) -> str:
    """A here-document in which the shell expands nothing."""
    end = "EOF"
    while re.search(rf"^{end}$", text, re.MULTILINE):
        end += "_"
    return f"<<'{end}'\n{text}{'' if text.endswith(chr(10)) else chr(10)}{end}"


def script(template: str, /, folder: Path = TEMPLATES, **values: Any) -> str:
    """A shell script from a template file; `folder` is that of a target outside this package."""
    return _scripts(folder).get_template(template).render(values)


@cache
def _scripts(folder: Path) -> Environment:
    scripts = environment(folder, TEMPLATES, autoescape=False, finalize=_word)
    scripts.filters |= {"code": Code, "line": _line}
    return scripts


def _word(value: Any) -> str:
    assert isinstance(value, (str, int)) and not isinstance(value, bool), repr(value)
    return quote(value) if isinstance(value, str) else str(value)


def _line(text: str) -> Code:
    assert all(map(is_one_line, text)), repr(text)
    return Code(text)
