"""`jaxlm config show CONFIG`: what a config sets, what may be chosen, and what it means."""

from __future__ import annotations

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.verb import PREPARING, verb


@verb(
    "show a config: what is set and where, the choices, meanings",
    section=PREPARING,
    examples=(
        ("config show configs/quickstart.yaml train.steps=50", ""),
        ("config show configs/quickstart.yaml --all", "the defaults too"),
        ("config show configs/quickstart.yaml --yaml > mine.yaml", "a config for `jaxlm train`"),
    ),
)
@options.action(("show",), "what to do")
@options.config
@click.option("--all", "defaults", is_flag=True, help="show the settings that have their defaults")
@click.option("--yaml", "as_yaml", is_flag=True, help="print a YAML config")
def command(
    action: str, config: str, overrides: tuple[str, ...], defaults: bool, as_yaml: bool
) -> None:
    """Prints the settings of a config, with file and line and meaning; then the values that each
    choice may have; with --all the defaults.
    """
    from jaxlm.cli.shared.settings import Line, lines_of, print_settings
    from jaxlm.core.config import to_yaml
    from jaxlm.core.without_jax import reading

    def read() -> str | list[Line]:
        from jaxlm.hf.opened import run_of
        from jaxlm.run import load_run

        resolved = load_run(config, overrides, run_of)
        return to_yaml(resolved.config) if as_yaml else lines_of(resolved)

    found = reading(read)
    if isinstance(found, str):
        print(found, end="")
    else:
        print_settings(found, defaults=defaults)
