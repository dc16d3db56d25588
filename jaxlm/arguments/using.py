"""The verbs that use a run which is there: generate, eval, report, info."""

from __future__ import annotations

import argparse
from typing import Any

from jaxlm.arguments.options import (
    add_accept_data,
    add_json,
    add_overrides,
    add_run,
    add_step,
    add_verb,
)
from jaxlm.arguments.values import count, path, ratio, share, whole


def generate(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "write text with a trained model",
        "Continues one or several prompts with a run's newest checkpoint.",
        ('generate runs/quickstart --prompt "ROMEO. " --temperature 0.5', ""),
        ("generate runs/quickstart --prompt A --prompt B --json", "a line of JSON for each"),
        ("generate runs/quickstart --prompt A --beams 4", "the likeliest text of a search"),
        ("generate runs/large --prompt A --draft runs/small", "sooner, with a small model's help"),
    )
    add_run(verb)
    verb.add_argument(
        "--prompt",
        action="append",
        help="text to continue; several make a batch; none: from nothing",
    )
    verb.add_argument(
        "--max-tokens", type=whole, default=200, metavar="N", help="length of a text (default 200)"
    )
    verb.add_argument("--temperature", type=ratio, metavar="X", help="0 is greedy (default 0.8)")
    verb.add_argument("--top-k", type=whole, metavar="K", help="draw from the K likeliest tokens")
    verb.add_argument(
        "--top-p", type=share, metavar="P", help="draw from the likeliest of total probability P"
    )
    verb.add_argument("--seed", type=count, default=0, metavar="N", help="of the draws (default 0)")
    verb.add_argument(
        "--beams",
        type=whole,
        default=1,
        metavar="N",
        help="search for the likeliest text with N beams; nothing is drawn",
    )
    verb.add_argument(
        "--length-penalty",
        type=ratio,
        metavar="X",
        help="of --beams: log p is divided by length ** X (default 1)",
    )
    verb.add_argument(
        "--draft",
        type=path,
        metavar="RUN_DIR",
        help="a smaller run of the same tokenizer that guesses tokens ahead; the text is the same",
    )
    verb.add_argument(
        "--num-drafts", type=whole, metavar="N", help="of --draft: tokens guessed (default 4)"
    )
    add_step(verb)
    add_json(verb)
    add_overrides(verb)
    return verb


def eval_(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "measure a run on its whole validation split",
        "Loss, perplexity and bits per byte; for classes accuracy, F1 and the confusion table.",
        ("eval runs/quickstart", ""),
        ("eval runs/quickstart --step 200 --json", "an earlier checkpoint, for a program"),
    )
    add_run(verb)
    add_accept_data(verb)
    add_step(verb)
    add_json(verb)
    add_overrides(verb)
    return verb


def report(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "write report.html of a run",
        "Writes report.html of a run, one file that opens offline, and prints where it is.",
        ("report runs/quickstart", ""),
    )
    add_run(verb)
    return verb


def info(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = add_verb(
        verbs,
        name,
        "what a run directory holds",
        "Step, parameters and their SHA-256, configuration's SHA-256, data position, checkpoints.",
        ("info runs/quickstart", ""),
        ("info runs/quickstart --json", "for a program"),
    )
    add_run(verb)
    add_json(verb)
    return verb
