"""`jaxlm tokenizer train CONFIG --out DIR`: trains the tokenizer of a config and saves it."""

from __future__ import annotations

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import PATH
from jaxlm.cli.shared.verb import PREPARING, verb
from jaxlm.core.errors import UserError


@verb(
    "train the tokenizer of a config and save it",
    section=PREPARING,
    examples=(
        ("tokenizer train configs/quickstart.yaml --out my_tokenizer", ""),
        ("tokenizer train configs/quickstart.yaml --out big tokenizer.vocab_size=8192", ""),
    ),
    works=True,
)
@options.action(("train",), "what to do")
@options.config
@click.option("--out", type=PATH, required=True, metavar="DIR", help="a new folder")
def command(action: str, config: str, overrides: tuple[str, ...], out: str) -> None:
    """Trains the tokenizer of a config on the training texts of its data, and saves it to a folder.
    Use it by tokenizer.type=saved tokenizer.path=DIR.
    """
    from pathlib import Path

    from jaxlm.hf.opened import run_of
    from jaxlm.run import load_run
    from jaxlm.training.session import prepare_data

    folder = Path(out)
    if folder.exists():
        raise UserError(f"--out: {folder} exists already; name a new folder")
    run = load_run(config, overrides, run_of).config
    tokenizer = prepare_data(run.replace(run_dir=None), say).tokenizer
    try:
        tokenizer.save(folder)
    except OSError as error:
        line = f"--out: {folder}: {error.strerror}; name a folder in a place that you can write to"
        raise UserError(line) from None
    print(f"{folder}: {tokenizer.vocab_size} ids, sha256 {tokenizer.fingerprint()}")
