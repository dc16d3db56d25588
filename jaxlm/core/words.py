"""The words of a text without a language's own rules, for models that count words.

    words_of("Don't look, 看山")       # ["don", "'", "t", "look", ",", "看", "山"]

A word is a run of letters and digits in lower case, or any other sign; a Chinese or Japanese
character is a word by itself.
"""

from __future__ import annotations

import re

ALONE = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{ALONE}]|[^\W_{ALONE}]+|[^\w\s]|_")


def words_of(text: str, *, lowercase: bool = True) -> list[str]:
    """The words of a text in order."""
    return WORD.findall(text.lower() if lowercase else text)
