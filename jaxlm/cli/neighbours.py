"""`jaxlm neighbours RUN_OR_FILE WORD`: the words whose vectors are nearest to a word's."""

from __future__ import annotations

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.values import WHOLE
from jaxlm.cli.shared.vectors import open_quietly, print_scored, vectors
from jaxlm.cli.shared.verb import USING, verb


@verb(
    "show the words nearest to a word",
    section=USING,
    examples=(
        ("neighbours runs/glove king", ""),
        ("neighbours glove.6B.50d.txt king --top 5", "a file of vectors"),
    ),
)
@vectors
@options.argument("word", "a word that has a vector", metavar="WORD")
@click.option(
    "--top", type=WHOLE, default=10, show_default=True, metavar="N", help="how many words"
)
@options.json
def command(vectors: str, word: str, top: int, as_json: bool) -> None:
    """Prints the words whose vectors have the largest cosine to a word's, the nearest first."""
    print_scored(open_quietly(vectors).nearest(word, top), as_json)
