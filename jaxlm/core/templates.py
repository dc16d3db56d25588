"""Text files from templates: Jinja2, where a name that is not given is an error.

    pages = environment(Path(__file__).with_name("templates"), autoescape=True)
    pages.get_template("page.html").render(title="<b>")       # the title is escaped

A text that is not HTML has no autoescape. There `finalize` turns each value of an expression into
the text that is inserted, for example into a quoted word of a shell (`jaxlm.launch.shell`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(
    *folders: Path, autoescape: bool, finalize: Callable[[Any], Any] | None = None
) -> Environment:
    """An environment whose templates are the files of these folders; the first that has one wins.

    A tag on a line of its own leaves no blank line, and the last newline of a file is kept.
    """
    import jinja2  # here: the command line starts without it

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([str(folder) for folder in folders]),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
