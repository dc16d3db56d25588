"""The actual contents of the rows: decoded segment by segment, with the share of padding.

print(inspect(prepared, "train", rows=2))

train: 37 documents, 1,402,000 tokens, 5,477 rows of 257, 0.01% padding
row 0, id 4711: 257 tokens, 2 segments, 0 padding
  segment 1, 180 tokens, positions 512..691: "...end of one play"
  segment 2, 77 tokens, positions 0..76: "beginning of the next..."

Where the texts of a split are augmented, each row is shown as it was before as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.data.painted import lines as piece_lines
from jaxlm.data.painted import page, pieces_of, share
from jaxlm.data.rows.order import Row
from jaxlm.data.store.prepared import Prepared

MAX_CHARS = 400  # of a segment's text that are shown


def inspect(
    prepared: Prepared,
    split: str = "train",
    *,
    rows: int = 4,
    seed: int = 0,
    batch_size: int = 1,
    start: int = 0,
    colour: bool = False,
) -> str:
    """Rows start .. start + rows - 1 of a split as text for a terminal, in the order that training
    draws them. Where a row has loss weights, each of its tokens is shown with its own; and with its
    author, or the column that it is of, where the task knows them.
    """
    dataset = prepared.rows(split, batch_size=batch_size, seed=seed)
    lines = [f"{split}: {_summary(prepared.splits[split].counts)}"]
    shown = getattr(prepared.splits[split], "shown", None)  # of rows that are not of tokens
    for index in range(start, start + rows):
        row = dataset[index]
        if shown is not None:
            lines += shown(index, row, prepared.tokenizer)
        else:
            lines += _row_lines(index, row, prepared, split, colour)
    return "\n".join(lines)


def inspected_page(
    prepared: Prepared, split: str, *, rows: int = 4, seed: int = 0, batch_size: int = 1
) -> str:
    """The rows as an HTML page. Raises `UserError` for rows of whose tokens nothing is known but
    their ids.
    """
    if prepared.task is None and "loss_weights" not in prepared.row_spec:
        raise UserError(
            "--html: shows the loss weights of tokens, and these rows have none; leave it out"
        )
    dataset = prepared.rows(split, batch_size=batch_size, seed=seed)
    shown = []
    for index in range(rows):
        row = dataset[index]
        pieces = pieces_of(prepared, split, row)
        said = f"; {share(pieces):.1%} of its tokens are trained" if "loss_weights" in row else ""
        shown.append((_row_line(index, row, prepared) + said, pieces))
    return page(f"Rows of {split}", _summary(prepared.splits[split].counts), shown)


def segments(row: Row) -> list[dict[str, Any]]:
    """The segments of a row, padding left out: {"segment", "tokens" (ids), "positions" (first,
    last)}.
    """
    ids = row["segment_ids"]
    found = []
    for segment in np.unique(ids[ids > 0]):
        places = np.flatnonzero(ids == segment)
        positions = row["positions"][places]
        found.append(
            {
                "segment": int(segment),
                "tokens": row["tokens"][places].tolist(),
                "positions": (int(positions[0]), int(positions[-1])),
            }
        )
    return found


def _row_line(index: int, row: Row, prepared: Prepared) -> str:
    padding = int((row["segment_ids"] == 0).sum())
    size = len(row["tokens"])
    parts = segments(row)
    said = prepared.task.show(row) if prepared.task is not None else ""
    return (
        f"row {index}, id {int(row['id'])}: {size} tokens, {len(parts)} segments, "
        f"{padding} padding ({padding / size:.1%}){', ' if said else ''}{said}"
    )


def _row_lines(index: int, row: Row, prepared: Prepared, split: str, colour: bool) -> list[str]:
    lines = [_row_line(index, row, prepared)]
    painted = pieces_of(prepared, split, row)
    if "loss_weights" in row:
        lines[0] += f", {share(painted):.1%} trained"
    unchanged = getattr(prepared.splits[split], "unchanged", None)
    before = None if unchanged is None else unchanged(int(row["id"]))
    if before is not None and not np.array_equal(before["tokens"], row["tokens"]):
        lines += [f"  before augmentation: {_text(part, prepared)!r}" for part in segments(before)]
    for part in segments(row):
        text = _text(part, prepared)
        first, last = part["positions"]
        size = len(part["tokens"])
        lines.append(
            f"  segment {part['segment']}, {size} tokens, positions {first}..{last}: {text!r}"
        )
        lines += piece_lines(painted, part["segment"], colour)
    return lines


def _text(part: dict[str, Any], prepared: Prepared) -> str:
    """The text of a segment, the middle of a long one left out, and ids such as a mask's, which
    are not the tokenizer's.
    """
    tokenizer = prepared.tokenizer
    text = tokenizer.decode([i for i in part["tokens"] if i < tokenizer.vocab_size])
    if len(text) > MAX_CHARS:
        text = f"{text[: MAX_CHARS // 2]} ... {text[-MAX_CHARS // 2 :]}"
    return text


def _summary(counts: dict[str, Any]) -> str:
    words = []
    for key, value in counts.items():
        if key == "padding":
            words.append(f"{value:.2%} padding")
        elif isinstance(value, dict):
            words.append(f"{key} " + " ".join(f"{k}={v:,}" for k, v in value.items()))
        else:
            words.append(f"{value:,} {key}")
    return ", ".join(words)
