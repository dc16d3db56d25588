"""From the words of a command line to a verb and its options; a mistake is one line.

    context = parse(["train", "run.yaml", "train.steps=3", "--process-id", "0"])
    context.info_name, context.params["overrides"]     # "train", ("train.steps=3",)

The verbs are the files of `jaxlm/cli/`: `import_.py` is the verb `import`.
"""

from __future__ import annotations

import importlib
import keyword
import pkgutil
from collections.abc import Iterable, Sequence

import click

import jaxlm.cli
from jaxlm import __version__
from jaxlm.cli.shared.values import Choice
from jaxlm.cli.shared.verb import SECTIONS, SETTINGS, Verb, write_examples
from jaxlm.core.errors import UserError, printable, shown, suggest
from jaxlm.core.exit_codes import MISTAKE, TABLE

EXAMPLES = (
    ("train configs/quickstart.yaml", "trains, evaluates, writes a report"),
    ("train configs/quickstart.yaml train.steps=50 model.num_layers=2", "other settings"),
    ("resume runs/quickstart", "continues a run from its last checkpoint"),
    ('generate runs/quickstart --prompt "ROMEO. "', "writes text"),
    ("config show configs/quickstart.yaml", "every setting with its meaning"),
)


class Verbs(click.Group):
    """The verbs by name, each imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        files = pkgutil.iter_modules(jaxlm.cli.__path__)
        return sorted(file.name.removesuffix("_") for file in files if not file.ispkg)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Verb:
        """The verb of that name. Raises `UserError` if it does not exist."""
        verbs = self.list_commands(ctx)
        if cmd_name not in verbs:
            raise UserError(f"{shown(cmd_name)} is not a verb; {suggest(cmd_name, verbs)}")
        file = cmd_name + "_" * keyword.iskeyword(cmd_name)
        found: Verb = importlib.import_module(f"jaxlm.cli.{file}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs with their summaries, section by section."""
        verbs = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        others = {verb.section for verb in verbs.values()}.difference(SECTIONS)
        for section in (*SECTIONS, *sorted(others)):
            with formatter.section(section):
                formatter.write_dl(
                    [(n, v.short_help or "") for n, v in verbs.items() if v.section == section]
                )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, EXAMPLES)
        formatter.write(f"\n{TABLE}\n\n`jaxlm VERB --help` explains a verb.\n")


@click.group(cls=Verbs, subcommand_metavar="VERB ...", context_settings=SETTINGS)
@click.version_option(__version__, message="jaxlm %(version)s")
def command() -> None:
    """Train every kind of language model, and never lose a run."""


def parse(words: Sequence[str]) -> click.Context:
    """The context of the verb that the words name, with its parameters.

    Raises `UserError` on a mistake, and `click.exceptions.Exit` where help was asked for.
    """
    for word in words:
        if any("\ud800" <= c <= "\udfff" for c in word):  # bytes that are not UTF-8
            raise UserError(f"{shown(word)} is not UTF-8 text; write it in UTF-8")
    top = click.Context(command, info_name="jaxlm", **SETTINGS)
    if not words:
        click.echo(command.get_help(top))
        raise click.exceptions.Exit(MISTAKE)
    path = "jaxlm"
    try:
        if words[0].startswith("-"):  # --help, --version or a mistake
            command.parse_args(top, list(words[:1]))
        verb = command.get_command(top, words[0])
        path += f" {words[0]}"
        return verb.make_context(words[0], list(words[1:]), parent=top)
    except click.UsageError as error:
        raise UserError(_one_line(error, path)) from None


def _one_line(error: click.UsageError, path: str) -> str:
    """A usage error of the command `path`: what is wrong; how to fix it."""
    if isinstance(error, click.NoSuchOption):
        params = error.ctx.command.get_params(error.ctx) if error.ctx else []
        fix = suggest(error.option_name, _options(params)) + _without_dashes(params, path)
        return f"no such option {shown(error.option_name)}; {fix}"
    help_ = f"`{path} --help` lists the options"
    if isinstance(error, click.BadParameter) and error.param is not None:
        if isinstance(error, click.MissingParameter):
            return f"{_name(error.param)} is required; {help_}"
        by_itself = isinstance(error.param.type, Choice) and isinstance(error.param, click.Argument)
        return error.message if by_itself else f"{_name(error.param)}: {error.message}"
    text = printable(error.message.strip().rstrip("."))
    return f"{text[:1].lower()}{text[1:]}; {help_}"


def _options(params: Iterable[click.Parameter]) -> list[str]:
    return [name for param in params for name in param.opts if name.startswith("--")]


def _without_dashes(params: Iterable[click.Parameter], path: str) -> str:
    """Where a verb takes a config: the form of its command, in which settings have no dashes."""
    arguments = [param for param in params if isinstance(param, click.Argument)]
    if not {"config", "overrides"} <= {param.name for param in arguments}:
        return ""
    words = " ".join(str(param.metavar).strip("[]") for param in arguments)
    return f" Settings are written without dashes: `{path} {words}`"


def _name(param: click.Parameter) -> str:
    """A parameter as a user writes it: "--top-k", "CONFIG"."""
    return param.opts[-1] if isinstance(param, click.Option) else param.human_readable_name
