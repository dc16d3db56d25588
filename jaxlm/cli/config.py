"""`jaxlm config show CONFIG`: every setting of a config, its origin and its meaning."""

from __future__ import annotations

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.verb import PREPARING, verb


@verb(
    "show a config, with meanings and origins",
    section=PREPARING,
    examples=(
        ("config show configs/quickstart.yaml train.steps=50", ""),
        ("config show configs/quickstart.yaml --yaml > mine.yaml", "a file that can be run"),
    ),
)
@options.action(("show",), "what to do")
@options.config
@click.option("--yaml", "as_yaml", is_flag=True, help="plain YAML that can be run again")
def command(action: str, config: str, overrides: tuple[str, ...], as_yaml: bool) -> None:
    """Every setting of a config: its value, where that came from, and what it means."""
    from jaxlm.config import settings, to_yaml
    from jaxlm.run import load_run

    resolved = load_run(config, overrides)
    if as_yaml:
        print(to_yaml(resolved.config), end="")
    else:
        from jaxlm.cli.shared.show import print_settings

        print_settings(settings(resolved))
