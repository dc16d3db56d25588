"""The recurrent encoder-decoder, with or without attention: reads a source, writes a text.

    hidden_s, last states = encoder(embed(source))        `jaxlm.models.rnn_encoder`
    hidden_t = decoder(embed(text), hidden_s, states)     `jaxlm.models.rnn_decoder`
    logits = hidden_t @ head + bias

    attention: none             Sutskever et al. 2014 (arXiv:1409.3215), Cho et al. 2014
    attention: bahdanau         Bahdanau et al. 2015 (arXiv:1409.0473): cell gru, bidirectional
    attention: luong_general    Luong et al. 2015 (arXiv:1508.04025); luong_dot, luong_concat

It has the interface of the Transformer's encoder-decoder:

    model = RNNSeq2SeqConfig(cell="gru", attention="bahdanau").build(vocab_size, rngs=rngs)
    encoded = model.encode(source, positions=..., segment_ids=...)
    hidden = model(text, positions=..., segment_ids=..., encoded=encoded).hidden
    cache = model.init_cache(batch_size, max_len, encoded)       # for one step at a time

A row may hold several pairs: segment i of the text belongs to segment i of the row's source, starts
from its last state and attends to nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import UserError, field, suggest
from jaxlm.core.errors import shown
from jaxlm.core.types import Dtype, Encoded, ModelConfig, Output
from jaxlm.data.prompt_formats.base import PromptFormat
from jaxlm.data.prompt_formats.encode_source import EncodeSource
from jaxlm.kernels.recurrence import Activation
from jaxlm.kernels.registry import platform
from jaxlm.mesh import shard
from jaxlm.models.rnn import check_cell
from jaxlm.models.rnn_decoder import Decoder
from jaxlm.models.rnn_encoder import Encoder, EncoderConfig
from jaxlm.models.rnn_head import Unembed, WithHead
from jaxlm.nn.dropout import dropout, split_key
from jaxlm.nn.embed import Embedding
from jaxlm.nn.flops import matmul_flops
from jaxlm.nn.recurrent import CELLS, Initializer


@dataclass(frozen=True, kw_only=True)
class RNNSeq2SeqConfig(ModelConfig):
    """A recurrent encoder-decoder: LSTM, GRU or Elman RNN, with attention or without."""

    cell: str = field("lstm", "kind of layer: lstm, gru or elman")
    hidden_size: int = field(512, "width of the decoder's layers", ge=1, le=2**20)
    num_layers: int = field(1, "recurrent layers of the decoder", ge=1, le=2000)
    encoder: EncoderConfig = field(EncoderConfig, "the layers that read the source")
    attention: Literal["none", "bahdanau", "luong_general", "luong_dot", "luong_concat"] = field(
        "bahdanau", "how the decoder attends to the source"
    )
    attention_size: int | None = field(
        None, "width of additive scores (bahdanau, luong_concat); null: hidden_size", ge=1
    )
    input_feeding: bool = field(
        False, "an output goes into the next step's input (Luong et al., section 3.3)"
    )
    bridge: Literal["dense", "copy", "zero"] = field(
        "dense", "the decoder starts from a map of the encoder's last states, from them, or from 0"
    )
    embedding_size: int | None = field(None, "width of embeddings; null: hidden_size", ge=1)
    vocab_size: int | None = field(None, "rows of the embedding; null: the tokenizer's", ge=1)
    prompt: PromptFormat | None = field(
        None, "how a prompt becomes ids; null: the encoder reads it", affects="host"
    )
    share_embeddings: bool = field(True, "source and text are looked up in one table")
    tie_embeddings: bool = field(False, "the head is the transpose of the text's embedding")
    activation: Activation = field("tanh", "activation of the Elman cell")
    dropout: float = field(0.0, "on the input of every layer and on the output", ge=0, lt=1)
    initializer: Initializer = field(
        "uniform", "the cells' kernels at the start: +-1/sqrt(H), or orthogonal"
    )
    initializer_range: float = field(
        0.05, "standard deviation of embeddings and of an untied head", gt=0
    )
    logit_softcap: float | None = field(None, "z -> cap * tanh(z / cap) on the logits", gt=0)
    remat: Literal["none", "full"] = field(
        "none", "what is computed again in the backward pass: nothing, or layers and decoder steps"
    )
    recurrence: str = field(
        "auto", "implementation of the encoder's loop over time: auto, scan or reference"
    )
    dtype: Dtype = field(
        "auto",
        "activations and matmuls (states are float32); auto: bfloat16 on accelerators, float32 on "
        "a CPU",
        affects="schedule",
    )

    @property
    def is_encoder_decoder(self) -> bool:
        return True

    @property
    def prompt_format(self) -> PromptFormat:
        return self.prompt or EncodeSource()

    @property
    def input_size(self) -> int:
        return self.embedding_size or self.hidden_size

    @property
    def output_size(self) -> int:
        return self.input_size if self.tie_embeddings else self.hidden_size

    @property
    def source_size(self) -> int:
        """Width of the encoder's outputs."""
        width = self.encoder.hidden_size or self.hidden_size
        return 2 * width if self.encoder.bidirectional else width

    def validate(self) -> None:
        gated = [name for name, cell in CELLS.items() if cell.recurrent_kernel]
        if self.cell not in gated:
            raise UserError(f"cell: unknown cell {shown(self.cell)}; {suggest(self.cell, gated)}")
        check_cell(self, self.cell)
        self._validate_attention()
        self._validate_widths()

    def _validate_attention(self) -> None:
        kind = self.attention
        if self.input_feeding and not kind.startswith("luong"):
            raise UserError(
                f"input_feeding: attention {kind} has no output to feed; set it to false, or use "
                "luong_general, luong_dot or luong_concat"
            )
        if self.attention_size is not None and kind not in ("bahdanau", "luong_concat"):
            raise UserError(
                f"attention_size: attention {kind} has no width of its own; leave it out, or use "
                "bahdanau or luong_concat"
            )
        if kind == "none" and self.bridge == "zero":
            raise UserError(
                "bridge: a decoder without attention or bridge ignores its source; use dense or "
                "copy"
            )
        if kind == "luong_dot" and self.source_size != self.hidden_size:
            raise UserError(
                f"attention: luong_dot needs an encoder as wide as the decoder's {self.hidden_size}"
                f", not {self.source_size}; set encoder.hidden_size, or use luong_general"
            )

    def _validate_widths(self) -> None:
        layers, encoder = self.num_layers, self.encoder.num_layers
        if self.bridge == "copy" and (layers, self.hidden_size) != (encoder, self.source_size):
            raise UserError(
                f"bridge: copy needs {layers} encoder layers that give {self.hidden_size}, not "
                f"{encoder} of {self.source_size}; set encoder.num_layers and "
                "encoder.hidden_size, or use dense"
            )
        if self.attention == "none" and self.output_size != self.hidden_size:
            raise UserError(
                "tie_embeddings: without attention the output is as wide as the layers; leave "
                "embedding_size out, or set it to false"
            )

    def build(self, vocab_size: int, *, rngs: nnx.Rngs) -> RNNSeq2Seq:
        self.validate()
        if self.vocab_size is not None and self.vocab_size < vocab_size:
            raise UserError(
                f"vocab_size: {self.vocab_size} is less than the tokenizer's {vocab_size}; set it "
                f"to {vocab_size} or more, or leave it out"
            )
        model = self.computing_on(platform())
        return RNNSeq2Seq(model, self.vocab_size or vocab_size, rngs=rngs)


