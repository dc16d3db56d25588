"""The declaration of a verb: its summary, its section in the list of verbs, examples, its help.

@verb("write report.html of a run", examples=(("report runs/quickstart", ""),))
@options.run_dir
def command(run_dir: str) -> None:
    \"\"\"Writes report.html of a run, one file that opens offline, and prints its path.\"\"\"
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import click

from jaxlm.core.exit_codes import TABLE

Examples = tuple[tuple[str, str], ...]  # (command, its purpose)

# Settings of every click context: the width of a help text.
SETTINGS: dict[str, Any] = {"max_content_width": 96, "help_option_names": ["-h", "--help"]}

TRAINING, USING, PREPARING = "Training", "Trained models", "Preparation"
SECTIONS = (TRAINING, USING, PREPARING)  # in the order of the list; others follow


class Verb(click.Command):
    """A command with examples.

    `works`: the verb's result is files, so it continues when its output is closed; otherwise its
    result is what it prints. `exit_codes`: its help has the table of exit codes.
    """

    def __init__(
        self,
        *args: Any,
        section: str = PREPARING,
        examples: Examples = (),
        works: bool = False,
        exit_codes: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.section, self.examples = section, examples
        self.works, self.exit_codes = works, exit_codes

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The arguments, then the options in their groups."""
        groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                plain = "Options" if isinstance(param, click.Option) else "Arguments"
                groups[getattr(param, "group", "") or plain].append(record)
        for name in ("Arguments", "Options", *groups):
            if name in groups:
                with formatter.section(name):
                    formatter.write_dl(groups.pop(name))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, self.examples)
        if self.exit_codes:
            formatter.write(f"\n{TABLE}\n")


def write_examples(formatter: click.HelpFormatter, examples: Examples) -> None:
    lines = [f"  jaxlm {command}" + (f"    # {why}" if why else "") for command, why in examples]
    formatter.write("\n".join(["", "Examples:", *lines, ""]))


def verb(
    summary: str,
    *,
    section: str = PREPARING,
    examples: Examples = (),
    works: bool = False,
    exit_codes: bool = False,
) -> Callable[[Callable[..., int | None]], Verb]:
    """Makes a verb of a function that returns its exit code, None for 0; its docstring is the
    help.
    """
    return click.command(
        cls=Verb,
        short_help=summary,
        section=section,
        examples=examples,
        works=works,
        exit_codes=exit_codes,
        context_settings=SETTINGS,
    )


class Argument(click.Argument):
    """An argument with a help text."""

    def __init__(self, *args: Any, about: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.about = about

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return self.make_metavar(ctx), self.about


class Option(click.Option):
    """An option that the help lists below the heading of its `group`."""

    def __init__(self, *args: Any, group: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.group = group
