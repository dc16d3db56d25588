"""The `jaxlm` command: a file of this folder is a verb, and its `command` is what the verb does.

    code = main(["train", "configs/quickstart.yaml", "train.steps=3"])

A verb's file is imported when the verb is called, or when all verbs are listed. It imports click
and `jaxlm.cli.shared`; whatever is heavy is imported inside its function, so that `--help` answers
quickly.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from jaxlm.core.errors import UserError
from jaxlm.core.exit_codes import CTRL_C, DONE, MISTAKE
from jaxlm.core.screen import discard, work_without_a_screen


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns its exit code. A bug is not caught."""
    words = sys.argv[1:] if argv is None else argv
    with work_without_a_screen("stderr"):
        try:
            code = _run(words)
            sys.stdout.flush()
            return code
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.code
        except click.exceptions.Exit as stop:  # after --help and --version
            return stop.exit_code
        except KeyboardInterrupt:
            return CTRL_C
        except BrokenPipeError:  # the reader of the output has closed it
            discard(sys.stdout)
            return DONE
        except SystemExit as stop:  # what rich does in the same case
            if not isinstance(stop.__context__, BrokenPipeError):
                raise
            return DONE
        except OSError as error:  # from the last flush: the output is lost
            from jaxlm.core.files import described

            line = described(error, "standard output")
            if line is None:
                raise
            print(f"error: {line}", file=sys.stderr)
            discard(sys.stdout)
            return MISTAKE


def _run(words: Sequence[str]) -> int:
    from jaxlm.cli.shared.parsing import parse
    from jaxlm.cli.shared.verb import Verb

    context = parse(words)
    verb = context.command
    assert isinstance(verb, Verb)
    from jaxlm.core.files import disk_errors  # after --help, which has no need of it
    from jaxlm.distributed.platforms import skip_absent_tpu
    from jaxlm.distributed.xla_flags import order_simulated

    order_simulated()
    skip_absent_tpu()
    with (
        work_without_a_screen(*(("stdout",) if verb.works else ())),
        disk_errors("" if verb.works else "standard output"),
        context,
    ):
        return verb.invoke(context) or DONE
