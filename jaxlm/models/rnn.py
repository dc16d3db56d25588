"""The recurrent language model: embedding, stacked recurrent layers of one kind, head.

With every kind of dropout, penalties on activations and tied embeddings it is AWD-LSTM (Merity et
al. 2018, arXiv:1708.02182), whose optimizer is sgd with `averaging`; rows here have one length. The
last layer is as wide as the embedding, so that the head can be its transpose:

    embedding_size=400, hidden_size=1150, num_layers=3:    400 -> 1150 -> 1150 -> 400

Neighbouring layers of equal shape are stacked and scanned. Each such run of layers is a subtree of
the parameters and of the cache: "layers", or "layers_0", "layers_1", ... named by its first layer.

    model = RNNConfig(cell="lstm", hidden_size=512).build(vocab_size, rngs=nnx.Rngs(0))
    hidden, cache = model(tokens, positions=positions, segment_ids=segment_ids, cache=cache)

The state starts from zero wherever a position is 0. Without a cache it starts from zero at the
row's first token too; with one, the row continues where the cache's last call ended.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import UserError, field, suggest
from jaxlm.core.errors import shown
from jaxlm.core.types import Dtype, Encoded, ModelConfig, Output
from jaxlm.kernels.recurrence import Activation, State
from jaxlm.kernels.registry import platform
from jaxlm.mesh import shard
from jaxlm.models.rnn_head import Unembed, WithHead
from jaxlm.nn.activation_penalties import activation_penalties
from jaxlm.nn.dropout import dropout, split_key
from jaxlm.nn.embed import Embedding
from jaxlm.nn.flops import matmul_flops
from jaxlm.nn.given import Found, Given
from jaxlm.nn.ngram_embed import ABSENT, NgramEmbeddingConfig
from jaxlm.nn.norm import LayerNorm, RMSNorm
from jaxlm.nn.recurrent import CELLS, Initializer, word_dropout
from jaxlm.nn.recurrent_layer import RecurrentLayer
from jaxlm.nn.stack import Remat, Run, apply_stack, runs_of, stack

TOKENS = "tokens"  # of a cache: the last ones
NORMS: dict[str, Callable[[int], nnx.Module]] = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}


@dataclass(frozen=True, kw_only=True)
class RNNConfig(ModelConfig):
    """A recurrent language model: LSTM, GRU, Elman RNN, minGRU, minLSTM or RG-LRU."""

    cell: str = field("lstm", "kind of layer: lstm, gru, elman, mingru, minlstm or rglru")
    hidden_size: int = field(512, "width of the recurrent layers", ge=1, le=2**20)
    num_layers: int = field(2, "recurrent layers", ge=1, le=2000)
    embedding_size: int | None = field(
        None, "width of the embedding, and of the last layer if tied; null: hidden_size", ge=1
    )
    vocab_size: int | None = field(None, "rows of the embedding; null: the tokenizer's", ge=1)
    ngrams: NgramEmbeddingConfig | None = field(
        None, "vectors of hashed n-grams, added to those of the tokens; null: none"
    )
    tie_embeddings: bool = field(True, "the head is the transpose of the embedding")
    activation: Activation = field("tanh", "activation of the Elman cell")
    residual: bool = field(False, "add each layer's input to its output")
    norm: Literal["none", "layernorm", "rmsnorm"] = field(
        "none", "normalises the input of every layer and the last output"
    )
    dropout: float = field(0.0, "dropout on the last output", ge=0, lt=1)
    dropout_input: float = field(0.0, "dropout on the embeddings", ge=0, lt=1)
    dropout_hidden: float = field(
        0.0, "dropout on the output of every layer except the last", ge=0, lt=1
    )
    dropout_embedding: float = field(0.0, "dropout of whole rows of the embedding", ge=0, lt=1)
    dropout_recurrent: float = field(0.0, "dropout of recurrent weights (DropConnect)", ge=0, lt=1)
    variational: bool = field(
        True, "dropout, dropout_input and dropout_hidden keep one mask over time"
    )
    penalty_activation: float = field(
        0.0, "weight of the mean square of the last output after dropout, in the loss (AR)", ge=0
    )
    penalty_change: float = field(
        0.0, "weight of the mean square of its change from token to token (TAR)", ge=0
    )
    carry_state: bool = field(
        False, "training passes the state on to the next window of a document stream"
    )
    initializer: Initializer = field(
        "uniform", "kernels of lstm, gru and elman at the start: +-1/sqrt(H), or orthogonal"
    )
    initializer_range: float = field(
        0.05, "standard deviation of the embedding and of an untied head", gt=0
    )
    logit_softcap: float | None = field(None, "z -> cap * tanh(z / cap) on the logits", gt=0)
    remat: Literal["none", "full"] = field(
        "none", "what the backward pass recomputes: nothing, or every layer"
    )
    unroll: int = field(1, "time steps in one iteration of the compiled loop", ge=1)
    recurrence: str = field(
        "auto",
        "implementation over time: auto, scan, reference or, for minimal and linear cells, "
        "associative",
    )
    dtype: Dtype = field(
        "auto",
        "activations and matmuls (the state is float32); auto: bfloat16 on accelerators, float32 "
        "on a CPU",
        affects="schedule",
    )

    @property
    def carries_state(self) -> bool:
        return self.carry_state

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of the embedding, then of every layer's output."""
        embedding = self.embedding_size or self.hidden_size
        last = embedding if self.tie_embeddings else self.hidden_size
        return (embedding, *(self.hidden_size,) * (self.num_layers - 1), last)

    @property
    def output_size(self) -> int:
        return self.widths[-1]

    def validate(self) -> None:
        if self.cell not in CELLS:
            raise UserError(f"cell: unknown cell {shown(self.cell)}; {suggest(self.cell, CELLS)}")
        check_cell(self, self.cell)
        if self.hidden_size not in self.widths[1:]:
            raise UserError(
                "hidden_size: one layer with tied embeddings is as wide as the embedding; set it "
                "to embedding_size, add a layer or set tie_embeddings to false"
            )
        if self.residual and len(set(self.widths)) > 1:
            raise UserError(
                "residual: layers must be as wide as their input; leave embedding_size out"
            )

    def build(self, vocab_size: int, *, rngs: nnx.Rngs) -> RNN:
        self.validate()
        if self.vocab_size is not None and self.vocab_size < vocab_size:
            raise UserError(
                f"vocab_size: {self.vocab_size} is less than the tokenizer's {vocab_size}; set it "
                f"to {vocab_size} or more, or leave it out"
            )
        model = self.computing_on(platform())
        return RNN(model, self.vocab_size or vocab_size, rngs=rngs)


