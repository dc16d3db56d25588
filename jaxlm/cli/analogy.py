"""`jaxlm analogy RUN_OR_FILE A B C`: the words that are to C what B is to A."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.values import PATH, WHOLE
from jaxlm.cli.shared.vectors import open_quietly, print_scored, vectors
from jaxlm.cli.shared.verb import USING, verb
from jaxlm.core.errors import UserError

if TYPE_CHECKING:
    from jaxlm.vectors.questions import Score


@verb(
    "solve a is to b as c is to ?",
    section=USING,
    examples=(
        ("analogy glove.6B.50d.txt man king woman", "queen"),
        ("analogy runs/glove --questions questions-words.txt", "score the questions of a file"),
    ),
)
@vectors
@options.argument("words", "three words that have vectors", nargs=-1, metavar="[A B C]")
@click.option(
    "--top", type=WHOLE, default=10, show_default=True, metavar="N", help="how many words"
)
@click.option(
    "--questions",
    type=PATH,
    metavar="FILE",
    help="score the analogies of a file instead: four words a line, in sections",
)
@options.json
def command(
    vectors: str, words: tuple[str, ...], top: int, questions: str | None, as_json: bool
) -> None:
    """Prints the words with the largest cosine to B - A + C, without A, B and C themselves. A file
    of questions is scored as gensim's evaluate_word_analogies does: among the first 300,000 words,
    upper and lower case are the same, questions with an unknown word are left out.
    """
    if questions is None:
        if len(words) != 3:
            raise UserError(
                f"analogy: needs three words, and {len(words)} are given; write A B C, or "
                "--questions FILE"
            )
        print_scored(open_quietly(vectors).analogy(*words, n=top), as_json)
        return
    if words:
        raise UserError("--questions: the file has the words; leave out A B C")
    from jaxlm.vectors.questions import score_questions

    _print_scores(score_questions(open_quietly(vectors), questions), as_json)


def _print_scores(scores: list[Score], as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "section": s.section,
                "correct": s.correct,
                "asked": s.asked,
                "unknown": s.unknown,
                "accuracy": s.accuracy,
            }
            | ({"skipped": s.skipped} if s.skipped else {})
            for s in scores
        ]
        print(json.dumps(rows, ensure_ascii=False))
        return
    for s in scores:
        share = "     -" if s.accuracy is None else f"{s.accuracy:6.2%}"
        left_out = f", {s.unknown:,} left out" if s.unknown else ""
        print(f"{share}  {s.section}: {s.correct:,} of {s.asked:,}{left_out}")
    if skipped := scores[-1].skipped:
        print(f"{skipped:,} line{'s' * (skipped > 1)} without four words left out")
