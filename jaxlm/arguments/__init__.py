"""The words of the command line: its verbs, their options, their help.

    arguments = parse(["train", "run.yaml", "train.steps=3", "--process-id", "0"])
    arguments.verb, arguments.overrides     # "train", ["train.steps=3"]

Options and settings may stand in any order. Nothing but the standard library is imported here.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jaxlm.arguments import exchange, preparing, training, using
from jaxlm.arguments.options import examples_of
from jaxlm.errors import shown
from jaxlm.exit_codes import MISTAKE, TABLE

DESCRIPTION = "Train every kind of language model, and never lose a run."

VERBS: dict[str, Callable[[Any, str], argparse.ArgumentParser]] = {
    "train": training.train,
    "finetune": training.finetune,
    "resume": training.resume,
    "launch": training.launch,
    "generate": using.generate,
    "eval": using.eval_,
    "report": using.report,
    "info": using.info,
    "plan": training.plan,
    "import": exchange.import_,
    "export": exchange.export,
    "presets": exchange.presets,
    "data": preparing.data,
    "tokenizer": preparing.tokenizer,
    "config": preparing.config,
    "doctor": preparing.doctor,
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The verb and its options. Ends the process where help is asked for, or on a mistake."""
    words = list(sys.argv[1:] if argv is None else argv)
    for word in words:
        if any("\ud800" <= c <= "\udfff" for c in word):  # bytes that are not UTF-8
            print(f"error: {shown(word)} is not UTF-8 text; write it in UTF-8", file=sys.stderr)
            raise SystemExit(MISTAKE)
    top = _Parser(
        prog="jaxlm",
        description=DESCRIPTION,
        epilog=examples_of(
            ("train configs/quickstart.yaml", "the main job: trains, evaluates, writes a report"),
            ("train configs/quickstart.yaml train.steps=50 model.num_layers=2", "other settings"),
            ("resume runs/quickstart", "goes on where a run was stopped"),
            ('generate runs/quickstart --prompt "ROMEO. "', "writes text"),
            ("config show configs/quickstart.yaml", "every setting and what it means"),
        )
        + f"\n\n{TABLE}\n\n`jaxlm VERB --help` says more of each.",
    )
    from jaxlm import __version__

    top.add_argument("--version", action="version", version=f"jaxlm {__version__}")
    verbs = top.add_subparsers(metavar="VERB", title="verbs", parser_class=_Parser)
    parsers = {name: add(verbs, name) for name, add in VERBS.items()}
    if not words:
        top.print_help()
        raise SystemExit(MISTAKE)
    if words[0].startswith("-"):
        top.parse_args(words[:1])  # --help, --version, or an error
    if words[0] not in parsers:
        near = difflib.get_close_matches(words[0], parsers, n=1)
        fix = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(parsers)}"
        top.error(f"{shown(words[0])} is not a verb; {fix}")
    arguments = parsers[words[0]].parse_intermixed_args(words[1:])
    arguments.verb = words[0]
    return arguments


class _Parser(argparse.ArgumentParser):
    """One line for a mistake, as everywhere else; examples stay as they are laid out."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        # the settings are optional, which argparse does not see where words and options mix
        message = message.replace(", key.sub=value", "")
        hint = "" if "; " in message else f"; `{self.prog} --help` shows what there is"
        print(f"error: {message}{hint}", file=sys.stderr)
        raise SystemExit(MISTAKE)
