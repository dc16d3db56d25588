"""`jaxlm data prepare|inspect CONFIG`: prepares the data of a config, or shows its rows.
`jaxlm data formats|convert FILE...`: recognises the formats of files, or writes another.
"""

from __future__ import annotations

import json
import sys

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import PATH, WHOLE, WORKERS
from jaxlm.cli.shared.verb import PREPARING, verb
from jaxlm.core.errors import UserError


@verb(
    "prepare the data of a config, show its rows, or recognise and convert files",
    section=PREPARING,
    examples=(
        ("data prepare configs/quickstart.yaml", "before a long run, or one without a network"),
        ("data inspect configs/quickstart.yaml --split validation --rows 2", ""),
        ("data formats chat.jsonl", "its format; without a file: all formats"),
        ("data convert alpaca.json --to openai --out chat.jsonl", ""),
    ),
    works=True,
)
@options.action(("prepare", "inspect", "formats", "convert"), "what to do")
@options.argument(
    "config",
    "a YAML file; for formats and convert: files",
    type=PATH,
    metavar="[CONFIG]",
    required=False,
)
@options.overrides
@click.option("--split", metavar="NAME", help="inspect: train or validation (default: all)")
@click.option(
    "--rows", type=WHOLE, default=3, metavar="N", help="inspect: number of rows (default 3)"
)
@click.option("--html", type=PATH, metavar="FILE", help="inspect: write a page with loss weights")
@click.option(
    "--workers",
    type=WORKERS,
    metavar="N",
    help="processes that tokenise 32 MB and more (default: this one)",
)
@click.option("--to", metavar="FORMAT", help="convert: the format to write, or {type: FORMAT, ...}")
@click.option("--out", type=PATH, metavar="FILE", help="convert: the file to write")
@click.option("--force", is_flag=True, help="convert: replace a file that exists")
def command(
    action: str,
    config: str | None,
    overrides: tuple[str, ...],
    split: str | None,
    rows: int,
    html: str | None,
    workers: int | None,
    to: str | None,
    out: str | None,
    force: bool,
) -> None:
    """`prepare` fetches and tokenises what a config trains on, and prints the manifest. `inspect`
    prints real rows, decoded, with their documents and the share of padding; where tokens have
    loss weights, with those, green where they are trained. `formats FILE...` recognises files by
    their columns; settings of the source follow, as format=alpaca. `convert` writes their records
    as another format.
    """
    if action in ("formats", "convert"):
        from jaxlm.cli.shared import formats

        words = [word for word in (config, *overrides) if word is not None]
        if action == "convert":
            formats.convert_files(words, to, out, force)
        elif words:
            formats.show_formats(words)
        else:
            formats.list_formats()
        return
    if config is None:
        raise UserError("CONFIG is required; `jaxlm data --help` lists the options")
    from jaxlm.cli.shared.data_of import data_of
    from jaxlm.core.files import write_atomic
    from jaxlm.data.inspect import inspect, inspected_page
    from jaxlm.data.store.preparing import prepare

    run = data_of(config, overrides)
    workers = run.workers if workers is None else workers
    prepared = prepare(run.data, run.tokenizer, run.cache_dir, workers=workers, report=say)
    if action == "prepare":
        print(json.dumps(prepared.manifest, indent=1, ensure_ascii=False))
        return
    order = {"rows": rows, "seed": run.seed, "batch_size": run.batch_size}
    if html is not None:
        page = inspected_page(prepared, split or "train", **order)
        write_atomic(html, page)
        print(f"{html}: {rows} rows of {split or 'train'}")
        return
    colour = sys.stdout.isatty()
    for number, name in enumerate(list(prepared.splits) if split is None else [split]):
        print("\n" * bool(number), end="")
        print(inspect(prepared, name, colour=colour, **order))
