"""The chat template that fits a tokenizer: one whose special tokens it has.

fitting(tokenizer)    # "chatml" where <|im_start|> and <|im_end|> are tokens; "plain" fits all
"""

from __future__ import annotations

import re
from typing import Any

from jaxlm.chat.template import named, names

# How the templates write special tokens: <|im_start|>, <start_of_turn>, [INST], <sop>.
_SPECIAL = re.compile(r"<\|\w+\|>|<(?:start|end)_of_turn>|\[/?[A-Za-z]*[A-Z]\]|<sop>")


def fitting(tokenizer: Any) -> str:
    """The name of the template with the most special tokens, all of which the tokenizer has."""
    return min(names(), key=lambda name: (-_shared(name, tokenizer), name != "plain", name))


def _shared(name: str, tokenizer: Any) -> int:
    """The number of special tokens of a template; 0 where the tokenizer lacks one."""
    own = set(_SPECIAL.findall(named(name).source))
    known = all(t in tokenizer.special_tokens or tokenizer.id_of(t) is not None for t in own)
    return len(own) if known else 0
