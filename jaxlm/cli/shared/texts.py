"""Prints generated texts: each prompt with its continuation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO


def print_texts(prompts: Sequence[str], texts: Sequence[str], file: IO[str] | None = None) -> None:
    """On a terminal the prompt is highlighted; elsewhere the text is plain."""
    from rich.console import Console

    console = Console(file=file, highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        divided = f"\n{'-' * 40}\n".join(
            f"{prompt}{text}" for prompt, text in zip(prompts, texts, strict=True)
        )
        print(divided, file=file or sys.stdout)
        return
    from rich.rule import Rule
    from rich.text import Text

    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        if number:
            console.print(Rule(style="dim"))
        console.print(Text.assemble((prompt, "bold cyan"), text), soft_wrap=True)
