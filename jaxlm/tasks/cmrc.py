"""Exact match and F1 of a Chinese answer, by the definitions of CMRC 2018's evaluation script.

Lower case, without spaces and punctuation. Each Chinese character is a unit, and so is each word of
another script; F1 is of the longest run of units that both texts have (Cui et al. 2019):

    precision = run / units of the prediction, recall = run / units of the answer

Words of other scripts are divided by spaces, where the script uses NLTK's rules.
"""

from __future__ import annotations

import re

_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》…·、「」（）－～『』")
_UNITS = re.compile("[\u4e00-\u9fa5]|[^\\s\u4e00-\u9fa5]+")


def units(text: str) -> list[str]:
    """The characters and words that are compared."""
    return _UNITS.findall("".join(c for c in text.lower() if c not in _PUNCTUATION))


def exact_match(said: str, answer: str) -> float:
    """1 where the texts are equal without punctuation, else 0."""
    plain = ("".join(c for c in t.lower().strip() if c not in _PUNCTUATION) for t in (said, answer))
    return float(len({*plain}) == 1)


def f1(said: str, answer: str) -> float:
    """F1 of the longest common run of units, in [0, 1]."""
    ours, theirs = units(said), units(answer)
    if not ours or not theirs:
        return float(len(ours) == len(theirs))
    longest, before = 0, [0] * (len(theirs) + 1)
    for unit in ours:
        row = [0]
        for j, other in enumerate(theirs):
            row.append(before[j] + 1 if unit == other else 0)
        longest, before = max(longest, *row), row
    return 2 * longest / (len(ours) + len(theirs))
