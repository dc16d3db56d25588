"""A classification's confusion table, with precision, recall and F1 of each class.

    confusion_table(["negative", "positive"], [[35, 15], [5, 45]])    # rows: the true classes

Up to 8 classes have a wide table, up to 30 a narrow one with vertical column names, up to 100 a map
of shades. Above 8 classes the most frequent confusions are listed, above 100 without a table.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxlm.report.tables import escape, show, table

WIDE, NUMBERED, MAPPED = 8, 30, 100  # the most classes of each form
MOST_CONFUSED = 12

Counts = Sequence[Sequence[int]]


def confusion_table(classes: Sequence[str], counts: Counts) -> str:
    """The table, the most frequent confusions and the figures of each class."""
    size = len(classes)
    correct, total = sum(counts[i][i] for i in range(size)), sum(map(sum, counts))
    macro = sum(_f1(counts, i) for i in range(size)) / max(size, 1)
    figures = table(["class", "precision", "recall", "F1", "examples"], _figures(classes, counts))
    if size > NUMBERED:
        figures = f"<details><summary>each of {size:,} classes</summary>{figures}</details>"
    matrix = _matrix(classes, counts) if size <= MAPPED else ""
    return (
        f"{matrix}<div><h3>Accuracy {_ratio(correct, total)}, macro F1 {macro:.3f}</h3>"
        f"{figures}</div>{_most_confused(classes, counts) if size > WIDE else ''}"
    )


def _matrix(classes: Sequence[str], counts: Counts) -> str:
    """Rows are the true classes, columns the predicted; each row is shaded by its own total."""
    size = len(classes)
    form = "" if size <= WIDE else " narrow" if size <= NUMBERED else " map"
    head = "".join(
        f'<th title="{escape(name)}"><span>{escape(name)}</span></th>' for name in classes
    )
    rows = "".join(
        f'<tr><th title="{escape(name)}">{escape(name)}</th>{_cells(name, classes, row, form)}</tr>'
        for name, row in zip(classes, counts, strict=True)
    )
    note = "Rows: true class; columns: predicted class."
    if form:
        note += " Shade: share of the row."
        note += " A count is shown under the pointer." if "map" in form else " Empty: 0."
    return (
        f'<div class="{"whole" if form else ""}"><h3>Confusion</h3><div class="scroll">'
        f'<table class="confusion{form}"><thead><tr><th></th>{head}</tr></thead>{rows}</table>'
        f'</div><p class="note">{note}</p></div>'
    )


def _cells(true: str, classes: Sequence[str], row: Sequence[int], form: str) -> str:
    total = max(sum(row), 1)
    cells = []
    for name, n in zip(classes, row, strict=True):
        deep = " deep" if n / total > 0.55 else ""
        shade = f' style="--p:{n / total:.0%}"' if n or not form else ""
        title, text = "", show(n) if n or not form else ""
        if "map" in form and n:
            title, text = f' title="{escape(true)} as {escape(name)}: {show(n)}"', ""
        cells.append(f'<td class="cell{deep}"{shade}{title}>{text}</td>')
    return "".join(cells)


def _most_confused(classes: Sequence[str], counts: Counts) -> str:
    pairs = sorted(
        ((n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if n and i != j),
        key=lambda pair: (-pair[0], *pair[1:]),
    )[:MOST_CONFUSED]
    rows = [(classes[i], classes[j], n) for n, i, j in pairs]
    if not rows:
        return ""
    return (
        "<div><h3>Most frequent confusions</h3>"
        f"{table(['true class', 'predicted', 'examples'], rows)}</div>"
    )


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
