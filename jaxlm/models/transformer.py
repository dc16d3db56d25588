"""The one Transformer: a family is what its config composes, never a name that code tests.

    x = embed(tokens) [+ positions] [+ token types], [norm]
    x = the blocks of `jaxlm.models.blocks`
    logits = [transform](x) @ head

A decoder (GPT, Llama), an encoder (attention.is_causal false: BERT), or an encoder-decoder (an
`encoder` whose output every block of the decoder looks at: T5).

    config = TransformerConfig(hidden_size=256, attention=MultiHeadConfig(num_heads=8))
    model = config.build(vocab_size=2048, rngs=nnx.Rngs(0))
    hidden = model(tokens, positions=positions, segment_ids=segment_ids).hidden
    logits = model.logits(hidden)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import Config, UserError, field
from jaxlm.core.types import Encoded, ModelConfig, Output
from jaxlm.data.prompt_formats.base import PromptFormat
from jaxlm.data.prompt_formats.encode_source import EncodeSource
from jaxlm.data.prompt_formats.fill_blank import FillBlank
from jaxlm.kernels.cross_entropy import HeadParams, TokenLoss
from jaxlm.kernels.cross_entropy import logits as head_logits
from jaxlm.kernels.head_loss import token_loss
from jaxlm.kernels.registry import platform
from jaxlm.mesh import shard
from jaxlm.models.blocks import Stack, StackConfig
from jaxlm.nn.dense import Dense
from jaxlm.nn.dropout import dropout, split_key
from jaxlm.nn.embed import Embedding
from jaxlm.nn.ffn import ACTIVATIONS, Activation
from jaxlm.nn.flops import matmul_flops
from jaxlm.nn.ngram_embed import ABSENT, NgramEmbeddingConfig
from jaxlm.nn.position import Rows, restart


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig(Config):
    """The embedding of tokens as vectors."""

    scale: float = field(1.0, "factor on the token embeddings", gt=0)
    norm: bool = field(False, "the model's norm on the sum of all embeddings")
    token_types: int = field(0, "kinds of tokens that have a vector of their own (BERT)", ge=0)
    ngrams: NgramEmbeddingConfig | None = field(
        None, "vectors of hashed n-grams, added to those of the tokens; null: none"
    )


@dataclass(frozen=True, kw_only=True)
class HeadConfig(Config):
    """The map from hidden states to logits."""

    tied: bool = field(True, "the head is the transposed embedding")
    bias: bool = field(False, "a bias for each token of the vocabulary")
    scale: float = field(1.0, "factor on the hidden states before the head (T5)", gt=0)
    softcap: float | None = field(None, "bounds logits to +-this by a tanh", gt=0)
    transform: Activation | None = field(
        None, "a dense layer, this activation and a norm before the head (BERT); null: none"
    )
    pooler: bool = field(False, "a dense layer and tanh on the first token, for sentence tasks")
    num_relations: int = field(
        0, "classes of a head on the pooled vector (BERT: next sentence or not)", ge=0
    )

    def validate(self) -> None:
        if self.num_relations and not self.pooler:
            raise UserError("num_relations: needs the pooled vector; set pooler to true")
        if self.transform is not None and ACTIVATIONS[self.transform][1]:
            raise UserError("transform: a gated activation is for the ffn; use gelu, relu or silu")


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(StackConfig, ModelConfig):
    """A Transformer: a decoder, an encoder, or both."""

    vocab_size: int | None = field(None, "rows of the embedding; null: the tokenizer's", ge=1)
    embedding: EmbeddingConfig = field(EmbeddingConfig, "how tokens become vectors")
    head: HeadConfig = field(HeadConfig, "how hidden states become logits")
    encoder: StackConfig | None = field(
        None, "a stack that encodes a source text, which this one attends to; null: none"
    )
    prompt: PromptFormat | None = field(
        None,
        "how a prompt becomes ids; null: an encoder reads it, or what is written continues it",
        affects="host",
    )
    family: str | None = field(
        None,
        "the family whose tensor names and config.json an export writes; null: not set",
        affects="host",
    )

    def validate(self) -> None:
        super().validate()
        if self.prompt is not None:
            self.prompt.check_model(self)
        if self.encoder is not None and self.encoder.hidden_size != self.hidden_size:
            raise UserError(
                f"encoder.hidden_size: {self.encoder.hidden_size} is not the decoder's "
                f"{self.hidden_size}; they share one embedding, make them equal"
            )
        if self.encoder is not None and self.encoder.attention.is_causal:
            raise UserError(
                "encoder.attention.is_causal: an encoder sees all of its text; set false"
            )
        if self.encoder is not None and self.encoder.dtype != self.dtype:
            raise UserError(
                f"encoder.dtype: {self.encoder.dtype}, but the decoder's is {self.dtype}; "
                "set both to the same"
            )
        ffns = [c.ffn_of(i) for c in [self.encoder] if c for i in range(c.num_layers)]
        if any(ffn.routes for ffn in ffns):
            raise UserError(
                "encoder.ffn: only a decoder's experts are balanced; set balance_loss, "
                "router_z_loss and choice_bias to 0"
            )

    @property
    def output_size(self) -> int:
        return self.hidden_size

    @property
    def max_positions(self) -> int | None:
        return self.position[0].limit

    @property
    def max_source_positions(self) -> int | None:
        return None if self.encoder is None else self.encoder.position[0].limit

    @property
    def is_encoder_decoder(self) -> bool:
        return self.encoder is not None

    @property
    def has_pooler(self) -> bool:
        return self.head.pooler

    @property
    def pipelines(self) -> bool:
        return True

    def check_stages(self, stages: int, repeats: int) -> None:
        self.check_runs(stages, repeats, "model")
        if self.encoder is not None:
            self.encoder.check_runs(stages, repeats, "model.encoder")

    @property
    def sees_ahead(self) -> bool:
        return not self.attention.is_causal

    @property
    def made_for(self) -> str | None:
        if self.prompt_format is not None:
            return None
        if self.attention.is_causal:
            return "causal_lm"
        return None if self.head.transform is None else "masked_lm"  # a BERT with its own head

    @property
    def row_keys(self) -> frozenset[str]:
        keys = {"token_types"} if self.embedding.token_types else set()
        if self.attention.is_causal and self.encoder is None:
            keys.add("prefix")
        return self.position[0].row_keys | keys

    @property
    def num_token_types(self) -> int:
        return self.embedding.token_types

    @property
    def prompt_format(self) -> PromptFormat | None:
        if self.prompt is not None:
            return self.prompt
        if self.encoder is not None:
            return EncodeSource()
        return FillBlank() if "places" in self.row_keys else None

    @property
    def rewinds(self) -> bool:
        return not any(p.grows for p in self.position)

    def build(self, vocab_size: int, *, rngs: nnx.Rngs) -> Transformer:
        """The model for a tokenizer of `vocab_size` ids."""
        if self.vocab_size is not None and self.vocab_size < vocab_size:
            raise UserError(
                f"model.vocab_size: {self.vocab_size} is less than the tokenizer's {vocab_size}; "
                f"set it to at least {vocab_size}, or to null"
            )
        model = self.computing_on(platform())
        return Transformer(model, self.vocab_size or vocab_size, rngs=rngs)


class Transformer(Stack):
    """A `jaxlm.core.types.LanguageModel`."""

    config: TransformerConfig

    def __init__(self, config: TransformerConfig, vocab_size: int, *, rngs: nnx.Rngs) -> None:
        c, self.vocab_size = config, vocab_size
        std = 0.02 if c.initializer_range is None else c.initializer_range
        options: dict[str, Any] = {"std": std, "dtype": jnp.dtype(c.dtype), "rngs": rngs}
        self.embed = Embedding(vocab_size, c.hidden_size, tied=c.head.tied, **options)
        super().__init__(c, reads_source=c.is_encoder_decoder, rngs=rngs)
        types = c.embedding.token_types
        few = {"rows": "labels", **options}
        self.token_types = Embedding(types, c.hidden_size, **few) if types else None
        ngrams = c.embedding.ngrams
        self.ngrams = None if ngrams is None else ngrams.build(c.hidden_size, **options)
        self.embedding_norm = c.norm.build(c.hidden_size) if c.embedding.norm else None
        self.encoder = Stack(c.encoder, rngs=rngs) if c.encoder is not None else None
        self.unembed = Unembed(c, vocab_size, rngs=rngs)
        self.pooler = Pooler(c, rngs=rngs) if c.head.pooler else None

    def __call__(
        self,
        tokens: jax.Array,  # [B, T] int
        *,
        positions: jax.Array,  # [B, T] int
        segment_ids: jax.Array,  # [B, T] int
        cache: dict[str, Any] | None = None,
        encoded: Encoded | None = None,
        key: jax.Array | None = None,
        prefix: jax.Array | None = None,
        token_types: jax.Array | None = None,
        with_states: bool = False,
        **of_positions: jax.Array | None,
    ) -> Output:
        """Hidden states [B, T, D] after the final norm, and the cache with T more slots.

        `encoded`: the source, where there is an encoder and no cache that holds it. `prefix`
        [B, T]: tokens that all of their document sees. `token_types` [B, T]: 0 by default.
        `with_states`: the hidden states after every layer. `of_positions`: what the config's
        positions read (`PositionConfig.row_keys`), such as the places within blanks; None: absent.
        """
        embed_key, layers_key = split_key(key, 2)
        rows = Rows(positions, segment_ids, prefix)
        if cache is None:
            rows = rows._replace(positions=restart(positions, segment_ids))
        own = {name: x for name, x in of_positions.items() if x is not None}
        assert own.keys() <= self.config.position[0].row_keys, f"{[*own]}: no positions read it"
        before, cache = self._before(tokens, cache)
        x = self._embed(tokens, rows.positions, own, token_types, embed_key, before=before)
        run = partial(self.run_layers, x, rows, key=layers_key, with_states=with_states)
        if cache is None:
            found = run(encoded=encoded)
        else:
            keys = _write_rows(cache, rows)
            found = run(
                slots=cache["slots"],
                keys=keys,
                start=cache["length"],
                source=cache.get("source"),
                encoded=cache.get("encoded"),
            )
            length = cache["length"] + tokens.shape[1]
            cache = {**cache, **keys._asdict(), "slots": found.slots, "length": length}
        states = jnp.concatenate([x[None], found.states]) if with_states else None
        return Output(found.hidden, cache, found.losses, states, found.load)

    def encode(
        self,
        tokens: jax.Array,  # [B, S] int
        *,
        positions: jax.Array,
        segment_ids: jax.Array,
        key: jax.Array | None = None,
        with_states: bool = False,
    ) -> Any:
        """The encoder's output for a source; with its states after every layer if asked for."""
        assert self.encoder is not None, "this model has no encoder"
        embed_key, layers_key = split_key(key, 2)
        x = self._embed(tokens, positions, {}, None, embed_key, into=self.encoder)
        rows = Rows(positions, segment_ids)
        found = self.encoder.run_layers(x, rows, key=layers_key, with_states=with_states)
        encoded = Encoded(found.hidden, segment_ids)
        if with_states:
            return encoded, jnp.concatenate([x[None], found.states])
        return encoded

    @jax.named_scope("head")
    def pool(self, hidden: jax.Array) -> jax.Array:  # [B, T, D] -> [B, D]
        """The pooled vector of each row: its first token, through a dense layer and a tanh."""
        assert self.pooler is not None, "this model has no pooler"
        return self.pooler(hidden)

    @jax.named_scope("head")
    def relation(self, pooled: jax.Array) -> jax.Array:  # [B, D] -> [B, C]
        """Float32 logits of the relation between the two parts of a row (next sentence or not)."""
        assert self.pooler is not None and self.pooler.relation is not None
        return self.pooler.relation(pooled).astype(jnp.float32)

    @jax.named_scope("head")
    def head_input(self, hidden: jax.Array) -> jax.Array:  # [B, T, D] -> [B, T, D]
        return self.unembed.prepare(hidden)

    @jax.named_scope("head")
    def head(self) -> HeadParams:
        """The kernel [D, V] in the compute dtype, not yet gathered, the bias and the soft cap."""
        own, bias = self.unembed.kernel, self.unembed.bias
        kernel = self.embed.attend() if own is None else own.get_value().astype(self.dtype)
        return HeadParams(
            kernel,
            bias=None if bias is None else bias.get_value(),
            softcap=self.config.head.softcap,
            tied=own is None,
        )

    def logits(self, hidden: jax.Array) -> jax.Array:  # [B, T, D] -> [B, T, V]
        """Float32 logits."""
        logits = head_logits(self.head_input(hidden), self.head().gathered())
        return shard(logits, "batch", "head_length", "act_vocab")

    def token_loss(self, hidden: jax.Array, targets: jax.Array) -> TokenLoss:
        """The loss of each target [B, T], without a gradient."""
        return token_loss(self.head_input(hidden), self.head(), targets)

    def init_cache(
        self, batch_size: int, max_len: int, encoded: Encoded | None = None
    ) -> dict[str, Any]:
        """An empty cache of `max_len` slots a row: the slots of every layer, the positions of their
        tokens, and the source. Slots with segment id 0 are not seen, so prompts are padded on the
        left.
        """
        slots = jnp.zeros((batch_size, max_len), jnp.int32)
        rows = Rows(slots, slots, slots.astype(bool))
        cache = {
            **rows._asdict(),
            **self._no_tokens(batch_size, max_len),
            "slots": self.init_slots(batch_size, max_len),
            "length": jnp.zeros((), jnp.int32),
        }
        if encoded is None:
            return cache
        source = self.project_source(encoded.hidden)
        known = encoded._replace(hidden=encoded.hidden[:, :0])  # only its segment ids are needed
        return {**cache, "source": source, "encoded": known}

    def _no_tokens(self, batch_size: int, max_len: int) -> dict[str, jax.Array]:
        """The tokens of an empty cache, which n-grams look back at: slot s is in column s + n."""
        if self.ngrams is None:
            return {}
        width = max_len + self.ngrams.config.reach
        return {"tokens": jnp.full((batch_size, width), ABSENT, jnp.int32)}

    def _before(self, tokens: jax.Array, cache: Any) -> tuple[jax.Array | None, Any]:
        """The tokens [B, n] of the cache before new ones, and the cache with these."""
        if cache is None or self.ngrams is None:
            return None, cache
        reach, length = self.ngrams.config.reach, cache["length"]
        known = cache["tokens"]
        before = jax.lax.dynamic_slice_in_dim(known, length, reach, axis=1)
        new = tokens.astype(known.dtype)
        after = jax.lax.dynamic_update_slice(known, new, (0, length + reach))
        return before, {**cache, "tokens": after}

    def rewind(self, cache: dict[str, Any], count: jax.Array) -> dict[str, Any]:
        """The cache without its last `count` tokens.

        Their slots have later positions than the next queries, so they are not seen until they are
        overwritten.
        """
        return cache | {"length": cache["length"] - count}

    def flops_per_token(
        self, seq_len: int, *, is_causal: bool = True, source_len: int | None = None
    ) -> float:
        """Forward FLOPs a token in rows of `seq_len` tokens.

        2 for each weight that a token meets, and what attention costs for each key that a query
        meets. `is_causal` counts the keys up to the query's own, else all of the row. With an
        encoder, a token has its share of a source of `source_len` tokens, by default as many as
        the row has. A backward pass costs twice as much.
        """
        total = matmul_flops(self) + self.score_flops(seq_len, is_causal=is_causal)
        if self.encoder is not None:
            c, size = self.config, seq_len if source_len is None else source_len
            met = matmul_flops(self.encoder) + self.source_flops()  # by tokens of the source
            total += met * (size / seq_len - 1)
            total += self.encoder.score_flops(size, is_causal=is_causal) * size / seq_len
            total += c.num_layers * c.attention.score_flops(c.hidden_size) * size
        return total

    @jax.named_scope("embedding")
    def _embed(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        of_positions: Mapping[str, jax.Array],
        token_types: jax.Array | None,
        key: jax.Array | None,
        into: Stack | None = None,
        before: jax.Array | None = None,
    ) -> jax.Array:
        """The vectors that enter a stack: this one's, or that of the encoder. `before`: the tokens
        [B, n] before the first one, for n-grams.
        """
        c = self.config
        x = shard(self.embed(tokens), "batch", "length", "act_embed")
        if c.embedding.scale != 1.0:
            x = x * jnp.asarray(c.embedding.scale, x.dtype)
        if self.token_types is not None:
            types = jnp.zeros_like(tokens) if token_types is None else token_types
            x = x + self.token_types(types)
        if self.ngrams is not None:
            x = x + self.ngrams(tokens, positions, before)
        x = (self if into is None else into).add_positions(x, positions, **of_positions)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        return shard(dropout(x, c.dropout, key), "batch", "stream_length", "act_embed")


