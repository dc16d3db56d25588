"""`jaxlm init FILES...`: writes a commented config for one's own texts or table."""

from __future__ import annotations

from pathlib import Path

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import PATH
from jaxlm.cli.shared.verb import PREPARING, verb
from jaxlm.core.errors import UserError

MOST_NAMED = 5  # files in a config, before one pattern names them


@verb(
    "write a config for your own texts or table",
    section=PREPARING,
    examples=(
        ("init my/*.txt", "a language model of these texts: my.yaml"),
        ("init reviews.csv --out reviews.yaml", "a classifier, if there is a column of labels"),
        ("init chat.jsonl", "a chat model, if that is the files' format"),
    ),
    works=True,
)
@options.argument(
    "files", "text files, or tables: CSV, TSV, JSON lines, Parquet", nargs=-1, required=True,
    type=PATH, metavar="FILES...",
)  # fmt: skip
@click.option(
    "--out", type=PATH, metavar="FILE", help="the config to write (default: by the files' name)"
)
@click.option("--force", is_flag=True, help="replace a config that exists")
def command(files: tuple[str, ...], out: str | None, force: bool) -> None:
    """Looks at the files and writes a commented config that trains on them: the amount of text
    decides on sizes and steps, the columns of a table on texts and labels, a recognised format
    (`jaxlm data formats`) on the task. Prints what it found and chose, and the next command.
    """
    from jaxlm.cli.shared.starter import starter, summary
    from jaxlm.core.files import write_atomic
    from jaxlm.data.detect import detect
    from jaxlm.data.detect_records import detect_records

    path = Path(out or _name(files))
    if path.exists() and not force:
        raise UserError(f"{path}: exists already; name another file with --out, or add --force")
    patterns = _patterns(files)
    found = detect_records(patterns) or detect(patterns)
    for line in summary(found):
        say(line)
    try:
        write_atomic(path, starter(found, str(path)))
    except OSError as error:
        raise UserError(f"--out: {path}: {error.strerror}; name a file that can be made") from None
    print(f"wrote {path}; next: jaxlm train {path}")


def _name(files: tuple[str, ...]) -> str:
    """The config's name: that of the one file, or of the folder that the files are in."""
    first = Path(files[0])
    one = len(files) == 1 and first.is_file()
    stem = first.name.partition(".")[0] if one else first.absolute().parent.name
    return f"{stem or 'mine'}.yaml"


def _patterns(files: tuple[str, ...]) -> list[str]:
    """The files as a config names them: one pattern for many files of a folder."""
    import glob

    from jaxlm.data.reading.files import match_files

    named = [glob.escape(file) if Path(file).exists() else file for file in files]
    if len(files) > MOST_NAMED:
        first = Path(files[0])
        pattern = str(Path(glob.escape(str(first.parent))) / f"*{first.suffix}")
        if set(match_files([pattern]).values()) == set(map(Path, files)):
            return [pattern]
    return named
