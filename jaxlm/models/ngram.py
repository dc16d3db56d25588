"""An n-gram language model in backoff form, as arrays that a compiled program reads.

    log p(w | c) = log_prob[c w]                    where the n-gram c w is stored
                 = backoff[c] + log p(w | c without its first token)      otherwise

The n-grams of an order are sorted by context and last token (`jaxlm.ngrams`): those that continue
context c are `start[c] .. start[c + 1]`, and the one with a given token is found by bisection. A
hidden state [N - 1] has the numbers of the n-grams of orders 1 to N - 1 that end at a token, -1
where one is not stored; a cache is the hidden state of the last token.

Its tables are counted and estimated, not trained: objective `ngram`. Before that, it is uniform.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlm.core.config import UserError, field
from jaxlm.core.types import Encoded, ModelConfig, Output
from jaxlm.kernels.cross_entropy import TokenLoss
from jaxlm.ngrams.counting import MAX_ORDER
from jaxlm.ngrams.model import NgramModel

LEAST = -1e9  # the logarithm of 0
TOGETHER = 1 << 22  # n-grams that become tables at a time
Hidden = jax.Array  # [B, T, N - 1] int32


@dataclass(frozen=True, kw_only=True)
class NgramConfig(ModelConfig, type="ngram"):
    """Tables of n-grams: a language model that is counted."""

    # its tables are logarithms, on every platform
    dtype: ClassVar[str] = "float32"  # type: ignore[misc]

    order: int = field(6, "tokens of the longest n-gram", ge=1, le=MAX_ORDER)
    vocab_size: int | None = field(None, "tokens; null: the tokenizer's", ge=1)

    @property
    def descends(self) -> bool:
        return False

    @property
    def output_size(self) -> int:
        return self.order - 1

    def build(self, vocab_size: int, *, rngs: nnx.Rngs) -> NgramLM:
        return NgramLM(self, vocab_size)


class NgramLM(nnx.Module):
    """The tables of orders 1 to N, and their answers."""

    def __init__(self, config: NgramConfig, vocab_size: int) -> None:
        self.config, self.vocab_size = config, vocab_size
        size = vocab_size + 1  # with what begins a document where the tokenizer has no bos
        uniform = jnp.full(size, -np.log(vocab_size), jnp.float32)
        self.bos = table(jnp.full(1, vocab_size, jnp.int32))
        self.level_1 = Level(uniform, jnp.zeros(size, jnp.float32))
        for n in range(2, config.order + 1):
            setattr(self, f"level_{n}", Continued(size if n == 2 else 1, vocab_size))

    def __call__(
        self,
        tokens: jax.Array,  # [B, T]
        *,
        positions: jax.Array,  # [B, T]: a document begins at 0
        segment_ids: jax.Array,  # [B, T]
        cache: dict[str, jax.Array] | None = None,
        encoded: Encoded | None = None,
        key: jax.Array | None = None,
    ) -> Output:
        """The numbers [B, T, N - 1] of the n-grams that end at each token."""
        rows, num = len(tokens), self.config.order - 1
        state = self.init_cache(rows, 0) if cache is None else cache
        first = positions == 0  # bos alone comes before
        number = jnp.where(segment_ids > 0, tokens, -1)
        found = []
        for n in range(1, num + 1):
            if n > 1:
                before = jnp.concatenate([state["hidden"][:, n - 2, None], number[:, :-1]], axis=1)
                begun = self.bos.get_value()[0] if n == 2 else -1
                before = jnp.where(first, begun, before)
                number = self._level(n).find(before, tokens)
                number = jnp.where(segment_ids > 0, number, -1)
            found.append(number)
        hidden = jnp.stack(found, axis=-1) if found else jnp.zeros((*tokens.shape, 0), jnp.int32)
        return Output(hidden, None if cache is None else {"hidden": hidden[:, -1]})

    def log_probs(self, hidden: Hidden, targets: jax.Array) -> jax.Array:
        """log p float32 of targets [B, T, ...] after contexts [B, T, N - 1]."""
        return self.matched(hidden, targets)[0]

    def matched(self, hidden: Hidden, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(`log_probs`, the order int32 of the longest stored n-gram that ends at each target)"""
        log_p = self.level_1.log_prob.get_value()[targets]
        order = jnp.ones(targets.shape, jnp.int32)
        for n in range(2, self.config.order + 1):
            context = hidden[..., n - 2].reshape(
                *hidden.shape[:-1], *[1] * (targets.ndim - hidden.ndim + 1)
            )
            level = self._level(n)
            at = level.find(context, targets)
            backed = log_p + self._level(n - 1).backoff.get_value()[jnp.maximum(context, 0)]
            log_p = jnp.where(context >= 0, backed, log_p)
            log_p = jnp.where(at >= 0, level.log_prob.get_value()[jnp.maximum(at, 0)], log_p)
            order = jnp.where(at >= 0, n, order)
        return log_p, order

    def logits(self, hidden: Hidden) -> jax.Array:
        """[..., V] float32: log p of each token."""
        every = jnp.broadcast_to(jnp.arange(self.vocab_size), (*hidden.shape[:-1], self.vocab_size))
        return self.log_probs(hidden, every)

    def token_loss(self, hidden: Hidden, targets: jax.Array) -> TokenLoss:
        """The loss of each target [B, T], and whether no token is likelier."""
        log_p = self.log_probs(hidden, targets)
        # one place of all rows at a time: each asks for the whole vocabulary
        best = jax.lax.map(lambda h: self.logits(h).max(-1), jnp.moveaxis(hidden, 1, 0))
        return TokenLoss(-log_p, -log_p, (log_p >= best.T).astype(jnp.float32))

    def init_cache(
        self, batch_size: int, max_len: int, encoded: Encoded | None = None
    ) -> dict[str, jax.Array]:
        """No context; independent of `max_len`."""
        return {"hidden": jnp.full((batch_size, self.config.order - 1), -1, jnp.int32)}

    def flops_per_token(self, seq_len: int, *, is_causal: bool = True) -> float:
        """0: there are no matmuls."""
        return 0.0

    def _level(self, n: int) -> Any:
        return getattr(self, f"level_{n}")


