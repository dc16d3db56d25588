"""`jaxlm ngrams CONFIG|FILE --out FILE`: builds a file of an n-gram model, or converts one."""

from __future__ import annotations

import os

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import COUNT, PATH, SIZE, WHOLE, Choice
from jaxlm.cli.shared.verb import PREPARING, verb
from jaxlm.core.errors import UserError


@verb(
    "build or convert a file of an n-gram model, of a text larger than the memory",
    section=PREPARING,
    examples=(
        ("ngrams configs/classic/ngram.yaml --out shakespeare.ngrams", ""),
        ("ngrams shakespeare.ngrams --out shakespeare.arpa.gz", "for KenLM and others"),
        ("ngrams other.arpa --out other.ngrams --bits 8", "quantised"),
    ),
    works=True,
)
@options.argument(
    "source", "a config (.yaml), an ARPA file (.arpa, .arpa.gz), or a file of this verb", type=PATH
)
@options.overrides
@click.option("--out", type=PATH, required=True, metavar="FILE", help="the file; .arpa: as ARPA")
@click.option(
    "--memory",
    type=SIZE,
    default=400_000_000,
    metavar="SIZE",
    help="memory for the arrays of a process, such as 200MB (default 400MB)",
)
@click.option(
    "--bits", type=Choice(("32", "8")), default="32", help="bits of each value; 8: quantised"
)
@click.option("--process-id", type=COUNT, default=0, metavar="I", help="number of this process")
@click.option(
    "--num-processes", type=WHOLE, default=1, metavar="N", help="processes that share the folder"
)
def command(
    source: str,
    overrides: tuple[str, ...],
    out: str,
    memory: int,
    bits: str,
    process_id: int,
    num_processes: int,
) -> None:
    """Counts the training split of a config with `objective: {type: ngram}` in parts on disk, and
    writes the model to a file that is opened by memory map. A build that was killed continues by
    the same command; several processes that see the folder of FILE share the work. An n-gram file
    as SOURCE is converted.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"  # host work: an accelerator may be in use
    from jaxlm.api.ngram_files import build_file, convert_file

    if not source.endswith((".yaml", ".yml")):
        if overrides:
            raise UserError("settings are for a config; a file is converted as it is")
        print(convert_file(source, out, bits=int(bits)))
        return
    from jaxlm.run import load_run

    config = load_run(source, overrides).config
    numbers = {"process": process_id, "processes": num_processes}
    print(build_file(config, out, memory=memory, bits=int(bits), report=say, **numbers))
