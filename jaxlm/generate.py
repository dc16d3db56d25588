"""Text from a model: a compiled loop over a key/value cache or a recurrent state.

    generator = Generator(program, Sampling(max_tokens=64, temperature=0.8), eos_id=2, pad_id=0)
    generator(params, [[1, 17, 9], [1, 4]], seed=0)      # the new ids of each prompt

Prompts of unequal length are padded on the left, so every row's next token stands in the same
column; the padding is segment 0, which nothing attends to. Each prompt draws from a key of its own,
so its text does not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import mesh as meshes
from jaxlm.beam import Search, beam_search
from jaxlm.config import UserError
from jaxlm.reader import Reader
from jaxlm.train.ahead import Ahead, Compiling
from jaxlm.train.state import SAMPLE_STREAM, Program, derive_key
from jaxlm.types import ModelConfig, Tokenizer

PART = 32  # tokens a row that are drawn between two looks of the host


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How texts are written: token by token, greedily at temperature 0 or drawn from the cut
    distribution, or searched for with several beams, which draws nothing."""

    max_tokens: int = 128
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    num_beams: int = 1
    length_penalty: float = 1.0  # of beams: above 1 favours long texts, below 1 short ones


def next_token(logits: jax.Array, keys: jax.Array, sampling: Sampling) -> jax.Array:
    """One id a row from logits [B, V] and one key a row [B]."""
    if sampling.temperature == 0:
        return logits.argmax(-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(keys, cut(logits, sampling)).astype(jnp.int32)


def cut(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """The logits [..., V] that are drawn from.

    Top-k keeps the k likeliest tokens; top-p (Holtzman et al. 2020, arXiv:1904.09751) the fewest
    whose probability reaches p, the likeliest always among them.
    """
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        least = jax.lax.top_k(logits, min(sampling.top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.top_p is not None:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probs = jax.nn.softmax(ordered)
        before = jnp.cumsum(probs, axis=-1) - probs  # probability of all likelier tokens
        least = jnp.where(before < sampling.top_p, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def ids_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """The ids that a generator asks for."""
    return {"eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}


def encode_prompt(tokenizer: Tokenizer, text: str, model: ModelConfig) -> list[int]:
    """The ids that a document starting with `text` starts with; for an encoder, all of its ids.

    A text without a blank is to be continued, by a model that fills blanks: it gets one at its end.
    """
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    end = [tokenizer.eos_id] if model.encodes and tokenizer.eos_id is not None else []
    ids = start + tokenizer.encode(text) + end
    blanks = model.blank_ids if model.fills_blanks else ()
    return ids if set(blanks) & set(ids) else [*ids, *blanks[-1:]]


def check_prompts(prompts: Sequence[Sequence[int]], max_tokens: int, model: ModelConfig) -> None:
    """Raises `UserError` for an empty prompt, or a text that passes the model's positions."""
    if any(not prompt for prompt in prompts):
        raise UserError("prompt: has no tokens and the tokenizer no start token; give some text")
    longest, limit = max(map(len, prompts), default=0), model.max_positions
    if model.encodes:
        source_limit = model.max_source_positions
        if source_limit is not None and longest > source_limit:
            raise UserError(
                f"prompt: {longest} tokens pass the encoder's {source_limit} positions; shorten it"
            )
        if limit is not None and max_tokens > limit:
            raise UserError(
                f"max_tokens: {max_tokens} pass the decoder's {limit} positions; "
                f"ask for at most {limit}"
            )
    elif model.fills_blanks:
        blanks = set(model.blank_ids)
        if not blanks:
            raise UserError(
                "model.blank_ids: names no tokens that stand for a blank; set it and model.start_id"
            )
        if any(blanks.isdisjoint(prompt) for prompt in prompts):
            raise UserError(
                "prompt: has no blank to fill; write one of the tokens that model.blank_ids names"
            )
        if limit is not None and max(longest, max_tokens + 1) >= limit:
            raise UserError(
                f"prompt: {longest} tokens, or {max_tokens} new ones, pass the model's "
                f"{limit - 1} positions; shorten them"
            )
    elif limit is not None and longest + max_tokens > limit:
        room = limit - longest
        mend = f"ask for at most {room} tokens" if room > 0 else "shorten the prompt"
        raise UserError(
            f"prompt: {longest} tokens and {max_tokens} new ones pass the model's "
            f"{limit} positions; {mend}"
        )


class Writer:
    """Text to text: what a generator's model writes after each prompt."""

    def __init__(self, tokenizer: Tokenizer, generator: Generator):
        self.tokenizer, self.generator = tokenizer, generator

    def __call__(self, params: Any, prompts: Sequence[str], **how: Any) -> list[str]:
        """The new text of each prompt; `how` and what it raises are those of `Generator`."""
        model = self.generator.program.model
        ids = [encode_prompt(self.tokenizer, text, model) for text in prompts]
        size = self.tokenizer.vocab_size  # ids behind it, such as sentinels, add nothing to a text
        rows = self.generator(params, ids, **how)
        return [self.tokenizer.decode([i for i in row if i < size]) for row in rows]


class Generator:
    """Continues prompts; compiled once for each (batch, prompt length) bucket."""

    def __init__(self, program: Program, sampling: Sampling, *, eos_id: int | None, pad_id: int):
        self.program, self.sampling = program, sampling
        self.eos_id, self.pad_id = eos_id, pad_id

    def __call__(
        self, params: Any, prompts: Sequence[Sequence[int]], **how: Any
    ) -> list[list[int]]:
        """The new ids of each prompt, without the end-of-text id; `how` as in `with_scores`.

        Raises `UserError` for an empty prompt, or one too long for the model's positions.
        """
        return [self._until_end(ids) for ids, _ in self.with_scores(params, prompts, **how)]

    def with_scores(
        self,
        params: Any,
        prompts: Sequence[Sequence[int]],
        *,
        seed: int = 0,
        on_part: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[tuple[np.ndarray, float]]:
        """(all max_tokens ids, score) of each prompt; the score of a beam, 0 where none is.

        `on_part` is called whenever PART more tokens a row have been drawn, and at the end;
        `compiling` makes the block of each compilation.
        """
        if not prompts:
            return []
        longest = max(len(prompt) for prompt in prompts)
        for model in self._models:
            check_prompts(prompts, self._max_tokens, model)
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
            given = (params, batch["tokens"], batch["real"], key)
            out = self._write(*given, on_part=on_part, compiling=compiling)
        ids, scores = (np.asarray(x)[: len(prompts)] for x in out)
        on_part()
        return list(zip(ids, scores.tolist(), strict=True))

    @property
    def _models(self) -> list[ModelConfig]:
        """The models that read the prompts."""
        return [self.program.model]

    @property
    def _max_tokens(self) -> int:
        """The tokens that a row may have after its prompt, kept or not."""
        return self.sampling.max_tokens

    def _bucket(self, longest: int) -> int:
        """The prompt length compiled for: the next power of two that the positions allow."""
        length = 1 << (longest - 1).bit_length()
        for model in self._models:
            limit = model.max_source_positions if model.encodes else model.max_positions
            if limit is not None:
                length = min(length, limit - (0 if model.encodes else self._max_tokens))
        return max(longest, length)

    @property
    def _row_multiple(self) -> int:
        shape = self.program.mesh.shape
        return int(np.prod([shape[axis] for axis in meshes.BATCH_AXES]))

    def _until_end(self, row: np.ndarray) -> list[int]:
        ids = row.tolist()
        return ids[: ids.index(self.eos_id)] if self.eos_id in ids else ids

    def _write(
        self, *given: Any, on_part: Callable[[], object], compiling: Compiling
    ) -> tuple[Any, Any]:
        """New ids [B, max_tokens], padded after the end, and scores [B]."""
        if self.sampling.num_beams > 1:
            return self._whole(*given, compiling=compiling)
        loop, end = self._begin(*given, compiling=compiling), 0
        go_on = self._parts.setdefault(given[1].shape, self._part(loop))
        while end < self.sampling.max_tokens and bool(np.asarray(loop.alive).any()):
            end = min(end + PART, self.sampling.max_tokens)
            loop = go_on(*given, loop, np.int32(end), compiling=compiling)
            jax.block_until_ready(loop.ids)
            on_part()
        return loop.ids, np.zeros(len(loop.ids))

    # ------------------------------------------------------------------------------ token by token

    @cached_property
    def _parts(self) -> dict[tuple[int, ...], Ahead]:
        """What draws the tokens up to a given one, for each shape of the prompts."""
        return {}

    @cached_property
    def _begin(self) -> Ahead:
        """Reads the prompts."""
        whole = meshes.replicated(self.program.mesh)

        def begin(params: Any, tokens: jax.Array, real: jax.Array, key: jax.Array) -> Drawn:
            logits, cache = self._reader(params, tokens, real).begin()
            ids = jnp.full((len(tokens), self.sampling.max_tokens), self.pad_id, jnp.int32)
            return Drawn(jnp.zeros((), jnp.int32), ids, real.any(axis=1), logits, cache)

        return Ahead(jax.jit(begin, out_shardings=Drawn(*(whole,) * 3, *(None,) * 2)))  # type: ignore[arg-type]

    def _part(self, loop: Drawn) -> Ahead:
        """Goes on from a loop as `loop` is, in its place."""
        where = jax.tree.map(lambda x: x.sharding, loop)
        return Ahead(jax.jit(self._draw, donate_argnums=4, out_shardings=where))

    def _draw(
        self,
        params: Any,
        tokens: jax.Array,
        real: jax.Array,
        key: jax.Array,
        loop: Drawn,
        end: jax.Array,
    ) -> Drawn:
        """The loop when `end` tokens a row are drawn, one a turn, or all rows have ended."""
        reader = self._reader(params, tokens, real)
        keys_of = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(tokens)))

        def more(loop: Drawn) -> jax.Array:
            return (loop.turn < end) & loop.alive.any()

        def write(loop: Drawn) -> Drawn:
            turn, ids, alive, logits, cache = loop
            keys = jax.vmap(jax.random.fold_in, (0, None))(keys_of, turn)
            token = jnp.where(alive, next_token(logits, keys, self.sampling), self.pad_id)
            ids = ids.at[:, turn].set(token)
            alive = alive & (token != (-1 if self.eos_id is None else self.eos_id))
            # The last token written needs no logits after it, but a loop of equal turns compiles
            # smaller.
            logits, cache = reader(token[:, None], turn, cache)
            return Drawn(turn + 1, ids, alive, logits[:, 0], cache)

        return jax.lax.while_loop(more, write, loop)

    def _reader(self, params: Any, tokens: jax.Array, real: jax.Array) -> Reader:
        return Reader(self.program, params, tokens, real, self._max_tokens, self.pad_id)

    # ------------------------------------------------------------------------------------- at once

    @cached_property
    def _whole(self) -> Ahead:
        return Ahead(jax.jit(self._generate, out_shardings=meshes.replicated(self.program.mesh)))

    def _generate(
        self, params: Any, tokens: jax.Array, real: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Prompts [B, P] -> ids and scores as of `_write`, by a search that draws nothing."""
        reader = self._reader(params, tokens, real)

        def advance(token: jax.Array, turn: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
            logits, cache = reader(token[:, None], turn, cache)
            return logits[:, 0], cache

        alive, (logits, cache) = real.any(axis=1), reader.begin()
        search = Search(
            num_beams=self.sampling.num_beams,
            length_penalty=self.sampling.length_penalty,
            max_tokens=self.sampling.max_tokens,
            eos_id=self.eos_id,
            pad_id=self.pad_id,
        )
        return beam_search(logits, cache, advance, reader.taker(), alive, search)


class Drawn(NamedTuple):
    """What a turn of drawing hands to the next."""

    turn: jax.Array
    ids: jax.Array  # [B, max_tokens]
    alive: jax.Array  # [B] whether a row goes on
    logits: jax.Array  # [B, V] of its next token
    cache: Any
