"""New ids from a model: a compiled loop over a key/value cache or a recurrent state.

    generator = Generator(program, Sampling(max_tokens=64, temperature=0.8), eos_id=2, pad_id=0)
    generator(params, [[1, 17, 9], [1, 4]], seed=0)      # the new ids of each prompt

Prompts of unequal length are padded on the left, so every row's next token is in the same
column; the padding is segment 0, which nothing attends to. Each prompt draws from a key of its own,
so its text does not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import mesh as meshes
from jaxlm.core.sampling import Sampling
from jaxlm.core.types import ModelConfig
from jaxlm.data.prompt_formats.base import Prompts
from jaxlm.data.prompts import check_prompts, format_of
from jaxlm.generate.beam import EosId, Search, beam_search, is_any
from jaxlm.generate.processors import processors_of
from jaxlm.generate.reader import Reader
from jaxlm.generate.sampling import log_prob, next_token
from jaxlm.generate.stops import Stops, Tables
from jaxlm.training.ahead import Ahead, Compiling
from jaxlm.training.program import SAMPLE_STREAM, Program, derive_key

PART = 32  # tokens a row that are drawn between two looks of the host
STREAMED = 8  # where someone reads along
OnIds = Callable[[np.ndarray], object]
Wanted = Callable[[], Sequence[bool]]  # of each prompt, whether somebody still waits for its text


class Generator:
    """Continues prompts; compiled once for each (batch, prompt length) bucket."""

    def __init__(
        self,
        program: Program,
        sampling: Sampling,
        *,
        eos_id: EosId,
        pad_id: int,
        stops: Stops | None = None,
        prompt_length: int | None = None,
    ):
        """eos_id: what ends a text: an id, several, or None. stops: those of `sampling.stop`.
        prompt_length: the one length of prompts that is compiled, at least that of the longest;
        None: one for each power of two.
        """
        assert not sampling.stop or stops is not None, "stop needs a tokenizer: Stops.of"
        self.program, self.sampling, self.pad_id = program, sampling, pad_id
        self.prompt_length = prompt_length
        self.eos_ids = (eos_id,) if isinstance(eos_id, int) else tuple(eos_id or ())
        self.stops = stops or Stops()
        self.processors = processors_of(sampling, self.eos_ids)

    def __call__(
        self,
        params: Any,
        prompts: Sequence[Sequence[int]],
        *,
        seed: int = 0,
        on_part: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[list[int]]:
        """The new ids of each prompt, without the end-of-text id, and to the token that completes a
        text of `sampling.stop`. The options are those of `with_scores`.

        Raises `UserError` for an empty prompt, or one too long for the model's positions.
        """
        found = self.with_scores(params, prompts, seed=seed, on_part=on_part, compiling=compiling)
        return [self.until_end(ids) for ids, _ in found]

    def with_scores(
        self,
        params: Any,
        prompts: Sequence[Sequence[int]],
        *,
        seed: int = 0,
        on_part: Callable[[], object] = lambda: None,
        on_ids: OnIds | None = None,
        wanted: Wanted | None = None,
        compiling: Compiling = nullcontext,
    ) -> list[tuple[np.ndarray, float]]:
        """(all max_tokens ids, score) of each prompt: log p / n ** length_penalty of its n new ids,
        the end of the text among them, with p of the uncut distribution at temperature 1.

        `on_part` is called whenever PART more tokens a row have been drawn, and at the end;
        `on_ids` then gets those so far [B, n], of a model that draws token by token, every STREAMED
        tokens. `wanted` is asked then, too: a prompt that is not wanted gets no more tokens, and
        the others get the same ones. `compiling` makes the block of each compilation.
        """
        if not prompts:
            return []
        longest = max(len(prompt) for prompt in prompts)
        self.check(prompts)
        length = self._bucket(longest)
        size = len(prompts) + -len(prompts) % self._row_multiple
        tokens = np.full((size, length), self.pad_id, np.int32)
        real = np.zeros((size, length), np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, length - len(prompt) :] = prompt
            real[row, length - len(prompt) :] = 1
        key = derive_key(seed, SAMPLE_STREAM)
        arranged = [format_of(m).arrange(tokens, real, self.pad_id) for m in self._models]
        with jax.set_mesh(self.program.mesh):
            rows = tuple(Prompts(*map(self._on_mesh, one)) for one in arranged)
            alive = self._on_mesh({"alive": real.any(axis=1)})["alive"]
            given = (params, rows, alive, key, self._tables)
            out = self._write(
                *given, on_part=on_part, on_ids=on_ids, wanted=wanted, compiling=compiling
            )
        ids, scores = (np.asarray(x)[: len(prompts)] for x in out)
        on_part()
        return list(zip(ids, scores.tolist(), strict=True))

    def check(self, prompts: Sequence[Sequence[int]]) -> None:
        """Raises `UserError` for an empty prompt, or one too long for the model's positions."""
        for model in self._models:
            check_prompts(prompts, self._max_tokens, model)

    def _on_mesh(self, rows: Any) -> Any:
        return None if rows is None else meshes.to_global_whole(rows, self.program.mesh)

    @cached_property
    def _tables(self) -> Tables:
        tables = {str(n): table for n, table in enumerate(self.stops.tables)}
        return tuple(self._on_mesh(tables).values()) if tables else ()

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
        if self.prompt_length is not None:
            return max(longest, self.prompt_length)
        length = 1 << (longest - 1).bit_length()
        for model in self._models:
            limit = format_of(model).longest(model, self._max_tokens)
            length = length if limit is None else min(length, limit)
        return max(longest, length)

    @property
    def _row_multiple(self) -> int:
        shape = self.program.mesh.shape
        return int(np.prod([shape[axis] for axis in meshes.BATCH_AXES]))

    def until_end(self, row: np.ndarray) -> list[int]:
        """The ids of a row before the first that ends a text."""
        ids = row.tolist()
        ends = (n for n, i in enumerate(ids) if i in self.eos_ids)
        ids = ids[: next(ends, len(ids))]
        return ids[: self.stops.end(ids)]

    def _write(
        self,
        *given: Any,
        on_part: Callable[[], object],
        on_ids: OnIds | None,
        wanted: Wanted | None,
        compiling: Compiling,
    ) -> tuple[Any, Any]:
        """New ids [B, max_tokens], padded after the end, and scores [B]."""
        if self.sampling.num_beams > 1:
            return self._whole(*given, compiling=compiling)
        loop, end = self._begin(*given, compiling=compiling), 0
        shapes = tuple(x.shape for x in jax.tree.leaves(given[1]))
        go_on = self._parts.setdefault(shapes, self._part(loop))
        while end < self.sampling.max_tokens and bool(np.asarray(loop.alive).any()):
            end += PART if on_ids is None else STREAMED
            end = min(end, self.sampling.max_tokens)
            loop = go_on(*given, loop, np.int32(end), compiling=compiling)
            jax.block_until_ready(loop.ids)
            on_part()
            if on_ids is not None:
                on_ids(np.asarray(loop.ids)[:, :end])
            if wanted is not None:
                loop = _without(loop, wanted())
        sizes = np.maximum(np.asarray(loop.sizes), 1)
        return loop.ids, np.asarray(loop.log_probs) / sizes**self.sampling.length_penalty

    # ------------------------------------------------------------------------------ token by token

    @cached_property
    def _parts(self) -> dict[tuple[int, ...], Ahead]:
        """The functions that draw the tokens up to a given one, for each shape of the prompts."""
        return {}

    @cached_property
    def _begin(self) -> Ahead:
        """Reads the prompts."""
        whole = meshes.replicated(self.program.mesh)

        def begin(
            params: Any, prompts: Any, alive: jax.Array, key: jax.Array, tables: Tables
        ) -> Drawn:
            reader = self._reader(params, prompts)
            logits, cache = reader.begin()
            ids = jnp.full((len(alive), self.sampling.max_tokens), self.pad_id, jnp.int32)
            sizes = jnp.zeros(len(alive), jnp.int32)
            log_probs = jnp.zeros(len(alive), jnp.float32)
            turn = jnp.zeros((), jnp.int32)
            states = reader.states(self.processors, logits.shape[-1], self._max_tokens)
            matched = self.stops.begin(alive.shape)
            return Drawn(turn, ids, alive, sizes, log_probs, logits, cache, states, matched)

        return Ahead(jax.jit(begin, out_shardings=Drawn(*(whole,) * 5, *(None,) * 4)))  # type: ignore[arg-type]

    def _part(self, loop: Drawn) -> Ahead:
        """Goes on from a loop as `loop` is, in its place."""
        where = jax.tree.map(lambda x: x.sharding, loop)
        return Ahead(jax.jit(self._draw, donate_argnums=5, out_shardings=where))

    def _draw(
        self,
        params: Any,
        prompts: tuple[Prompts, ...],
        alive: jax.Array,
        key: jax.Array,
        tables: Tables,
        loop: Drawn,
        end: jax.Array,
    ) -> Drawn:
        """The loop when `end` tokens a row are drawn, one a turn, or all rows have ended."""
        reader = self._reader(params, prompts)
        keys_of = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(alive)))

        def more(loop: Drawn) -> jax.Array:
            return (loop.turn < end) & loop.alive.any()

        def write(loop: Drawn) -> Drawn:
            turn, ids, alive, sizes, log_probs, logits, cache, states, matched = loop
            keys = jax.vmap(jax.random.fold_in, (0, None))(keys_of, turn)
            changed = self.processors(logits, states, turn)
            token = jnp.where(alive, next_token(changed, keys, self.sampling), self.pad_id)
            ids = ids.at[:, turn].set(token)
            sizes += alive
            log_probs += jnp.where(alive, log_prob(logits, token), 0.0)
            states = self.processors.add(states, token, turn)
            matched, stopped = self.stops.add(tables, matched, token)
            alive = alive & ~is_any(token, self.eos_ids) & ~stopped
            # The last token written needs no logits after it, but a loop of equal turns compiles
            # smaller.
            logits, cache = reader(token[:, None], turn, cache)
            logits = logits[:, 0]
            return Drawn(turn + 1, ids, alive, sizes, log_probs, logits, cache, states, matched)

        return jax.lax.while_loop(more, write, loop)

    def _reader(self, params: Any, prompts: tuple[Prompts, ...]) -> Reader:
        return Reader(self.program, params, prompts[0], self._max_tokens)

    # -------------------------------------------------------------------------------- in one piece

    @cached_property
    def _whole(self) -> Ahead:
        return Ahead(jax.jit(self._generate, out_shardings=meshes.replicated(self.program.mesh)))

    def _generate(
        self,
        params: Any,
        prompts: tuple[Prompts, ...],
        alive: jax.Array,
        key: jax.Array,
        tables: Tables,
    ) -> tuple[jax.Array, jax.Array]:
        """Ids and scores, as `_write` returns them, by a search that draws nothing."""
        reader = self._reader(params, prompts)

        def advance(token: jax.Array, turn: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
            logits, cache = reader(token[:, None], turn, cache)
            return logits[:, 0], cache

        logits, cache = reader.begin()
        search = Search(
            num_beams=self.sampling.num_beams,
            length_penalty=self.sampling.length_penalty,
            max_tokens=self.sampling.max_tokens,
            eos_id=self.eos_ids,
            pad_id=self.pad_id,
            processors=self.processors,
            stops=self.stops,
        )
        states = reader.states(self.processors, logits.shape[-1], self._max_tokens)
        return beam_search(
            logits, cache, advance, reader.taker(), alive, search, states=states, tables=tables
        )


def _without(loop: Drawn, wanted: Sequence[bool]) -> Drawn:
    """The loop in which the prompts that are not wanted have ended."""
    alive = np.array(loop.alive)
    alive[: len(wanted)] &= np.asarray(wanted, bool)
    return loop._replace(alive=jax.device_put(alive, loop.alive.sharding))


class Drawn(NamedTuple):
    """The state that a turn of drawing hands to the next."""

    turn: jax.Array
    ids: jax.Array  # [B, max_tokens]
    alive: jax.Array  # [B] whether a row continues
    sizes: jax.Array  # [B] ids that were drawn
    log_probs: jax.Array  # [B] their sum over these ids
    logits: jax.Array  # [B, V] of its next token
    cache: Any
    states: tuple[Any, ...]  # the processors' states
    matched: Tables  # [B] each: the states of the stops