class Level(nnx.Module):
    """The logarithms of the n-grams of one order."""

    def __init__(self, log_prob: jax.Array, backoff: jax.Array) -> None:
        self.log_prob = table(log_prob)
        self.backoff = table(backoff)


class Continued(Level):
    """The n-grams of an order from 2 on, by context. At first there is one, which no token has."""

    def __init__(self, num_contexts: int, vocab_size: int) -> None:
        super().__init__(jnp.zeros(1, jnp.float32), jnp.zeros(1, jnp.float32))
        self.start = table(jnp.zeros(num_contexts + 1, jnp.int32))
        self.token = table(jnp.full(1, -1, jnp.int32))
        self.halvings = (vocab_size + 1).bit_length()  # a context has at most V + 1 continuations

    def find(self, context: jax.Array, token: jax.Array) -> jax.Array:
        """The numbers of n-grams, -1 where not stored; the shapes of the arguments broadcast."""
        start, tokens = self.start.get_value(), self.token.get_value()
        place = jnp.maximum(context, 0)
        low = start[place]
        end = jnp.where(context >= 0, start[place + 1], low)
        low, end, token = jnp.broadcast_arrays(low, end, token)

        def at(index: jax.Array) -> jax.Array:
            return tokens[jnp.minimum(index, len(tokens) - 1)]

        def halve(_: Any, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = ends
            middle = (low + high) // 2
            after = (low < high) & (at(middle) < token)
            return jnp.where(after, middle + 1, low), jnp.where(after, high, middle)

        low, _ = jax.lax.fori_loop(0, self.halvings, halve, (low, end))
        return jnp.where((low < end) & (at(low) == token), low, -1)


def tables_of(model: NgramModel) -> dict[str, Any]:
    """The parameters of a `NgramLM` (numpy), from an estimated model with one id more.

    The model's arrays may be mapped: besides the tables, `TOGETHER` n-grams are in memory. Raises
    `UserError` for more than 2^31 n-grams of an order.
    """
    tables: dict[str, Any] = {"bos": np.array([model.bos], np.int32)}
    for n, level in enumerate(model.levels, start=1):
        table = {"log_prob": _logs(level.log_prob), "backoff": _logs(level.backoff)}
        if n > 1:
            table |= _continued(level.key, len(model.levels[n - 2]), model.vocab_size, n)
            if not len(level):  # arrays in a program are not empty
                empty = {"log_prob": np.float32(0), "backoff": np.float32(0), "token": np.int32(-1)}
                table |= {name: np.full(1, value) for name, value in empty.items()}
        tables[f"level_{n}"] = table
    return tables


def _logs(values: Any) -> np.ndarray:
    """Logarithms as a program has them: float32, and finite."""
    found = np.empty(len(values), np.float32)
    for at in range(0, len(values), TOGETHER):
        found[at : at + TOGETHER] = np.maximum(values[at : at + TOGETHER], LEAST)
    return found


def _continued(key: Any, num_contexts: int, vocab_size: int, n: int) -> dict[str, np.ndarray]:
    """Where each context's n-grams begin, and their last tokens."""
    if len(key) >= 2**31:
        raise UserError(
            f"objective: the text has {len(key):,} different {n}-grams, and a table has room for "
            "2^31; set objective.smoothing.prune, or model.order to a smaller one"
        )
    start, token = np.zeros(num_contexts + 1, np.int32), np.empty(len(key), np.int32)
    for at in range(0, len(key), TOGETHER):
        context, last = np.divmod(key[at : at + TOGETHER], np.uint64(vocab_size))
        token[at : at + TOGETHER] = last
        places, counts = np.unique(context.astype(np.int64), return_counts=True)
        start[places + 1] += counts.astype(np.int32)
    return {"start": np.cumsum(start, dtype=np.int32), "token": token}


def table(values: jax.Array) -> nnx.Param:
    """A parameter that every device has as a whole."""
    return nnx.Param(values, axes=("pos",) * values.ndim)
