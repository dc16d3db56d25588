"""`jaxlm similarity RUN_OR_FILE A B`: the cosine of two words' vectors, or of a file's pairs."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.values import PATH
from jaxlm.cli.shared.vectors import open_quietly, vectors
from jaxlm.cli.shared.verb import USING, verb
from jaxlm.core.errors import UserError


@verb(
    "compare two words, or the pairs of a file with what people said",
    section=USING,
    examples=(
        ("similarity runs/glove sun moon", ""),
        ("similarity glove.6B.50d.txt --pairs wordsim353.tsv", "Spearman's rank correlation"),
    ),
)
@vectors
@options.argument("words", "two words that have vectors", nargs=-1, metavar="[A B]")
@click.option(
    "--pairs",
    type=PATH,
    metavar="FILE",
    help="score the pairs of a file instead: WORD<tab>WORD<tab>NUMBER a line",
)
@options.json
def command(vectors: str, words: tuple[str, ...], pairs: str | None, as_json: bool) -> None:
    """Prints the cosine of two vectors. A file of pairs is scored as gensim's evaluate_word_pairs
    does: the correlations of the cosines with the numbers, over the pairs whose words are known.
    """
    if pairs is None:
        if len(words) != 2:
            raise UserError(
                f"similarity: needs two words, and {len(words)} are given; write A B, or "
                "--pairs FILE"
            )
        cosine = open_quietly(vectors).similarity(*words)
        print(json.dumps({"cosine": round(cosine, 6)}) if as_json else f"{cosine:.4f}")
        return
    if words:
        raise UserError("--pairs: the file has the words; leave out A B")
    from jaxlm.vectors.pairs import score_pairs

    found = score_pairs(open_quietly(vectors), pairs)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    left_out = f", {found.unknown:,} left out" if found.unknown else ""
    print(f"Spearman {found.spearman:.4f}  Pearson {found.pearson:.4f}")
    print(f"{found.pairs:,} pairs{left_out}")
    if skipped := found.skipped:
        print(f"{skipped:,} line{'s' * (skipped > 1)} without two words and a number left out")
