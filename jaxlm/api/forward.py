"""The model of a run applied to texts: logits, hidden states, perplexity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlm import mesh as meshes
from jaxlm.api.trained import Trained
from jaxlm.core.config import UserError
from jaxlm.data.prompts import encode_prompt


class Forward:
    """The forward passes of a run, each compiled once for each shape."""

    def __init__(self, run: Trained) -> None:
        self._run = run

    def logits(self, texts: Sequence[str] | Sequence[Sequence[int]]) -> np.ndarray:
        """Float32 logits [B, T, V] at each token of each text; rows are padded on the right.

        texts: texts, or lists of token ids.
        """
        tokens, lengths = self._rows(texts)
        return np.asarray(self._forward(tokens, lengths, None))

    def hidden(
        self, texts: Sequence[str] | Sequence[Sequence[int]], layer: int | None = None
    ) -> np.ndarray:
        """Hidden states [B, T, D] after a layer (0: the embedding), or after the final norm (None).

        Only a Transformer keeps the states of its layers.
        """
        tokens, lengths = self._rows(texts)
        states = self._forward(tokens, lengths, "final" if layer is None else layer)
        return np.asarray(states, dtype=np.float32)

    def perplexity(self, texts: Sequence[str] | Sequence[Sequence[int]]) -> list[float]:
        """exp of the mean negative log-likelihood of each text's tokens after its first."""
        tokens, lengths = self._rows(texts)
        if min(lengths) < 2:
            raise UserError("texts: one has less than two tokens, so none is predicted")
        found = self._forward(tokens, lengths, "next")[:, :-1]
        real = np.arange(tokens.shape[1] - 1)[None] < np.asarray(lengths)[:, None] - 1
        mean = np.where(real, np.asarray(found, np.float64), 0.0).sum(1) / real.sum(1)
        return [math.exp(-value) for value in mean]

    def _rows(self, texts: Sequence[Any]) -> tuple[np.ndarray, list[int]]:
        if isinstance(texts, str):
            raise UserError("texts: is one text; give a list of texts")
        if not texts:
            raise UserError("texts: is empty; give at least one")
        model = self._run.config.model
        if model.is_encoder_decoder:
            raise UserError(
                f"{self._run.path}: an encoder-decoder has logits for pairs of texts only"
            )
        rows = [
            encode_prompt(self._run.tokenizer, text, model, self._run.ends)
            if isinstance(text, str)
            else [int(i) for i in text]
            for text in texts
        ]
        if any(not row for row in rows):
            raise UserError("texts: one has no tokens; give some text")
        lengths = [len(row) for row in rows]
        limit = model.max_positions
        if limit is not None and max(lengths) > limit:
            raise UserError(
                f"texts: {max(lengths)} tokens pass the model's {limit} positions; shorten them"
            )
        multiple = meshes.batch_parts(self._run.program.mesh)
        tokens = np.zeros((len(rows) + -len(rows) % multiple, max(lengths)), np.int32)
        for n, row in enumerate(rows):
            tokens[n, : len(row)] = row
        return tokens[: len(rows)], lengths

    def _forward(self, tokens: np.ndarray, lengths: Sequence[int], want: Any) -> jax.Array:
        """Logits (None), log p of the next token ("next"), final hidden states ("final"), or the
        states after a layer (int).
        """
        count = len(tokens)
        extra = -count % meshes.batch_parts(self._run.program.mesh)
        tokens = np.concatenate([tokens, np.zeros((extra, tokens.shape[1]), np.int32)])
        places = np.arange(tokens.shape[1], dtype=np.int32)
        real = places[None] < np.asarray([*lengths, *[0] * extra])[:, None]
        batch: Mapping[str, np.ndarray] = {
            "tokens": tokens,
            "positions": np.broadcast_to(places, tokens.shape).copy(),
            "segment_ids": real.astype(np.int32),
        }
        with jax.set_mesh(self._run.program.mesh):
            return self._compiled(want)(
                self._run.params, meshes.to_global_whole(batch, self._run.program.mesh)
            )[:count]

    def _compiled(self, want: Any) -> Any:
        if want not in self._functions:
            graphdef = self._run.program.graphdef

            def forward(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
                model = nnx.merge(graphdef, params)
                if want is None:
                    return model.logits(model(**batch).hidden)
                if want == "next":
                    targets = jnp.roll(batch["tokens"], -1, axis=1)
                    return -model.token_loss(model(**batch).hidden, targets).nll
                if want == "final":
                    return model(**batch).hidden
                return model(**batch, with_states=True).states[want]

            whole = meshes.replicated(self._run.program.mesh)
            self._functions[want] = jax.jit(forward, out_shardings=whole)
        return self._functions[want]

    @cached_property
    def _functions(self) -> dict[Any, Any]:
        return {}
