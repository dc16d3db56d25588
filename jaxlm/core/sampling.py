"""The options of generating text, as a config: what `sample:` of a run, `Run.generate` and the
command line share.

    Sampling(max_tokens=64, temperature=0.7, top_p=0.9, repetition_penalty=1.1, stop=("\\n\\n",))

The names are transformers', vLLM's and OpenAI's. The logits of a next token go through the
penalties first, in the order of the fields, and then, where a token is drawn, through temperature,
top-k, top-p and min-p. A default is off, and adds nothing to the compiled program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from jaxlm.core.config import Config, UserError, field


@dataclass(frozen=True, kw_only=True)
class Sampling(Config):
    """Settings for writing texts: token by token, greedily at temperature 0 or drawn from the cut
    distribution, or searched for with several beams, which draws nothing."""

    max_tokens: int = field(128, "tokens written after each prompt", ge=1)
    temperature: float = field(0.8, "0 is greedy; higher is more varied", ge=0)
    top_k: int | None = field(None, "sample from the k likeliest tokens", ge=1)
    top_p: float | None = field(
        None, "sample from the likeliest tokens of this total probability", gt=0, le=1
    )
    min_p: float | None = field(
        None, "sample from the tokens of at least this share of the likeliest's", gt=0, le=1
    )
    repetition_penalty: float = field(
        1.0, "divides the positive logits of tokens of the prompt and the text; 1: off", gt=0
    )
    no_repeat_ngram_size: int = field(
        0, "no n tokens in a row come twice in the prompt and the text; 0: off", ge=0
    )
    min_tokens: int = field(0, "tokens before a text may end by an end-of-text id", ge=0)
    presence_penalty: float = field(0.0, "taken from the logits of tokens of the new text")
    frequency_penalty: float = field(
        0.0, "taken from a token's logit for each time that the new text has it"
    )
    stop: tuple[str, ...] = field((), "a text ends before the first of these that it has")
    num_beams: int = field(1, "beam search with so many beams, without sampling; 1: none", ge=1)
    length_penalty: float = field(1.0, "with beams: above 1 favours long texts, below 1 short ones")

    @property
    def sampling(self) -> Sampling:
        """These options alone, of a config that has more."""
        return Sampling(**{s.name: getattr(self, s.name) for s in dataclasses.fields(Sampling)})

    def validate(self) -> None:
        if self.min_tokens > self.max_tokens:
            raise UserError(
                f"min_tokens: {self.min_tokens} is more than max_tokens {self.max_tokens}; lower it"
            )
        if "" in self.stop:
            raise UserError("stop: has an empty text, which every text has; remove it")


class SamplingOptions(TypedDict, total=False):
    """Some options of `Sampling`, by name; a test compares the two."""

    max_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    no_repeat_ngram_size: int
    min_tokens: int
    presence_penalty: float
    frequency_penalty: float
    stop: Sequence[str]
    num_beams: int
    length_penalty: float


DRAWING = ("temperature", "top_k", "top_p", "min_p")  # what a beam search does not use
