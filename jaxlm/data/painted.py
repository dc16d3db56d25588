"""Rows with the loss weight of each token, and what wrote it: a role, or the template; of a task
that learns a class or a span, with the column that each token is of.

    pieces = pieces_of(prepared, "train", row)
    print(*lines(pieces, segment=1, colour=True), sep="\n")

A piece is a run of tokens of one weight and one author. A line begins with + where its tokens are
trained. In a terminal these are green, bold for a weight of 1 or more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.store.prepared import Prepared

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Piece:
    """Tokens (texts) of one weight. author: "user", "template", ...; "": not known."""

    segment: int
    author: str
    weight: float
    tokens: tuple[str, ...]
    ids: tuple[int, ...]


def pieces_of(prepared: Prepared, split: str, row: Mapping[str, Any]) -> list[Piece]:
    """The tokens of a row, padding left out, in runs of equal weight and author; []: the task says
    nothing about them.
    """
    segments, ids, task = row["segment_ids"], row["tokens"], prepared.task
    known = row.get("loss_weights") if task is None else task.painted(row)
    weights = np.zeros(len(ids), np.float32) if known is None else np.asarray(known, np.float32)
    found: list[Piece] = []
    records = _records(prepared, split, int(row["id"]))
    for segment in range(1, int(segments.max(initial=0)) + 1):
        places = np.flatnonzero(segments == segment)
        record = records[segment - 1] if records else None
        authors = _authors(prepared, record, ids[places], len(ids))
        texts = texts_of(prepared.tokenizer, ids[places].tolist())
        own = weights[places].tolist()
        start = 0
        for i in range(1, len(places) + 1):
            if i == len(places) or (own[i], authors[i]) != (own[start], authors[start]):
                run = slice(start, i)
                chosen = tuple(ids[places[run]].tolist())
                found.append(Piece(segment, authors[start], own[start], tuple(texts[run]), chosen))
                start = i
    return [] if known is None and not any(piece.author for piece in found) else found


def _records(prepared: Prepared, split: str, identity: int) -> list[Any]:
    """The records of a row, in the order of its segments; []: its split cannot say."""
    records_of = getattr(prepared.splits[split], "records_of", None)
    return [] if records_of is None else records_of(identity)


def _authors(prepared: Prepared, record: Any, ids: np.ndarray, room: int) -> list[str]:
    """The authors of a record's tokens `ids`; "" each: its text is changed by augmentation."""
    task, tokenizer = prepared.task, prepared.tokenizer
    authors = None if task is None or record is None else task.authors(record, tokenizer, room)
    if task is None or authors is None:
        return [""] * len(ids)
    same = np.array_equal(task.encode(record, tokenizer, room)["tokens"][: len(ids)], ids)
    return list(authors[: len(ids)]) if same else [""] * len(ids)


def texts_of(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds; special ones, and the one of unknown words, by their names,
    tokens of parts of a character as bytes, and what is not the tokenizer's, such as a mask, as its
    id.
    """
    special = {i: name for name, i in tokenizer.special_tokens.items()}
    if tokenizer.unk_id is not None and not tokenizer.token_bytes[tokenizer.unk_id]:
        special.setdefault(tokenizer.unk_id, "<unk>")
    texts = []
    for i in ids:
        if i not in special and i >= len(tokenizer.token_bytes):
            texts.append(f"<{i}>")
            continue
        piece = b"" if i in special else tokenizer.token_bytes[i]
        try:
            texts.append(special[i] if i in special else piece.decode("utf-8"))
        except UnicodeDecodeError:
            texts.append("".join(f"<{byte:02X}>" for byte in piece))
    return texts


def share(pieces: Sequence[Piece]) -> float:
    """The share of the tokens that are trained, in [0, 1]."""
    total = sum(len(piece.ids) for piece in pieces)
    return sum(len(p.ids) for p in pieces if p.weight > 0) / max(total, 1)


def lines(pieces: Sequence[Piece], segment: int, colour: bool = False) -> list[str]:
    """The pieces of a segment, one a line; | is between tokens of more than one character."""
    shown = []
    width = max((len(piece.author) for piece in pieces), default=0)
    for piece in pieces:
        if piece.segment != segment:
            continue
        single = all(len(text) <= 1 for text in piece.tokens)
        text = repr(("" if single else "|").join(piece.tokens))
        mark = "+" if piece.weight > 0 else " "
        weight = f"{piece.weight:g}" if piece.weight > 0 else ""
        text = _coloured(text, piece.weight) if colour else text
        shown.append(f"  {mark} {weight:<4} {piece.author:<{max(width, 9)}} {text}".rstrip())
    return shown


def _coloured(text: str, weight: float) -> str:
    from rich.color import ColorSystem
    from rich.style import Style

    trained = "bold green" if weight >= 1 else "green"
    style = Style.parse(trained if weight > 0 else "dim")
    return style.render(text, color_system=ColorSystem.STANDARD)


def page(title: str, summary: str, rows: Sequence[tuple[str, Sequence[Piece]]]) -> str:
    """An HTML page of rows: (the line about a row, its pieces)."""
    from jaxlm.core.templates import environment

    pages = environment(TEMPLATES, autoescape=True)
    shown = [{"said": said, "pieces": pieces} for said, pieces in rows]
    return pages.get_template("painted.html").render(title=title, summary=summary, rows=shown)
