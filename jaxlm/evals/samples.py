"""Text that a model writes while it trains, from the prompts of `sample:`.

sampler = Sampler(session)
for prompt, text in sampler(params): ...
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from jaxlm.generate import Generator, Sampling, Writer, ends_of, ids_of
from jaxlm.training.session import Session


class Sampler:
    """Continues a run's prompts; the same step and seed write the same text."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.prompts = session.config.sample.prompts

    def __call__(self, params: dict[str, Any], **how: Any) -> list[tuple[str, str]]:
        """(prompt, text) of each prompt, written with these parameters.

        `how`: what `Generator.with_scores` calls on its way.
        """
        texts = self._writer(params, self.prompts, seed=self._session.config.seed, **how)
        return list(zip(self.prompts, texts, strict=True))

    @cached_property
    def _writer(self) -> Writer:
        """Made once, so that its program is compiled once."""
        sample = self._session.config.sample
        sampling = Sampling(
            max_tokens=sample.max_tokens,
            temperature=sample.temperature,
            top_k=sample.top_k,
            top_p=sample.top_p,
        )
        prepared = self._session.prepared
        tokenizer = prepared.tokenizer
        ends = ends_of(self._session.config.data, prepared.manifest, tokenizer)
        ids = ids_of(tokenizer, sample.eos_ids, ends=ends)
        return Writer(tokenizer, Generator(self._session.program, sampling, **ids), ends)
