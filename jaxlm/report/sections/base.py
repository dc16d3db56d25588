"""A section of a report: one class in one file.

`jaxlm/report/sections/` has one file for each section. A file of that folder, or an entry point of
an installed package in the group `jaxlm.report_sections`, is enough to add one:

    @dataclass(frozen=True, kw_only=True)
    class Notes(Section):
        \"\"\"What the user wrote about the run.\"\"\"

        title: ClassVar = "Notes"
        order: ClassVar = 45  # after "Evaluation" (40)
        template: ClassVar = "<p>{{ text }}</p>"

        def data(self, run: RunFiles) -> dict[str, Any] | None:
            file = run.path / "notes.txt"
            return {"text": file.read_text()} if file.exists() else None

The template is Jinja2's; every value is escaped. For tables and charts `data` returns markup of
`jaxlm.report.tables` and `jaxlm.report.charts`, which is inserted as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxlm.core import registry
from jaxlm.core.config import Config, Kind
from jaxlm.core.errors import UserError
from jaxlm.report.html import fill

if TYPE_CHECKING:
    from markupsafe import Markup

    from jaxlm.report.files import RunFiles


@dataclass(frozen=True, kw_only=True)
class Section(Config):
    """A part of a run's report under a heading of its own."""

    kind: ClassVar = Kind("report_sections", "report section", folder="jaxlm.report.sections")
    title: ClassVar[str]
    order: ClassVar[int]  # the place on the page: sections are sorted by it
    template: ClassVar[str]

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        """The values of the template; None: the run has nothing to show here."""
        raise NotImplementedError

    def html(self, run: RunFiles) -> Markup | None:
        values = self.data(run)
        return None if values is None else fill(self.template, **values)


def rendered(run: RunFiles) -> tuple[list[tuple[str, Markup]], list[str]]:
    """((title, HTML) of each section in order, what could not be shown).

    A section that fails is left out and named: the report of a run must not depend on one of them.
    """
    found: list[tuple[int, str, Markup]] = []
    problems: list[str] = []
    for name in registry.names(Section):
        try:
            section = registry.find(Section, name)()
            body = section.html(run)
        except UserError as error:
            problems.append(f"report section {name}: {error}")
        except Exception as error:
            problems.append(f"report section {name}: {type(error).__name__}: {error}")
        else:
            found += [] if body is None else [(section.order, section.title, body)]
    return [(title, body) for _, title, body in sorted(found, key=lambda s: s[:2])], problems