class RNNSeq2Seq(WithHead):
    """A recurrent `LanguageModel` with an encoder."""

    def __init__(self, config: RNNSeq2SeqConfig, vocab_size: int, *, rngs: nnx.Rngs) -> None:
        c, self.vocab_size = config, vocab_size
        self.config = config
        dtype = jnp.dtype(c.dtype)
        table: dict[str, Any] = {"std": c.initializer_range, "dtype": dtype, "rngs": rngs}
        self.embed = Embedding(vocab_size, c.input_size, tied=c.tie_embeddings, **table)
        separate = not c.share_embeddings
        self.source_embed = Embedding(vocab_size, c.input_size, **table) if separate else None
        cells: dict[str, Any] = {
            "activation": c.activation,
            "initializer": c.initializer,
            "dtype": dtype,
            "impl": c.recurrence,
        }
        self.encoder = Encoder(c, c.input_size, rngs=rngs, **cells)
        widths = {"source": c.source_size, "output": c.output_size}
        self.decoder = Decoder(c, **widths, rngs=rngs, **cells)
        self.unembed = Unembed(c, c.output_size, vocab_size, rngs=rngs)

    def __call__(
        self,
        tokens: jax.Array,  # [B, T]
        *,
        positions: jax.Array,  # [B, T]
        segment_ids: jax.Array,  # [B, T]
        cache: dict[str, Any] | None = None,
        encoded: Encoded | None = None,
        key: jax.Array | None = None,
    ) -> Output:
        """Hidden states [B, T, D] and, if there is a cache, the one after these tokens.

        `encoded`: the source, where there is no cache that holds it. A text begins at position 0
        and, without a cache, with the row.
        """
        decoder_key, output_key = split_key(key, 2)
        reset = jnp.asarray(positions == 0).T
        source = None if cache is None else cache.get("source")
        if cache is None:
            reset = reset.at[0].set(True)
            carry = self.decoder.init_carry(len(tokens), self.config.output_size)
        else:
            carry = cache["carry"]
        if source is None:
            assert encoded is not None, "nothing to look at"
            source = self._source(encoded)
        x = self.embed(tokens.T, axes=(None, "batch"))  # [T, B, E]
        x = shard(x, None, "batch", "act_embed")
        x, carry = self.decoder(x, segment_ids, reset, carry, source, key=decoder_key)
        x = dropout(x.swapaxes(0, 1), self.config.dropout, output_key)  # [B, T, D]
        x = shard(x, "batch", "length", "act_embed")
        return Output(x, None if cache is None else cache | {"carry": carry})

    def encode(
        self,
        tokens: jax.Array,  # [B, S]
        *,
        positions: jax.Array,  # [B, S]
        segment_ids: jax.Array,  # [B, S]
        key: jax.Array | None = None,
    ) -> Encoded:
        """The encoder's output for a source; padding (segment 0) has no effect on it."""
        embed = self.embed if self.source_embed is None else self.source_embed
        x = shard(embed(tokens.T, axes=(None, "batch")), None, "batch", "act_embed")
        x, ends = self.encoder(x, positions, segment_ids, key=key)
        if self.config.bridge == "dense":  # it starts from the last layer alone
            ends = ends[-1:]
        ends = [] if self.config.bridge == "zero" else ends
        batch_first = jax.tree.map(lambda a: a.swapaxes(0, 1), (x, ends))
        return Encoded(batch_first[0], segment_ids, batch_first[1])

    def init_cache(
        self, batch_size: int, max_len: int, encoded: Encoded | None = None
    ) -> dict[str, Any]:
        """States before the first token, and the source; their size knows no `max_len`."""
        cache = {"carry": self.decoder.init_carry(batch_size, self.config.output_size)}
        return cache if encoded is None else cache | {"source": self._source(encoded)}

    def flops_per_token(
        self, seq_len: int, *, is_causal: bool = True, source_len: int | None = None
    ) -> float:
        """Forward FLOPs a token in rows of `seq_len` tokens, with its share of the source.

        2 for each weight that a token uses, and the cost of attention over a source of `source_len`
        tokens, by default `seq_len`. A backward pass costs twice as much, and `is_causal` changes
        nothing.
        """
        size = seq_len if source_len is None else source_len
        attention, met = self.decoder.attention, matmul_flops(self.encoder)
        total = matmul_flops(self)
        if attention is not None:
            met += attention.source_flops()
            total += size * (attention.score_flops() + 2.0 * self.config.source_size)
        return total + met * (size / seq_len - 1)

    def _source(self, encoded: Encoded) -> dict[str, Any]:
        """The arrays that the decoder computes once from a source, before its first step."""
        source = {"segment_ids": encoded.segment_ids, "ends": encoded.ends}
        attention = self.decoder.attention
        if attention is None:
            return source
        return source | attention.prepare(encoded.hidden, encoded.segment_ids)
