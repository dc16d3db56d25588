"""Looks at a user's files whose format is recognised (`jaxlm.data.formats`).

found = detect_records(["chat.jsonl"])
found.task, found.format          # "chat", "chat.jsonl: alpaca (instruction, output)"
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.data.detect import SAMPLE, Found, script_mostly
from jaxlm.data.sources.files import Files


def detect_records(patterns: Sequence[str]) -> Found | None:
    """The contents of files of records, and their use; None where no single format is recognised,
    and for running texts and tables with a column of classes.

    Reads the files once. Raises `UserError` for a record that is not of its file's format, and
    where no task trains on such records.
    """
    source = Files(files=tuple(patterns))
    try:
        shapes, line = source.shapes(), source.recognised(())
    except UserError:
        return None
    shape = shapes[0]
    if shape.plain or any(one != shape for one in shapes):
        return None
    if shape.start is None:
        raise UserError(
            f"{line}: records of {shape.task}, for which there is no task to train; name files of "
            "another format (`jaxlm data formats` lists them)"
        )
    lengths, sample, counts, full = list[int](), "", Counter[str](), False
    for unit in source.units():
        for _, record in source.whole(unit, (), counts):
            full = full or all(record.get(name) for name in shape.optional)
            texts = list(_texts([record[name] for name in shape.every]))
            lengths.append(sum(map(len, texts)))
            if len(sample) < SAMPLE:
                sample += "".join(itertools.islice(texts, 100))
    longest = sorted(lengths)
    return Found(
        files=tuple(patterns),
        kind="files",
        columns=shape.every,
        start=shape.fuller or shape.start if full else shape.start,
        format=line,
        num_texts=len(lengths),
        num_chars=sum(lengths),
        long_text=longest[int(0.95 * (len(longest) - 1))],
        script=script_mostly(sample),
    )


def _texts(value: Any) -> Iterator[str]:
    """All texts in a record's values, without the names of keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
