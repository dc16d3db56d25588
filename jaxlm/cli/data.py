"""`jaxlm data prepare|inspect CONFIG`: prepares the data of a config, or shows its rows."""

from __future__ import annotations

import json

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import WHOLE, WORKERS
from jaxlm.cli.shared.verb import PREPARING, verb


@verb(
    "prepare the data of a config, or show its rows",
    section=PREPARING,
    examples=(
        ("data prepare configs/quickstart.yaml", "before a long run, or one without a network"),
        ("data inspect configs/quickstart.yaml --split validation --rows 2", ""),
    ),
    works=True,
)
@options.action(("prepare", "inspect"), "what to do")
@options.config
@click.option("--split", metavar="NAME", help="inspect: train or validation (default: all)")
@click.option(
    "--rows", type=WHOLE, default=3, metavar="N", help="inspect: number of rows (default 3)"
)
@click.option(
    "--workers", type=WORKERS, metavar="N", help="processes that tokenise (default: this one)"
)
def command(
    action: str,
    config: str,
    overrides: tuple[str, ...],
    split: str | None,
    rows: int,
    workers: int | None,
) -> None:
    """`prepare` fetches and tokenises what a config trains on, and prints the manifest. `inspect`
    prints real rows, decoded, with their documents and the share of padding.
    """
    from jaxlm.data.inspect import inspect
    from jaxlm.run import load_run
    from jaxlm.training.session import prepare_data

    run = load_run(config, overrides).config
    prepared = prepare_data(run.replace(run_dir=None), say, workers=workers)
    if action == "prepare":
        print(json.dumps(prepared.manifest, indent=1, ensure_ascii=False))
        return
    for number, name in enumerate(list(prepared.splits) if split is None else [split]):
        print("\n" * bool(number), end="")
        size = run.train.batch_size
        print(inspect(prepared, name, rows=rows, seed=run.seed, batch_size=size))