class RNN(WithHead):
    """A recurrent `LanguageModel`."""

    def __init__(self, config: RNNConfig, vocab_size: int, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.vocab_size = vocab_size
        embedding, *_, last = config.widths
        std = config.initializer_range
        options: dict[str, Any] = {"std": std, "dtype": config.dtype, "rngs": rngs}
        self.embed = Embedding(vocab_size, embedding, tied=config.tie_embeddings, **options)
        ngrams = config.ngrams
        self.ngrams = None if ngrams is None else ngrams.build(embedding, **options)
        self.runs = runs_of(list(itertools.pairwise(config.widths)))  # (inputs, outputs)
        for run in self.runs:
            setattr(self, run.name, stack(partial(Layer, config, run), run.count, rngs=rngs))
        self.final_norm = _norm(config, last)
        self.unembed = Unembed(config, last, vocab_size, rngs=rngs)

    def __call__(
        self,
        tokens: jax.Array,  # [B, T]
        *,
        positions: jax.Array,  # [B, T]
        segment_ids: jax.Array,  # [B, T], not needed: a document begins at position 0
        cache: dict[str, Any] | None = None,
        encoded: Encoded | None = None,
        key: jax.Array | None = None,
    ) -> Output:
        """Hidden states [B, T, D] and, if there is a cache, the one after these tokens."""
        config = self.config
        words_key, input_key, layers_key, output_key = split_key(key, 4)
        state = self.init_cache(tokens.shape[0], 0) if cache is None else cache
        by_time, reset = tokens.T, positions.T == 0  # time-major from here on
        x = self.embed(by_time, axes=(None, "batch"))  # [T, B, E]
        x = word_dropout(x, by_time, self.vocab_size, config.dropout_embedding, words_key)
        after: dict[str, Any] = {}
        if self.ngrams is not None:
            before = state[TOKENS][0]
            x = x + self.ngrams(tokens, positions, before).swapaxes(0, 1)
            last = jnp.concatenate([before, tokens.astype(before.dtype)], axis=1)
            after[TOKENS] = last[None, :, tokens.shape[1] :]
        x = shard(x, None, "batch", "act_embed")
        x = _dropout(config, x, config.dropout_input, input_key)
        for run in self.runs:
            x, after[run.name] = self._run(run, x, reset, state[run.name], layers_key)
        if self.final_norm is not None:
            x = self.final_norm(x)
        dropped = _dropout(config, x, config.dropout, output_key)
        dropped = shard(dropped.swapaxes(0, 1), "batch", "length", "act_embed")  # [B, T, D]
        losses = {}
        if key is not None:
            weights = {"ar": config.penalty_activation, "tar": config.penalty_change}
            raw = x.swapaxes(0, 1)
            losses = activation_penalties(raw, dropped, segment_ids, positions, **weights)
        return Output(dropped, None if cache is None else after, losses)

    def _run(
        self, run: Run, x: jax.Array, reset: jax.Array, state: State, key: jax.Array | None
    ) -> tuple[jax.Array, State]:
        """The layers of one run, scanned; `state` [n, B, H]."""
        keys = None
        if key is not None:
            keys = jax.random.split(key, self.config.num_layers)[run.first :][: run.count]
        is_last = jnp.arange(run.first, run.first + run.count) == self.config.num_layers - 1

        def body(layer: Layer, x: jax.Array, given: Given) -> tuple[jax.Array, Found]:
            state, is_last = given.xs
            x, state = layer(x, reset, state, key=given.key, is_last=is_last)
            return x, Found(state)

        x, found = apply_stack(
            getattr(self, run.name),
            body,
            x,
            (state, is_last),
            num_layers=run.count,
            scan=run.count > 1,
            keys=keys,
            remat=Remat(self.config.remat),
        )
        return x, found.by_row

    def init_cache(
        self, batch_size: int, max_len: int, encoded: Encoded | None = None
    ) -> dict[str, Any]:
        """Zero states [n, B, H] of each run of n layers, and where there are n-grams the tokens
        [1, B, n] before the next one; independent of `max_len`.
        """
        names = CELLS[self.config.cell].state_names
        reach = 0 if self.ngrams is None else self.ngrams.config.reach
        tokens = {TOKENS: jnp.full((1, batch_size, reach), ABSENT, jnp.int32)} if reach else {}
        return tokens | {
            run.name: {
                name: jnp.zeros((run.count, batch_size, run.kind[1]), jnp.float32) for name in names
            }
            for run in self.runs
        }

    def flops_per_token(self, seq_len: int, *, is_causal: bool = True) -> float:
        """Forward FLOPs a token: 2 for each element of each kernel, whatever the length.

        A backward pass costs twice as much. `is_causal` has no effect.
        """
        return matmul_flops(self)


class Layer(nnx.Module):
    """[norm ->] recurrent layer -> dropout [-> + input]."""

    def __init__(self, config: RNNConfig, run: Run, rngs: nnx.Rngs) -> None:
        self.config = config
        inputs, outputs = run.kind
        self.norm = _norm(config, inputs)
        self.cell: RecurrentLayer = CELLS[config.cell](
            inputs,
            outputs,
            weight_dropout=config.dropout_recurrent,
            activation=config.activation,
            initializer=config.initializer,
            dtype=config.dtype,
            unroll=config.unroll,
            impl=config.recurrence,
            rngs=rngs,
        )

    def __call__(
        self, x: jax.Array, reset: jax.Array, state: State, *, key: Any, is_last: jax.Array
    ) -> tuple[jax.Array, State]:
        config = self.config
        weight_key, hidden_key = split_key(key, 2)
        y = x if self.norm is None else self.norm(x)
        y, state = self.cell(y, reset, state, key=weight_key)
        # The last layer's output has a rate of its own; layers of one scan differ by data alone.
        y = jnp.where(is_last, y, _dropout(config, y, config.dropout_hidden, hidden_key))
        return (x + y if config.residual else y), state


def check_cell(config: Any, cell: str) -> None:
    """Raises `UserError` if a config sets a field that this kind of layer does not have."""
    kind = CELLS[cell]
    if config.activation != "tanh" and kind.own_activation:
        raise UserError(f"activation: {cell} has its own; leave it out or use cell elman")
    if kind.recurrent_kernel:
        return
    lacking = {"dropout_recurrent": "to drop from", "initializer": "to initialize"}
    lacking |= {"unroll": "to unroll a loop over"}
    for name, what in lacking.items():
        default = type(config).__dataclass_fields__[name].default
        if getattr(config, name) != default:
            raise UserError(
                f"{name}: {cell} has no recurrent kernel {what}; leave it at {default}, or use "
                "cell lstm, gru or elman"
            )


def _norm(config: RNNConfig, dim: int) -> Any:
    return None if config.norm == "none" else NORMS[config.norm](dim)


def _dropout(config: RNNConfig, x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Dropout of [T, B, D]; variational dropout draws one mask for all T."""
    return dropout(x, rate, key, shared_dims=(0,) if config.variational else ())
