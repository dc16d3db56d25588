"""A classification's confusion table, with precision, recall and F1 of each class.

    confusion_table(["negative", "positive"], [[35, 15], [5, 45]])    # rows: the true classes

Up to 8 classes have a wide table, up to 30 a narrow one with vertical column names, up to 100 a map
of shades. Above 8 classes the most frequent confusions are listed, above 100 without a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from jaxlm.report.html import render
from jaxlm.report.tables import show, table

if TYPE_CHECKING:
    from markupsafe import Markup

WIDE, NUMBERED, MAPPED = 8, 30, 100  # the most classes of each form
MOST_CONFUSED = 12

Counts = Sequence[Sequence[int]]


def confusion_table(classes: Sequence[str], counts: Counts) -> Markup:
    """The table, the most frequent confusions and the figures of each class."""
    size = len(classes)
    form = "" if size <= WIDE else " narrow" if size <= NUMBERED else " map"
    rows = (
        [(n, _cells(n, classes, row, form)) for n, row in zip(classes, counts, strict=True)]
        if size <= MAPPED
        else []
    )
    note = "Rows: true class; columns: predicted class."
    if form:
        note += " Shade: share of the row."
        note += " A count is shown under the pointer." if "map" in form else " Empty: 0."
    correct, total = sum(counts[i][i] for i in range(size)), sum(map(sum, counts))
    macro = sum(_f1(counts, i) for i in range(size)) / max(size, 1)
    head = ["class", "precision", "recall", "F1", "examples"]
    return render(
        "confusion.html",
        size=size,
        mapped=MAPPED,
        form=form,
        classes=classes,
        rows=rows,
        note=note,
        summary=f"Accuracy {_ratio(correct, total)}, macro F1 {macro:.3f}",
        folded=size > NUMBERED,
        figures=table(head, _figures(classes, counts)),
        confused=_most_confused(classes, counts) if size > WIDE else None,
    )


class Cell(NamedTuple):
    """A count of a confusion table: its text, its share of the row in per cent, and a tooltip."""

    text: str
    share: str
    title: str
    deep: bool  # so dark that its text is light


def _cells(true: str, classes: Sequence[str], row: Sequence[int], form: str) -> list[Cell]:
    """A row, shaded by its own total."""
    total = max(sum(row), 1)
    cells = []
    for name, n in zip(classes, row, strict=True):
        share = f"{n / total:.0%}" if n or not form else ""
        text = show(n) if n or not form else ""
        title = f"{true} as {name}: {text}" if "map" in form and n else ""
        cells.append(Cell("" if title else text, share, title, n / total > 0.55))
    return cells


def _most_confused(classes: Sequence[str], counts: Counts) -> Markup | None:
    pairs = sorted(
        ((n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if n and i != j),
        key=lambda pair: (-pair[0], *pair[1:]),
    )[:MOST_CONFUSED]
    rows = [(classes[i], classes[j], n) for n, i, j in pairs]
    return table(["true class", "predicted", "examples"], rows) if rows else None


def _figures(classes: Sequence[str], counts: Counts) -> list[tuple[str, str, str, str, int]]:
    found = []
    predicted = [sum(column) for column in zip(*counts, strict=True)]
    for i, name in enumerate(classes):
        hit, true, said = counts[i][i], sum(counts[i]), predicted[i]
        ratios = _ratio(hit, said), _ratio(hit, true), _ratio(2 * hit, true + said)
        found.append((name, *ratios, true))
    return found


def _f1(counts: Counts, i: int) -> float:
    both = sum(counts[i]) + sum(row[i] for row in counts)
    return 2 * counts[i][i] / both if both else 0.0


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.3f}" if whole else "–"
