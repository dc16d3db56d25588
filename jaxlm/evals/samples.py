"""Text that a model writes while it trains, from the prompts of `sample:`.

sampler = Sampler(session)
for prompt, text in sampler(params): ...
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from typing import Any

from jaxlm.core.evaluator import Compiling
from jaxlm.evals.written import session_writer
from jaxlm.generate import Writer
from jaxlm.training.session import Session


class Sampler:
    """Continues a run's prompts; the same step and seed write the same text."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.prompts = session.config.sample.prompts

    def __call__(
        self,
        params: dict[str, Any],
        *,
        on_part: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[tuple[str, str]]:
        """(prompt, text) of each prompt, written with these parameters.

        The options are those of `Generator.with_scores`.
        """
        seed = self._session.config.seed
        texts = self._writer(params, self.prompts, seed=seed, on_part=on_part, compiling=compiling)
        return list(zip(self.prompts, texts, strict=True))

    @cached_property
    def _writer(self) -> Writer:
        """Made once, so that its program is compiled once."""
        return session_writer(self._session, self._session.config.sample.sampling)
