"""Text in, text out: prompts are encoded, a `Generator` continues them, and what is new is decoded.

writer = Writer(tokenizer, generator, ends)
texts = writer(params, ["Once upon a time"], seed=0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from jaxlm.core.evaluator import Compiling
from jaxlm.core.types import Tokenizer
from jaxlm.data.prompt_formats.base import Ends
from jaxlm.data.prompts import encode_prompt
from jaxlm.generate.generator import Generator, OnIds, Wanted


class Text(NamedTuple):
    """The text written after a prompt."""

    text: str
    score: float  # as of `Generator.with_scores`
    ended: bool  # by an end of text or a stop, not by `max_tokens`
    ids: Sequence[int] = ()  # the tokens of the text


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
        wanted: Wanted | None = None,
        compiling: Compiling = nullcontext,
    ) -> list[Text]:
        """The new text of each prompt, with its score."""
        ids = [self.encoded(text) for text in prompts]
        return self.continued(
            params, ids, seed=seed, on_part=on_part, wanted=wanted, compiling=compiling
        )

    def streamed(
        self,
        params: Any,
        prompts: Sequence[str],
        on_text: Callable[[int, str], object],
        *,
        seed: int = 0,
    ) -> list[Text]:
        """As `with_scores`; `on_text` gets (number of a prompt, what is new of its text) while it
        is written. These pieces together are the text.
        """
        sent, stops = [""] * len(prompts), self.generator.sampling.stop
        grows = self.tokenizer.grows

        def send(number: int, text: str) -> None:
            if len(text) > len(sent[number]):
                on_text(number, text[len(sent[number]) :])
                sent[number] = text

        def on_ids(ids: np.ndarray) -> None:
            for number in range(len(prompts)):
                text, ended = self._text(ids[number])
                send(number, text if ended else _certain(text, stops, grows))

        encoded = [self.encoded(text) for text in prompts]
        found = self.continued(params, encoded, seed=seed, on_ids=on_ids)
        for number, written in enumerate(found):
            send(number, written.text)
        return found

    def check(self, prompts: Sequence[str]) -> None:
        """Raises the `UserError` that writing after one of these prompts would raise."""
        self.generator.check([self.encoded(text) for text in prompts])

    def continued(
        self,
        params: Any,
        prompts: Sequence[Sequence[int]],
        *,
        seed: int = 0,
        on_part: Callable[[], object] = lambda: None,
        on_ids: OnIds | None = None,
        wanted: Wanted | None = None,
        compiling: Compiling = nullcontext,
    ) -> list[Text]:
        """The new text of each prompt that is encoded, with its score."""
        rows = self.generator.with_scores(
            params,
            prompts,
            seed=seed,
            on_part=on_part,
            on_ids=on_ids,
            wanted=wanted,
            compiling=compiling,
        )
        found = []
        for row, score in rows:
            text, ended = self._text(row)
            found.append(Text(text, score, ended, self._own(row, text)))
        return found

    def _text(self, row: np.ndarray) -> tuple[str, bool]:
        """The text of new ids, and whether it ends among them."""
        own, size = self.generator.until_end(row), self.tokenizer.vocab_size
        # later ids, such as sentinels, add nothing to a text
        text = self.tokenizer.decode([i for i in own if i < size])
        kept = _before(text, self.generator.sampling.stop)
        return kept, len(own) < len(row) or len(kept) < len(text)

    def _own(self, row: np.ndarray, text: str) -> list[int]:
        """The ids of a text that was written: those of its row, or where a stop cut it, its own."""
        size = self.tokenizer.vocab_size
        own = [int(i) for i in self.generator.until_end(row) if i < size]
        return own if self.tokenizer.decode(own) == text else self.tokenizer.encode(text)

    def encoded(self, text: str) -> list[int]:
        """The ids of a prompt."""
        return encode_prompt(self.tokenizer, text, self.generator.program.model, self.ends)


def _before(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of `stops` that it has."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def _certain(text: str, stops: Sequence[str], grows: bool) -> str:
    """The text without its end, where more tokens may change that: a character whose bytes are not
    all there, the beginning of one of `stops`, or a word, of a tokenizer that is not one that
    `grows`.
    """
    text = text.rstrip("\ufffd") if grows else text[: max(0, text.rfind(" "))]
    begun = (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n]))
    return text[: len(text) - max(begun, default=0)]
