"""Text in, text out: prompts are encoded, a `Generator` continues them, and what is new is decoded.

writer = Writer(tokenizer, generator, ends)
texts = writer(params, ["Once upon a time"], seed=0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from jaxlm.core.evaluator import Compiling
from jaxlm.core.types import Tokenizer
from jaxlm.data.prompt_formats.base import Ends
from jaxlm.data.prompts import encode_prompt
from jaxlm.generate.generator import Generator


class Writer:
    """Text to text: what a generator's model writes after each prompt."""

    def __init__(self, tokenizer: Tokenizer, generator: Generator, ends: Ends):
        self.tokenizer, self.generator, self.ends = tokenizer, generator, ends

    def __call__(
        self,
        params: Any,
        prompts: Sequence[str],
        *,
        seed: int = 0,
        on_part: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[str]:
        """The new text of each prompt; options and errors are those of `Generator.with_scores`."""
        model = self.generator.program.model
        ids = [encode_prompt(self.tokenizer, text, model, self.ends) for text in prompts]
        size = self.tokenizer.vocab_size  # later ids, such as sentinels, add nothing to a text
        rows = self.generator(params, ids, seed=seed, on_part=on_part, compiling=compiling)
        return [self.tokenizer.decode([i for i in row if i < size]) for row in rows]
