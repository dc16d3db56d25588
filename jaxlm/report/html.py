"""HTML from templates, in which every value is escaped.

    render("table.html", css="", head=[("step", True)], rows=[["1"]], more=0)
    fill("<p>{{ text }}</p>", text="<b>")                 # <p>&lt;b&gt;</p>

Both return markup, which another template inserts as it is.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlm.core.templates import environment

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, /, **values: Any) -> Markup:
    """A template file of `templates/` with these values."""
    return _markup(_pages().get_template(template).render(values))


def fill(source: str, /, **values: Any) -> Markup:
    """A template's text with these values."""
    return _markup(_pages().from_string(source).render(values))


def page(title: str, /, **values: Any) -> str:
    """A complete page, see `page.html`; its style and script are in it, nothing is fetched.

    The content security policy forbids every other script, whatever a sample or a config holds.
    """
    style, script = ((TEMPLATES / n).read_text("utf-8") for n in ("style.css", "script.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"style": _markup(style), "script": _markup(script), "digest": digest}
    return str(render("page.html", title=title, **own, **values))


@cache
def _pages() -> Environment:
    return environment(TEMPLATES, autoescape=True, finalize=_clean)


def _markup(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)


def _clean(value: Any) -> Any:
    """A text without what HTML or UTF-8 cannot hold: NUL, lone surrogates (JSON can)."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