class Unembed(nnx.Module):
    """The head's own parameters: a kernel [D, V] where it is not tied, a bias, a transform."""

    def __init__(self, config: TransformerConfig, vocab_size: int, *, rngs: nnx.Rngs) -> None:
        c = config
        options: dict[str, Any] = {"std": c.initializer_range, "rngs": rngs}
        embed = {"embed": c.hidden_size}
        self.scale, self.activation = c.head.scale, c.head.transform
        tied = c.head.tied
        self.kernel = None if tied else Dense(embed, {"vocab": vocab_size}, **options).kernel
        zeros = jnp.zeros((vocab_size,), jnp.float32)
        self.bias = nnx.Param(zeros, axes=("vocab",)) if c.head.bias else None
        options["dtype"] = jnp.dtype(c.dtype)
        plain = c.head.transform is None
        square = {"act_embed": c.hidden_size}
        self.transform = None if plain else Dense(embed, square, bias=True, **options)
        self.norm = None if plain else c.norm.build(c.hidden_size)
        self.size = c.hidden_size * vocab_size

    def prepare(self, hidden: jax.Array) -> jax.Array:
        if self.activation is not None:
            assert self.transform is not None and self.norm is not None
            hidden = self.norm(ACTIVATIONS[self.activation][0](self.transform(hidden)))
        return hidden if self.scale == 1.0 else hidden * jnp.asarray(self.scale, hidden.dtype)

    def matmul_flops(self) -> float:
        """The head's product counts whether its kernel is tied or not (`jaxlm.nn.flops`)."""
        transform = 0.0 if self.transform is None else self.transform.matmul_flops()
        return 2.0 * self.size + transform


class Pooler(nnx.Module):
    """The first token's hidden state through a dense layer and tanh, and classes over it."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs) -> None:
        c = config
        options: dict[str, Any] = {"std": c.initializer_range, "dtype": c.dtype, "rngs": rngs}
        embed, classes = {"embed": c.hidden_size}, {"labels": c.head.num_relations}
        self.dense = Dense(embed, {"act_embed": c.hidden_size}, bias=True, **options)
        self.relation = Dense(embed, classes, bias=True, **options) if classes["labels"] else None

    def __call__(self, hidden: jax.Array) -> jax.Array:
        return jnp.tanh(self.dense(hidden[:, 0]))

    def matmul_flops(self) -> float:
        return 0.0  # once a row, not once a token


def _write_rows(cache: dict[str, Any], rows: Rows) -> Rows:
    """The positions and segment ids of all slots, including the new tokens."""
    prefix = jnp.zeros(rows.positions.shape, bool) if rows.prefix is None else rows.prefix
    new = rows._replace(prefix=prefix)._asdict()
    at = (0, cache["length"])
    return Rows(
        **{
            name: jax.lax.dynamic_update_slice(cache[name], x.astype(cache[name].dtype), at)
            for name, x in new.items()
        }
    )
