"""The words that every part shares: the shape legend, the batch, metrics, the configs' bases.

Shapes are written with these letters, in comments and in einsum strings:

    B batch   T query length   S key length   D hidden size   F ffn size   N query heads
    K kv heads   H head size   V vocabulary   L layers   E experts

This module imports neither jax nor flax, so that the CLI and the data workers start fast.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self

from jaxlm.core.config import Config, Kind

if TYPE_CHECKING:
    from pathlib import Path

    import jax
    import numpy as np
    from flax import nnx

    from jaxlm.core.rows import RowSpec

# A batch is a flat dict of arrays (numpy on the host, jax on the device):
#
#   tokens          [B, T] int32    inputs
#   targets         [B, T] int32    what to predict at each position (the next token)
#   loss_weights    [B, T] float32  0 where the target does not count
#   segment_ids     [B, T] int32    documents of a row, from 1; 0 is padding
#   positions       [B, T] int32    place within the document; 0 starts one
#   num_bytes       [B] int32       UTF-8 bytes of the targets that count
#   num_chars       [B] int32       characters of the targets that count
#   prefix          [B, T] bool     seen by all of its document, where blanks are filled
#   places          [B, T, 2] int32 position, and place within a blank
#   source_tokens, source_segment_ids, source_positions
#                   [B, S] int32    what an encoder reads; segment i is for segment i of the row
#   labels          [B] int32       classes, for classification
#   example_weights [B] float32     0 for a row that only fills the batch
Batch = Mapping[str, Any]

# A metric is (sum, weight): nothing is divided before the last reduction, so micro-batches, ragged
# masks and any number of hosts give the same number as one big batch.
Metrics = Mapping[str, tuple[Any, Any]]

# A key among an ffn's losses that is not a loss: [E] int32, the tokens that chose each expert.
LOAD = "load"

Cache = Any  # a pytree: keys and values for attention, the hidden state for recurrences


Dtype = Literal["auto", "bfloat16", "float32"]  # see ModelConfig.computing_on


class Output(NamedTuple):
    """The output of a language model for a batch of tokens."""

    hidden: jax.Array  # [B, T, D] after the final norm
    cache: Cache | None = None  # after these tokens; None where none was given
    losses: Mapping[str, jax.Array] = {}  # [B] by row: what a router adds to the row's mean loss
    states: Any = None  # [L, B, T, D] after every layer, where they are asked for
    load: Any = None  # {run of layers: [L, E] tokens that chose each expert}, where there are any


class Encoded(NamedTuple):
    """The output of an encoder, which a decoder attends to."""

    hidden: jax.Array  # [B, S, D]
    segment_ids: jax.Array  # [B, S]: 0 is padding
    ends: Any = None  # [B, S, ...]: the last states of each place's document, of recurrent layers


class PromptFormatLike(Protocol):
    """A `jaxlm.data.prompt_formats.base.PromptFormat`."""

    @property
    def start_id(self) -> int | None:
        """The id that new text begins after."""
        ...

    def with_start(self, token: int) -> Any: ...


class ChatTemplateLike(Protocol):
    """A `jaxlm.chat.template.ChatTemplate`."""

    @property
    def source(self) -> str: ...

    def files(self) -> dict[str, bytes]: ...


class LanguageModel(Protocol):
    """The model (a Flax NNX module) that an objective, the generator and the evaluator need."""

    config: ModelConfig
    task_head: Any  # a `jaxlm.nn.heads.base.TaskHead`, where an objective has one

    def __call__(
        self,
        tokens: jax.Array,  # [B, T]
        *,
        positions: jax.Array,  # [B, T]
        segment_ids: jax.Array,  # [B, T]
        cache: Cache | None = None,
        encoded: Encoded | None = None,
        key: jax.Array | None = None,
    ) -> Output:
        """Hidden states, and the cache after these tokens; `key` switches dropout on."""
        ...

    def encode(
        self,
        tokens: jax.Array,  # [B, S]
        *,
        positions: jax.Array,  # [B, S]
        segment_ids: jax.Array,  # [B, S]
        key: jax.Array | None = None,
    ) -> Encoded:
        """The encoder's output for a source text; only if `config.is_encoder_decoder`."""
        ...

    def head_input(self, hidden: jax.Array) -> jax.Array:  # [B, T, D] -> [B, T, D]
        """The array that the head's kernel is multiplied with; only if `config.descends`."""
        ...

    def head(self) -> Any:  # kernels.cross_entropy.HeadParams
        """The layer from hidden states to logits; only if `config.descends`."""
        ...

    def logits(self, hidden: jax.Array) -> jax.Array:  # [B, T, D] -> [B, T, V] float32
        ...

    def token_loss(self, hidden: jax.Array, targets: jax.Array) -> Any:
        """A `jaxlm.kernels.cross_entropy.TokenLoss` [B, T] of the targets, without a gradient and
        without logits of the whole text in memory; by `jaxlm.kernels.head_loss.token_loss` where
        the model has a head.
        """
        ...

    def init_cache(
        self, batch_size: int, max_len: int, encoded: Encoded | None = None
    ) -> Cache: ...


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """A model's shape; `build` makes the NNX module."""

    kind: ClassVar = Kind("models", "model", folder="jaxlm.models")

    if TYPE_CHECKING:  # a field of every model's own, so that it has its place among the others
        vocab_size: Any = None  # int | None; None: the tokenizer's
        prompt: Any = None  # PromptFormat | None; of models that do not continue a prompt
        dtype: Any = "auto"  # Dtype

    def computing_on(self, platform: str) -> Self:
        """The model with `dtype: auto` chosen for "cpu", "gpu" or "tpu", in its encoder as well.

        A CPU has no fast bfloat16: a step in it takes up to a third more time there.
        """
        chosen = "float32" if platform == "cpu" else "bfloat16"
        changes: dict[str, Any] = {}
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if setting.name == "dtype" and value == "auto":
                changes["dtype"] = chosen
            elif getattr(value, "dtype", None) == "auto":
                changes[setting.name] = value.replace(dtype=chosen)
        return self.replace(**changes)

    @property
    def descends(self) -> bool:
        """Whether it has hidden states and a head with a gradient: not one that is counted, and not
        a table of word vectors.
        """
        return True

    @property
    def gives_bags(self) -> bool:
        """Whether its output is the features of a text (`jaxlm.nn.bags`), not hidden states."""
        return False

    @property
    def passes(self) -> int:
        """The passes over the training records in which it is counted, before it is trained."""
        return 0

    @property
    def output_size(self) -> int:
        """Size of the hidden states that the model returns (D), or the number of its features."""
        raise NotImplementedError

    @property
    def max_positions(self) -> int | None:
        """The longest text that the model has positions for; None: no limit."""
        return None

    @property
    def max_source_positions(self) -> int | None:
        """The longest source that the encoder has positions for; None: no limit."""
        return None

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads a source text first."""
        return False

    @property
    def has_pooler(self) -> bool:
        """Whether the model has `pool(hidden)`: a vector that it makes of a row itself."""
        return False

    @property
    def pipelines(self) -> bool:
        """Whether its layers can be the stages of a pipeline."""
        return False

    def check_stages(self, stages: int, repeats: int) -> None:
        """Raises `UserError` where stages, passed so often, cannot share its kinds of layers."""

    @property
    def sees_ahead(self) -> bool:
        """Whether a token attends to later tokens, as in an encoder."""
        return False

    @property
    def made_for(self) -> str | None:
        """The type of the objective that published weights were trained for, where no task's head
        is among them; None: it is not known.
        """
        return None

    @property
    def row_keys(self) -> frozenset[str]:
        """Keys of a batch that the model reads besides tokens, positions and segment_ids."""
        return frozenset()

    @property
    def num_token_types(self) -> int:
        """Token types that it tells apart, where `token_types` are among its `row_keys`."""
        return 0

    def for_data(self, rows: RowSpec, tokenizer: Tokenizer) -> Self:
        """The config with what only the rows of the data and the tokenizer can tell filled in."""
        return self

    @property
    def prompt_format(self) -> PromptFormatLike | None:
        """The format that turns a prompt into the model's ids; None: a text continues it."""
        return None

    @property
    def rewinds(self) -> bool:
        """Whether the model has `rewind(cache, n)`: the cache without its last n tokens."""
        return False

    @property
    def carries_state(self) -> bool:
        """Whether training passes the recurrent state on from one window to the next."""
        return False

    def word_vectors(self, params: Mapping[str, Any], tokenizer: Tokenizer) -> np.ndarray | None:
        """[V, D] float32, the vectors that the parameters give each id of the tokenizer; None: the
        model learns no vectors of words.
        """
        return None

    def spelled_vector(
        self, params: Mapping[str, Any], tokenizer: Tokenizer
    ) -> Callable[[str], np.ndarray | None] | None:
        """A function that gives a word that the tokenizer lacks a vector [D], by its spelling, or
        None where it cannot; None: no such word has one.
        """
        return None

    @property
    def has_word_vectors(self) -> bool:
        """Whether `word_vectors` gives some."""
        return type(self).word_vectors is not ModelConfig.word_vectors

    def build(self, vocab_size: int, *, rngs: nnx.Rngs) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(Config):
    """The attention of tokens to each other."""

    kind: ClassVar = Kind("attentions", "attention", folder="jaxlm.nn", default="multi_head")

    if TYPE_CHECKING:  # fields that every attention has
        num_heads: Any = None
        is_causal: Any = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names that the backward pass may find its tensors by (`jaxlm.nn.stack.Remat`)."""
        raise NotImplementedError

    @property
    def projects_latents(self) -> bool:
        """Whether keys and values are projections of a latent vector (MLA)."""
        return False

    @property
    def windows(self) -> tuple[int | None, ...]:
        """One period of the layers' windows."""
        raise NotImplementedError

    def check(self, hidden_size: int) -> None:
        """Raises `UserError` if the number of heads does not fit the hidden size."""

    def rotary_size(self, hidden_size: int) -> int:
        """The number of features of a head that rotary positions may rotate."""
        raise NotImplementedError

    def score_flops(self, hidden_size: int) -> float:
        """Forward FLOPs for each pair of query and key: the score and the weighted sum."""
        raise NotImplementedError

    def build(self, dim: int, *, norm: NormConfig, **options: Any) -> Any:
        raise NotImplementedError

    def init_cache(self, dim: int, batch_size: int, max_len: int, dtype: Any) -> Any:
        """One layer's empty slots, {name: [B, ...]}, of `max_len` tokens along one of the dims."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FFNConfig(Config):
    """The feed-forward network of a block, applied to each token by itself."""

    kind: ClassVar = Kind("ffns", "ffn", folder="jaxlm.nn", default="dense")

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names that the backward pass may find its tensors by (`jaxlm.nn.stack.Remat`)."""
        raise NotImplementedError

    @property
    def routes(self) -> bool:
        """Whether training needs the router's output: its losses, or the load of its experts."""
        return False

    def build(self, dim: int, **options: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class NormConfig(Config):
    """The normalisation of hidden states."""

    kind: ClassVar = Kind("norms", "norm", folder="jaxlm.nn", default="rmsnorm")

    def build(self, dim: int) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PositionConfig(Config):
    """The position encoding of the model: by `add`, by `angles`, by `bias`, or by several of them.

    Queries and keys are rotated in each layer; `add` and `bias` are called once for all layers.
    """

    kind: ClassVar = Kind("positions", "position", folder="jaxlm.nn", default="rotary")

    def check_head(self, head_dim: int) -> None:
        """Raises `UserError` for heads of a size that these positions cannot turn."""

    def build(self, dim: int, num_heads: int, **options: Any) -> Any:
        """The module with the parameters of these positions; None if they have no parameters.

        `options`: `std` and `dtype` of the stack, and `rngs`.
        """
        return None

    def add(self, x: jax.Array, positions: jax.Array, module: Any, **rows: jax.Array) -> jax.Array:
        """The embeddings x [B, T, D], with what these positions add to them.

        `positions` [B, T]: 0 begins a document. `module` is what `build` made; `rows` has the
        arrays of `row_keys` that the caller has.
        """
        return x

    def angles(self, rows: Any, head_dim: int) -> Any:
        """A `jaxlm.nn.position.Rotary` for these rows; None for positions that do not rotate."""
        return None

    def bias(self, module: Any, is_causal: bool) -> Any:
        """A `jaxlm.kernels.attention.Bias` for the scores of each layer; None: no bias.

        `module` is what `build` made. Positions that have one say so in `has_bias`.
        """
        return None

    @property
    def has_bias(self) -> bool:
        """Whether `bias` returns one; attention's kernels and the plan depend on it."""
        return False

    @property
    def per_layer(self) -> bool:
        """Whether they act by `angles` alone, so that each layer may have others."""
        return False

    @property
    def interleaved(self) -> bool | None:
        """Whether `angles` rotate the pairs (2i, 2i+1); None: no pairs, or (i, i + half)."""
        return None

    @property
    def grows(self) -> bool:
        """Whether a token's angles depend on later tokens, so that no token can be taken back."""
        return False

    @property
    def row_keys(self) -> frozenset[str]:
        """Keys of a batch that `add` reads besides positions."""
        return frozenset()

    @property
    def limit(self) -> int | None:
        """The number of positions that have parameters; None: no limit."""
        return None


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Config):
    """A tokenizer: trained on the corpus, loaded from a file, or fixed."""

    kind: ClassVar = Kind("tokenizers", "tokenizer", folder="jaxlm.data.tokenizers")

    def build(
        self, texts: Callable[[], Iterator[str]], corpus_fingerprint: str, cache_dir: Path
    ) -> Tokenizer:
        """The tokenizer; one that is trained reads `texts` and is kept in the cache."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Config):
    """A factor in [0, 1] of the peak learning rate, by step."""

    kind: ClassVar = Kind("schedules", "schedule", folder="jaxlm.optim.schedules")

    def build(self, total_steps: int) -> Callable[[Any], jax.Array]:
        """The factor at a step, for a run of `total_steps`."""
        raise NotImplementedError


class Tokenizer(Protocol):
    """Text to ids and back. `token_bytes[i]` is what id i adds to the text (b"": special)."""

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    adds_bos: bool
    adds_eos: bool
    adds_space: bool
    grows: bool
    separators: int
    unk_id: int | None
    pad_id: int
    token_bytes: list[bytes]

    @property
    def chat_template(self) -> ChatTemplateLike | None: ...

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...

    def decode(self, ids: Any) -> str: ...

    def id_of(self, token: str) -> int | None: ...

    def encode_with_offsets(
        self, text: str, *, special: bool = False
    ) -> tuple[list[int], list[tuple[int, int]]]: ...

    @property
    def special_tokens(self) -> dict[str, int]: ...

    def fingerprint(self) -> str: ...

    def save(self, folder: Any) -> None: ...


class RowDataset(Protocol):
    """Rows at random access: row i is a pure function of (seed, i), for every i >= 0.

    A row is a dict of numpy arrays with the batch's keys (without B), and "id", an int64 that names
    the sample. Rows repeat epoch after epoch, reshuffled; `rows_per_epoch` rows make one.
    """

    @property
    def rows_per_epoch(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...
