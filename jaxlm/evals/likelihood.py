"""Log-likelihoods of continuations under a causal language model.

    likelihood = Likelihood(program, params)
    likelihood([([1, 17, 9], [4, 5])])      # [Scored(logprob=-3.2, greedy=False)]

    log p(continuation | context) = sum over its tokens of log p(token | all before it)

Requests are sorted by their length and padded on the right to a power of two, as many rows to a
batch as BATCH_TOKENS has room for: one program is compiled for each power of two. A pair that is
longer than the model's positions loses the beginning of its context (`is_cut`), and a continuation
that is longer is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlm import mesh as meshes
from jaxlm.core.config import UserError
from jaxlm.training.program import Program

BATCH_TOKENS = 4096  # of a batch on one device
SHORTEST = 16

Pair = tuple[Sequence[int], Sequence[int]]  # ids of the context, at least one; of the continuation


class Scored(NamedTuple):
    """A continuation: its log-likelihood, and whether each token is the likeliest one."""

    logprob: float
    greedy: bool


class Likelihood:
    """Scores continuations; compiled once for each power of two of their length."""

    def __init__(self, program: Program, params: Any) -> None:
        """Raises `UserError` for a model that is not a causal language model."""
        model = program.model
        why = program.objective.why_silent(model)
        if why or model.is_encoder_decoder:
            why = why or "has a model that reads a source and a target"
            raise UserError(f"objective: {why}; log-likelihoods need a causal_lm run")
        self._program, self._params = program, params
        self.longest = model.max_positions  # tokens of a pair; None: any number

    def __call__(
        self, pairs: Sequence[Pair], on_batch: Callable[[], object] = lambda: None
    ) -> list[Scored]:
        """The score of each pair, in order; that of an empty continuation is (0, true). Raises
        `UserError` for a continuation that the model has no positions for.
        """
        rows = [self._cut(*pair) for pair in pairs]
        found = {n: Scored(0.0, True) for n, (_, count) in enumerate(rows) if count == 0}
        order = sorted(range(len(rows)), key=lambda n: -len(rows[n][0]))
        order = [n for n in order if n not in found]
        while order:
            length = self._bucket(len(rows[order[0]][0]) - 1)
            size = self._rows(length)
            chosen, order = order[:size], order[size:]
            scores = self._score([rows[n] for n in chosen], length, size)
            found.update(zip(chosen, scores, strict=True))
            on_batch()
        return [found[n] for n in range(len(rows))]

    def is_cut(self, pair: Pair) -> bool:
        """Whether the context loses its beginning: the model has no positions for all of it."""
        return self.longest is not None and sum(map(len, pair)) > self.longest + 1

    def _cut(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[list[int], int]:
        """The ids that are read, and how many of them are scored."""
        assert len(context) > 0, "the first token of a text has no log-likelihood"
        ids = [*context, *continuation]
        if self.longest is not None:
            if len(continuation) > self.longest:
                raise UserError(
                    f"a continuation has {len(continuation)} tokens but the model has "
                    f"{self.longest} positions; give a shorter one"
                )
            ids = ids[-(self.longest + 1) :]  # the last one is not read
        return ids, len(continuation)

    def _bucket(self, length: int) -> int:
        size = max(SHORTEST, 1 << (length - 1).bit_length())
        return size if self.longest is None else max(length, min(size, self.longest))

    def _rows(self, length: int) -> int:
        parts = meshes.batch_parts(self._program.mesh)
        return parts * max(1, BATCH_TOKENS // length)

    def _score(self, rows: Sequence[tuple[list[int], int]], length: int, size: int) -> list[Scored]:
        tokens = np.zeros((size, length + 1), np.int32)
        segments = np.zeros((size, length), np.int32)
        weights = np.zeros((size, length), np.float32)
        for n, (ids, count) in enumerate(rows):
            tokens[n, : len(ids)] = ids
            segments[n, : len(ids) - 1] = 1
            weights[n, len(ids) - 1 - count : len(ids) - 1] = 1
        batch = {
            "tokens": tokens[:, :-1],
            "positions": np.broadcast_to(np.arange(length, dtype=np.int32), segments.shape).copy(),
            "segment_ids": segments,
            "targets": tokens[:, 1:].copy(),
            "weights": weights,
        }
        mesh = self._program.mesh
        with jax.set_mesh(mesh):
            found = self._step(self._params, meshes.to_global_whole(batch, mesh))
        logprobs, greedy = (np.asarray(x)[: len(rows)].tolist() for x in found)
        return [Scored(*each) for each in zip(logprobs, greedy, strict=True)]

    @cached_property
    def _step(self) -> Any:
        graphdef = self._program.graphdef

        def step(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            model = nnx.merge(graphdef, params)
            targets, weights = batch.pop("targets"), batch.pop("weights")
            token, real = model.token_loss(model(**batch).hidden, targets), weights > 0
            logprobs = jnp.where(real, -token.nll, 0).sum(-1)
            return logprobs, ((token.correct > 0) | ~real).all(-1)

        return jax.jit(step, out_shardings=meshes.replicated(self._program.mesh))


def split_ids(tokenizer: Any, context: str, continuation: str, bos: bool) -> Pair:
    """The ids of a context and of its continuation, which are tokenised as one text.

    A token with characters of both belongs to the continuation. bos: the text begins with the
    tokenizer's bos, where it has one; without a context it does in any case, or with its eos.
    """
    try:
        ids, spans = tokenizer.encode_with_offsets(context + continuation)
        first = next((n for n, (_, end) in enumerate(spans) if end > len(context)), len(ids))
    except UserError:  # a tokenizer that changes the text, so that its tokens have no place in it
        ids, first = tokenizer.encode(context + continuation), len(tokenizer.encode(context))
    before = [*ids[:first]]
    if tokenizer.bos_id is not None and (bos or not before):
        before = [tokenizer.bos_id, *before]
    if not before:
        if tokenizer.eos_id is None:
            raise UserError("context: has no tokens, and texts do not begin with a start token")
        before = [tokenizer.eos_id]
    return before, ids[first:]
