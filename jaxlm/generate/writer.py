"""Text in, text out: prompts are encoded, a `Generator` continues them, and what is new is decoded.

writer = Writer(tokenizer, generator, ends)
texts = writer(params, ["Once upon a time"], seed=0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from jaxlm.core.evaluator import Compiling
from jaxlm.core.types import Tokenizer
from jaxlm.data.prompt_formats.base import Ends
from jaxlm.data.prompts import encode_prompt
from jaxlm.generate.generator import Generator


class Text(NamedTuple):
    """What was written after a prompt."""

    text: str
    score: float  # as of `Generator.with_scores`
    ended: bool  # by an end of text or a stop, not by `max_tokens`


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
        found = self.with_scores(params, prompts, seed=seed, on_part=on_part, compiling=compiling)
        return [written.text for written in found]

    def with_scores(
        self,
        params: Any,
        prompts: Sequence[str],
        *,
        seed: int = 0,
        on_part: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[Text]:
        """The new text of each prompt, with its score."""
        ids = [self._ids(text) for text in prompts]
        return self.continued(params, ids, seed=seed, on_part=on_part, compiling=compiling)

    def continued(
        self,
        params: Any,
        prompts: Sequence[Sequence[int]],
        *,
        seed: int = 0,
        on_part: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[Text]:
        """The new text of each prompt that is encoded, with its score."""
        generator, size = self.generator, self.tokenizer.vocab_size
        rows = generator.with_scores(
            params, prompts, seed=seed, on_part=on_part, compiling=compiling
        )
        stop, found = generator.sampling.stop, []
        for row, score in rows:
            own = generator.until_end(row)
            # later ids, such as sentinels, add nothing to a text
            text = self.tokenizer.decode([i for i in own if i < size])
            kept = _before(text, stop)
            found.append(Text(kept, score, len(own) < len(row) or len(kept) < len(text)))
        return found

    def _ids(self, text: str) -> list[int]:
        return encode_prompt(self.tokenizer, text, self.generator.program.model, self.ends)


def _before(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of `stops` that it has."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
