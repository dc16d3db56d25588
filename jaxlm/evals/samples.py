"""Text that a model writes while it trains, from the prompts of `sample:`.

sampler = Sampler(session)
for sample in sampler(params):
    print(sample.prompt + sample.text)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxlm import mesh as meshes
from jaxlm.core.evaluator import Compiling
from jaxlm.data.painted import texts_of
from jaxlm.evals.written import session_writer
from jaxlm.generate import Writer
from jaxlm.training.session import Session


class Sample(NamedTuple):
    """A text that a model wrote after a prompt."""

    prompt: str
    text: str
    # {"label": what the numbers are, "prompt": how many pieces are the prompt's, "pieces":
    # [[text of a token, number], ...]}, of an objective that marks texts
    marks: dict[str, Any] | None = None


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
    ) -> list[Sample]:
        """The text after each prompt, written with these parameters.

        The options are those of `Generator.with_scores`.
        """
        seed, prompts = self._session.config.seed, self.prompts
        texts = self._writer.with_scores(
            params, prompts, seed=seed, on_part=on_part, compiling=compiling
        )
        samples = [Sample(p, written.text) for p, written in zip(prompts, texts, strict=True)]
        if not self._session.config.objective.marked_by:
            return samples
        ids = [
            (self._writer.encoded(prompt), [*written.ids])
            for prompt, written in zip(prompts, texts, strict=True)
        ]
        with compiling():
            found = self._marked(params, ids)
        return [s._replace(marks=marks) for s, marks in zip(samples, found, strict=True)]

    def _marked(
        self, params: dict[str, Any], ids: list[tuple[list[int], list[int]]]
    ) -> list[dict[str, Any]]:
        """The marks of each text, of the ids of its prompt and of what was written."""
        session, program = self._session, self._session.program
        rows = [[*prompt, *written] for prompt, written in ids]
        tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
        for row, own in zip(tokens, rows, strict=True):
            row[: len(own)] = own

        def marks(params: Any, tokens: jax.Array) -> jax.Array:
            return program.objective.marks(nnx.merge(program.graphdef, params), tokens)

        whole = meshes.replicated(program.mesh)
        numbers = np.asarray(jax.device_get(jax.jit(marks, out_shardings=whole)(params, tokens)))
        tokenizer, label = session.prepared.tokenizer, session.config.objective.marked_by
        special = {*tokenizer.special_tokens.values()}
        found = []
        for (prompt, _), own, each in zip(ids, rows, numbers, strict=True):
            shown = [i not in special for i in own]
            pairs = zip(texts_of(tokenizer, own), each.tolist(), shown, strict=False)
            pieces = [[text, number] for text, number, kept in pairs if kept]
            found.append({"label": label, "prompt": sum(shown[: len(prompt)]), "pieces": pieces})
        return found

    @cached_property
    def _writer(self) -> Writer:
        """Made once, so that its program is compiled once."""
        return session_writer(self._session, self._session.config.sample.sampling)
