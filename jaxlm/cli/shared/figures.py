"""Prints the measures of a run: a line for each figure, and its tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxlm.core.measures import Measure, not_beaten, notes_of, tables_of, values_of

MAX_COLUMNS = 8  # in a confusion table on a terminal
MAX_CONFUSIONS = 10

Table = Sequence[Sequence[int]]  # rows: the true class; columns: the predicted one


def print_figures(measures: Iterable[Measure]) -> None:
    """One line for each figure, each table of numbers, and a line for each baseline that the model
    does not beat. Other tables, such as the places of words, are for a report alone.
    """
    measures = list(measures)
    notes = notes_of(measures)
    values = values_of(measures)
    width = max(24, *map(len, values)) if values else 0
    for name, value in values.items():
        shown = f"{value:.4f}" if isinstance(value, float) else value
        note = f"  {notes[name]}" if name in notes else ""
        print(f"  {name:{width}} {shown}{note}")
    tables = {n: t for n, t in tables_of(measures).items() if {"columns", "classes"} & t.keys()}
    for name, table in tables.items():
        if len(tables) > 1:
            print(f"  {name}")
        if "columns" in table:
            _print_plain(table["columns"], table["rows"])
            continue
        show = _print_table if len(table["classes"]) <= MAX_COLUMNS else _print_classes
        show(table["classes"], table["table"])
    for line in not_beaten(measures):
        print(f"  {line}")


def _print_plain(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    cells = [
        [f"{value:.4f}" if isinstance(value, float) else str("" if value is None else value)
         for value in row]
        for row in rows
    ]  # fmt: skip
    for row in [list(columns), *cells]:
        print("  " + "".join(cell.rjust(14) for cell in row))


def _print_table(classes: Sequence[str], table: Table) -> None:
    first, width = "true / predicted", max(8, *map(len, classes)) + 2
    column = max(map(len, [*classes, first]))
    print("  " + first.ljust(column) + "".join(name.rjust(width) for name in classes))
    for name, row in zip(classes, table, strict=True):
        print("  " + name.ljust(column) + "".join(str(n).rjust(width) for n in row))


def _print_classes(classes: Sequence[str], table: Table) -> None:
    """Prints precision, recall and F1 of each class, and the most frequent confusions."""
    column = min(40, max(map(len, [*classes, "class"])))
    print(f"  {'class':{column}} precision   recall       F1  examples")
    for i, name in enumerate(classes):
        hit, true, said = table[i][i], sum(table[i]), sum(row[i] for row in table)
        ratios = ((hit, said), (hit, true), (2 * hit, true + said))
        cells = [f"{a / b:.3f}" if b else "-" for a, b in ratios]
        shown = "".join(f"{cell:>9}" for cell in cells)
        print(f"  {name[:column]:{column}} {shown} {true:>9}")
    pairs = [(n, i, j) for i, row in enumerate(table) for j, n in enumerate(row) if n and i != j]
    for n, i, j in sorted(pairs, reverse=True)[:MAX_CONFUSIONS]:
        print(f"  {classes[i][:column]} taken for {classes[j][:column]}: {n}")
