"""Tags of spans: BIO (IOB2), IOB1, BIOES and BILOU are recognised, and become BIO.

    in_bio(["I-PER", "I-PER", "O", "S-LOC"])      # ["B-PER", "I-PER", "O", "B-LOC"]

In BIO a span begins with B-; in IOB1 only where it follows one of its own type; in BIOES it ends
with E-, and S- is a whole span (in BILOU L- and U-).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown

TAG = re.compile(r"O|[BIESLU]-.+")
MEANING = {"E": "I", "L": "I", "S": "B", "U": "B"}


def are_spans(tags: Iterable[str]) -> bool:
    """Whether tags mark spans: all are O or have a prefix, and one has."""
    found = {*tags}
    return any(tag != "O" for tag in found) and all(TAG.fullmatch(tag) for tag in found)


def spans_in(tags: Iterable[str]) -> bool | None:
    """`are_spans`; None: all are O, so that other tags must tell."""
    found = {*tags}
    return are_spans(found) if found - {"O"} else None


def in_bio(tags: Sequence[str]) -> list[str]:
    """The tags of one sentence as BIO. Raises `UserError` for a tag that marks no span."""
    out, before, ended = [], "O", False
    for tag in tags:
        if not TAG.fullmatch(tag):
            raise UserError(f"the tag {shown(tag)} has no B- or I- before its type; correct it")
        prefix, _, kind = tag.partition("-")
        meaning = MEANING.get(prefix, prefix)
        if meaning == "I" and (ended or before.partition("-")[2] != kind):
            meaning = "B"
        out.append(f"{meaning}-{kind}" if kind else "O")
        before, ended = out[-1], prefix in MEANING
    return out


def pairs_of(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(token, tag) of a sentence that is written as lines. Raises `UserError` for an empty one."""
    if not record["tokens"]:
        raise UserError("a sentence has no tokens, which lines cannot have; choose tokens")
    return list(zip(record["tokens"], record["tags"], strict=True))


def checked(tokens: Sequence[str], tags: Sequence[str], spans: bool) -> list[str]:
    """The tags, as BIO where they mark spans. Raises `UserError` where they cannot be."""
    if len(tokens) != len(tags):
        raise UserError(f"has {len(tokens)} tokens and {len(tags)} tags; correct the row")
    return in_bio(tags) if spans else list(tags)
