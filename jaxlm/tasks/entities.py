"""Entities in a sequence of tags, and their F1, by the definitions of seqeval 1.2.2.

    entities(["B-PER", "I-PER", "O", "B-LOC"])     # [("PER", 0, 1), ("LOC", 3, 3)]

`entities` is conlleval's reading (Tjong Kim Sang and Buchholz 2000): an I that continues nothing
begins an entity, and B, S and another type begin one. `strict_entities` takes what a scheme allows
alone: in IOB2 B I*, in IOBES B I* E or S. A tag without a type ("B") is of type "_".

    precision = right / said, recall = right / asked, F1 = 2 P R / (P + R)        over all entities
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

Entity = tuple[str, int, int]  # type, the places of its first and final word
OUT = "O"
PREFIXES = frozenset("BIESLU")
LAST = "ELSU"  # E and S of IOBES are L and U of BILOU


class Scores(NamedTuple):
    """Precision, recall and F1, in [0, 1]."""

    precision: float
    recall: float
    f1: float


def is_of_entities(tags: Iterable[str]) -> bool:
    """Whether tags are those of entities: O, and types with the prefixes of BIO or IOBES."""
    found = {*tags}
    return len(found) > 1 and all(
        tag == OUT or (tag[:1] in PREFIXES and tag[1:2] in ("", "-")) for tag in found
    )


def split(tag: str) -> tuple[str, str]:
    """(prefix, type) of a tag: "B-PER" is B of PER, and "O" is O of "_"."""
    return tag[:1], tag[1:].removeprefix("-") or "_"


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities as conlleval reads them."""
    found: list[Entity] = []
    begin, before, kind_before = 0, OUT, "_"
    for i, tag in enumerate([*tags, OUT]):
        prefix, kind = split(tag)
        other = kind != kind_before
        if before != OUT and (before in LAST or prefix in "OBSU" or other):
            found.append((kind_before, begin, i - 1))
        if prefix != OUT and (prefix in "BSU" or before in "O" + LAST or other):
            begin = i
        before, kind_before = prefix, kind
    return found


def kept_together(tags: Sequence[str]) -> list[tuple[int, int]]:
    """(first word, last + 1) of the spans that stay as they are where other words change: entities,
    and the word before one that does not begin with B, S or U, which divides it from another.
    """
    return [
        (first - (tags[first][:1] not in "BSU" and first > 0), last + 1)
        for _, first, last in entities(tags)
    ]


def strict_entities(tags: Sequence[str], ends: bool = False) -> list[Entity]:
    """The entities that IOB2 allows, or with `ends` IOBES."""
    found: list[Entity] = []
    i = 0
    while i < len(tags):
        prefix, kind = split(tags[i])
        begin, i = i, i + 1
        if ends and prefix in ("S", "U"):
            found.append((kind, begin, begin))
        if prefix != "B":
            continue
        while i < len(tags) and split(tags[i]) == ("I", kind):
            i += 1
        if not ends:
            found.append((kind, begin, i - 1))
        elif i < len(tags) and split(tags[i]) in (("E", kind), ("L", kind)):
            found.append((kind, begin, i))
            i += 1
    return found


def entity_scores(
    said: Sequence[Sequence[str]], true: Sequence[Sequence[str]], *, strict: bool = False
) -> Scores:
    """The scores of predicted tags, a list a sentence. An entity is right where its type, its first
    and its final word are; a share of nothing is 0.

    strict: as `strict_entities`, with the rules of IOBES where the true tags have an E or S.
    """
    ends = any(tag[:1] in LAST for tags in true for tag in tags)
    right = found = asked = 0
    for guess, tags in zip(said, true, strict=True):
        both = (strict_entities(t, ends) if strict else entities(t) for t in (guess, tags))
        ours, theirs = map(set, both)
        right, found, asked = right + len(ours & theirs), found + len(ours), asked + len(theirs)
    precision, recall = right / max(found, 1), right / max(asked, 1)
    return Scores(precision, recall, 2 * precision * recall / max(precision + recall, 1e-12))
