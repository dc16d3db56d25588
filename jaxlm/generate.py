"""Text from a model: one compiled loop over a key/value cache or a recurrent state.

    generator = Generator(program, Sampling(max_tokens=64, temperature=0.8), eos_id=2, pad_id=0)
    generator(params, [[1, 17, 9], [1, 4]], seed=0)      # the new ids of each prompt

Prompts of unequal length are padded on the left, so every row's next token stands in the same
column; the padding is segment 0, which nothing attends to. Each prompt draws from a key of its own,
so its text does not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlm import mesh as meshes
from jaxlm.config import UserError
from jaxlm.train.state import SAMPLE_STREAM, Program, derive_key
from jaxlm.types import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn: greedy at temperature 0, else from the cut distribution."""

    max_tokens: int = 128
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None


def next_token(logits: jax.Array, keys: jax.Array, sampling: Sampling) -> jax.Array:
    """One id a row from logits [B, V] and one key a row [B].

    Top-k keeps the k likeliest tokens; top-p (Holtzman et al. 2020, arXiv:1904.09751) the fewest
    whose probability reaches p, the likeliest always among them.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        least = jax.lax.top_k(logits, min(sampling.top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.top_p is not None:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probs = jax.nn.softmax(ordered)
        before = jnp.cumsum(probs, axis=-1) - probs  # probability of all likelier tokens
        least = jnp.where(before < sampling.top_p, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids that a document starting with `text` starts with."""
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return start + tokenizer.encode(text)


def check_prompts(prompts: Sequence[Sequence[int]], max_tokens: int, limit: int | None) -> None:
    """Raises `UserError` for an empty prompt, or one that passes the model's `limit` positions."""
    if any(not prompt for prompt in prompts):
        raise UserError("prompt: has no tokens and the tokenizer no start token; give some text")
    longest = max(map(len, prompts), default=0)
    if limit is not None and longest + max_tokens > limit:
        room = limit - longest
        mend = f"ask for at most {room} tokens" if room > 0 else "shorten the prompt"
        raise UserError(
            f"prompt: {longest} tokens and {max_tokens} new ones pass the model's "
            f"{limit} positions; {mend}"
        )


class Writer:
    """Text to text: what the model writes after each prompt."""

    def __init__(self, program: Program, tokenizer: Tokenizer, sampling: Sampling):
        self.tokenizer = tokenizer
        self.generator = Generator(
            program, sampling, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id
        )

    def __call__(self, params: Any, prompts: Sequence[str], *, seed: int = 0) -> list[str]:
        """The new text of each prompt. Raises `UserError` as `Generator` does."""
        ids = [encode_prompt(self.tokenizer, text) for text in prompts]
        return [self.tokenizer.decode(row) for row in self.generator(params, ids, seed=seed)]


class Generator:
    """Continues prompts; compiled once for each (batch, prompt length) bucket."""

    def __init__(self, program: Program, sampling: Sampling, *, eos_id: int | None, pad_id: int):
        self.program, self.sampling = program, sampling
        self.eos_id, self.pad_id = eos_id, pad_id

    def __call__(
        self, params: Any, prompts: Sequence[Sequence[int]], *, seed: int = 0
    ) -> list[list[int]]:
        """The new ids of each prompt, without the end-of-text id.

        Raises `UserError` for an empty prompt, or one too long for the model's positions.
        """
        if not prompts:
            return []
        longest = max(len(prompt) for prompt in prompts)
        check_prompts(prompts, self.sampling.max_tokens, self.program.model.max_positions)
        length = self._bucket(longest)
        rows = len(prompts) + -len(prompts) % self._row_multiple
        tokens = np.full((rows, length), self.pad_id, np.int32)
        real = np.zeros((rows, length), np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, length - len(prompt) :] = prompt
            real[row, length - len(prompt) :] = 1
        key = derive_key(seed, SAMPLE_STREAM)
        with jax.set_mesh(self.program.mesh):
            batch = meshes.to_global_whole({"tokens": tokens, "real": real}, self.program.mesh)
            out = self._compiled(params, batch["tokens"], batch["real"], key)
        return [self._until_end(row) for row in np.asarray(out)[: len(prompts)]]

    def _bucket(self, longest: int) -> int:
        """The prompt length compiled for: the next power of two that the positions allow."""
        length = 1 << (longest - 1).bit_length()
        limit = self.program.model.max_positions
        return (
            length if limit is None else max(longest, min(length, limit - self.sampling.max_tokens))
        )

    @property
    def _row_multiple(self) -> int:
        shape = self.program.mesh.shape
        return int(np.prod([shape[axis] for axis in meshes.BATCH_AXES]))

    def _until_end(self, row: np.ndarray) -> list[int]:
        ids = row.tolist()
        return ids[: ids.index(self.eos_id)] if self.eos_id in ids else ids

    @cached_property
    def _compiled(self) -> Any:
        return jax.jit(self._generate, out_shardings=meshes.replicated(self.program.mesh))

    def _generate(
        self, params: Any, tokens: jax.Array, real: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Prompts [B, P] -> new ids [B, max_tokens], padded after the end."""
        batch, length = tokens.shape
        steps = self.sampling.max_tokens
        model = nnx.merge(self.program.graphdef, params)
        positions = jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0)
        cache = model.init_cache(batch, length + steps)
        hidden, cache, *_ = model(tokens, positions=positions, segment_ids=real, cache=cache)
        row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
        alive = real.any(axis=1)

        def more(loop: tuple) -> jax.Array:
            i, _, _, _, alive = loop
            return (i < steps) & alive.any()

        def write(loop: tuple) -> tuple:
            i, out, logits, cache, alive = loop
            keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, i)
            token = jnp.where(alive, next_token(logits, keys, self.sampling), self.pad_id)
            out = out.at[:, i].set(token)
            alive = alive & (token != (-1 if self.eos_id is None else self.eos_id))
            # The last token written needs no logits after it, but a loop of equal turns compiles
            # smaller.
            hidden, cache, *_ = model(
                token[:, None],
                positions=positions[:, -1:] + 1 + i,
                segment_ids=jnp.ones((batch, 1), jnp.int32),
                cache=cache,
            )
            return i + 1, out, model.logits(hidden)[:, 0], cache, alive

        logits = model.logits(hidden[:, -1:])[:, 0]
        out = jnp.full((batch, steps), self.pad_id, jnp.int32)
        return jax.lax.while_loop(more, write, (0, out, logits, cache, alive))[1]
