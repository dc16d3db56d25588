"""Looks at a user's files whose format is recognised (`jaxlm.data.formats`).

found = detect_records(["chat.jsonl"])
found.task, found.format          # "chat", "chat.jsonl: alpaca (instruction, output)"
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.data.detect import SAMPLE, Found, script_mostly
from jaxlm.data.formats.shapes import Shape, Start
from jaxlm.data.sources.files import Files

LOOKED_AT = 5000  # records, by whose labels the task is chosen
MOST = 20  # different numbers that are classes; more are a regression's


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
    if any(one != shape for one in shapes):
        return None
    labelled = _labelled(source, shape) if shape.plain else None
    if shape.plain and labelled is None:
        return None
    if shape.start is None and labelled is None:
        raise UserError(
            f"{line}: records of {shape.task}, for which there is no task to train; name files of "
            "another format (`jaxlm data formats` lists them)"
        )
    lengths, sample, counts, full = list[int](), "", Counter[str](), False
    for unit in source.units():
        for _, record in source.whole(unit, (), counts):
            full = full or all(record.get(name) for name in shape.optional)
            texts = list(_texts([record.get(name) for name in shape.every]))
            lengths.append(sum(map(len, texts)))
            if len(sample) < SAMPLE:
                sample += "".join(itertools.islice(texts, 100))
    longest = sorted(lengths)
    return Found(
        files=tuple(patterns),
        kind="files",
        columns=shape.every,
        start=labelled or (shape.fuller or shape.start if full else shape.start),
        format=line,
        num_texts=len(lengths),
        num_chars=sum(lengths),
        long_text=longest[int(0.95 * (len(longest) - 1))],
        script=script_mostly(sample),
    )


def _labelled(source: Files, shape: Shape) -> Start | None:
    """The use of labelled texts that are pairs, or whose labels are lists or numbers; None of
    others, which are a text and its class.
    """
    if "label" not in shape.every:
        return None
    counts = Counter[str]()
    records = (record for unit in source.units() for _, record in source.whole(unit, (), counts))
    try:
        found = [*itertools.islice(records, LOOKED_AT)]
    except UserError:
        return None  # a table with rows that lack a label
    labels = [record["label"] for record in found]
    is_pair = all(record.get("text_b") for record in found)
    several = any(isinstance(label, list) for label in labels)
    numbers = not several and all(map(_is_number, labels)) and _are_scores(labels)
    second = ", text_b: text_b" if is_pair else ""
    if several:
        objective, task, about = "multi_label", f"multi_label{second}", "any number of classes"
    elif numbers:
        objective, task, about = "regression", f"regression{second}", "a number"
    elif is_pair:
        objective, task, about = "classification", "pair", "classification"
    else:
        return None
    return Start(
        f"{about} of {'two texts' if is_pair else 'a text'}",
        f"{{type: {task}}}",
        f"{{type: {objective}, head: {{pool: mean, dropout: 0.3}}}}",
        False,
    )


def _are_scores(labels: Sequence[Any]) -> bool:
    """Whether numbers are too many, or too fine, for classes."""
    return len({*map(str, labels)}) > MOST or not all(float(label).is_integer() for label in labels)


def _is_number(label: Any) -> bool:
    try:
        return math.isfinite(float(label))
    except (TypeError, ValueError):
        return False


def _texts(value: Any) -> Iterator[str]:
    """All texts in a record's values, without the names of keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
