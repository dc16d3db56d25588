"""What tests read in a compiled program."""

from __future__ import annotations

import re

COLLECTIVE = re.compile(r" (all-\w+|reduce-scatter|collective-permute)(-start)?\(")


def loop_bodies(text: str) -> list[str]:
    """The bodies of the program's own loops; XLA may make others, such as of a scatter."""
    names = re.findall(r' while\(.*body=(%[\w.-]+).*op_name="[^"]*/while"', text)
    return [re.search(rf"^{re.escape(name)} .*?^}}", text, re.M | re.S)[0] for name in names]  # type: ignore[index]
