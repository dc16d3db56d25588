"""The properties of a model's own texts: their likelihood under it, and their variety.

    evaluators:
      written: {type: generation, every_steps: 500, texts: 16}

Texts are written as `sample:` says, after its prompts in turn, with the run's seed:

    perplexity    exp of the mean, over the texts, of -log p per token, p of the model itself
    distinct_1    different words / all words of the texts (Li et al. 2016, arXiv:1510.03055)
    distinct_2    the same of pairs of words that follow each other in a text

Low perplexity with low distinct-n is a model that repeats itself. A Chinese or Japanese character
is a word.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxlm.core.config import UserError, field
from jaxlm.core.evaluator import Compiling, Evaluator
from jaxlm.core.measures import Measure
from jaxlm.evals.written import session_writer
from jaxlm.generate import Writer
from jaxlm.training.session import Session

PERPLEXITY = Measure("perplexity", better="lower", format=".2f")
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # kana and Chinese characters
WORDS = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class Generation(Evaluator):
    """Perplexity and distinct-1 and -2 of texts that the model writes."""

    prompts: tuple[str, ...] = field((), "texts to continue; empty: those of sample.prompts")
    texts: int = field(16, "texts that are written", ge=1)

    def prepare(self, session: Session) -> WrittenTexts:
        config = session.config
        if why := config.objective.why_silent(config.model):
            raise UserError(f"type: generation measures what a model writes, and this one {why}")
        return WrittenTexts(self, session)


class WrittenTexts:
    """The measures of a model's texts, at any parameters."""

    def __init__(self, config: Generation, session: Session) -> None:
        self._session = session
        own = config.prompts or session.config.sample.prompts or ("",)
        self.prompts = list(itertools.islice(itertools.cycle(own), config.texts))

    def after(
        self,
        params: Any,
        counts: Sequence[int | None],
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[list[Measure]]:
        """As `jaxlm.core.evaluator.Measuring`; the same texts for each of `counts`."""
        seed = self._session.config.seed
        found = self._writer.with_scores(
            params, self.prompts, seed=seed, on_part=on_batch, compiling=compiling
        )
        mean = sum(written.score for written in found) / len(found)
        texts = [written.text for written in found]
        measures = [
            PERPLEXITY.of(math.exp(min(-mean, 700.0))),
            *(
                Measure(f"distinct_{n}", distinct(texts, n), better="higher", label=f"distinct-{n}")
                for n in (1, 2)
            ),
        ]
        return [measures for _ in counts]

    def extent(self, count: int | None) -> None:
        return None

    @cached_property
    def _writer(self) -> Writer:
        """Made once, so that its program is compiled once. Scores are means over tokens."""
        sampling = self._session.config.sample.sampling.replace(length_penalty=1.0)
        return session_writer(self._session, sampling)


def distinct(texts: Sequence[str], size: int) -> float:
    """Different n-grams of words / all n-grams, of all texts together; 0 without any."""
    found = [gram for text in texts for gram in _grams(WORDS.findall(text), size)]
    return len({*found}) / max(len(found), 1)


def _grams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[n : n + size]) for n in range(len(words) - size + 1)]
