"""`jaxlm parts`: what `type:` may name in a config."""

from __future__ import annotations

import json
from pathlib import Path

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.verb import PREPARING, verb


@verb(
    "list the parts that type: may name, and where they come from",
    section=PREPARING,
    examples=(("parts", ""), ("parts objectives", "one kind")),
)
@click.argument("kind", required=False)
@options.json
def command(kind: str | None, as_json: bool) -> None:
    """The parts of every kind: built in, of installed packages (entry points), and classes of the
    modules in this folder, which a config names by module:Class.
    """
    from jaxlm.core.listing import kind_called, kinds, parts

    found = {
        of.kind.name: parts(of, Path.cwd())
        for of in ([kind_called(kind)] if kind is not None else kinds())
    }
    if as_json:
        print(json.dumps({name: [p._asdict() for p in parts] for name, parts in found.items()}))
        return
    width = 2 + max((len(p.name) for own in found.values() for p in own), default=0)
    for name, own in found.items():
        click.echo(click.style(name, bold=True))  # without colours outside of a terminal
        if not own:
            click.echo("  none built in")
        for part in own:
            click.echo(f"  {part.name.ljust(width)}{part.doc} [{part.origin}]")
