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
        found = []
        for (prompt, written), own, each in zip(ids, rows, numbers, strict=True):
            begin = len(prompt)
            first = _pieces(tokenizer, prompt, each[:begin].tolist())
            rest = _pieces(tokenizer, written, each[begin : len(own)].tolist())
            found.append({"label": label, "prompt": len(first), "pieces": [*first, *rest]})
        return found

    @cached_property
    def _writer(self) -> Writer:
        """Made once, so that its program is compiled once."""
        return session_writer(self._session, self._session.config.sample.sampling)


def _pieces(tokenizer: Any, ids: list[int], numbers: list[int]) -> list[list[Any]]:
    """[text, number] of tokens; those of one character are a piece, with the last one's number.
    Special tokens have none.
    """
    special = {*tokenizer.special_tokens.values()}
    found: list[list[Any]] = []
    begun: list[tuple[int, int]] = []  # (id, number) of a character that is not whole yet

    def end() -> None:
        texts = texts_of(tokenizer, [i for i, _ in begun])
        found.extend([text, number] for text, (_, number) in zip(texts, begun, strict=True))
        begun.clear()

    for i, number in zip(ids, numbers, strict=True):
        if i in special:
            continue
        begun.append((i, number))
        text = b"".join(tokenizer.token_bytes[n] for n, _ in begun).decode("utf-8", "replace")
        if text and "\ufffd" not in text:
            found.append([text, number])
            begun.clear()
        elif not text or len(begun) == 4:  # a character has up to four bytes
            end()
    end()
    return found
