"""All quoting for shells: every word, comment and script of the targets is made here.

    join(("ls", "--", "a $(b)"))                 # ls -- 'a $(b)'
    fill("ls -- {folder}", folder="a $(b)")      # the same: the value is quoted
    comment("train runs/a\\nrm -rf runs")         # one line that begins with "# "

A text from a config gets into a script only through these functions, so none of it is executed. A
text that is shell code by intent, such as the `setup` lines of a launch file, is marked as `Code`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping

from jaxlm.core.config_yaml import is_one_line

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


def fill(template: str, **values: str | int) -> str:
    """A script from a template with {name} places; texts are quoted, `Code` is not."""
    quoted = {
        name: quote(value) if isinstance(value, str) else value for name, value in values.items()
    }
    return template.format(**quoted)


# The newest committed checkpoint of a run's folder, in bash. A folder's name may begin with "-".
NEWEST = Code(
    "newest() { ls -- \"$run_dir/checkpoints\" 2>/dev/null | grep -xE '[0-9]+' | sort -n "
    "| tail -n 1; }"
)
