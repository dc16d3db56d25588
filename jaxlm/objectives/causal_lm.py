"""Causal language modelling: predict each token from those before it in its document.

    loss = sum_t w_t (-log p(x_t | x_<t) + z_loss * logsumexp(logits)^2) / sum_t w_t

Label smoothing mixes the target with a uniform distribution (Szegedy et al. 2016,
arXiv:1512.00567); the z-loss keeps the softmax normaliser near 1 (Chowdhery et al. 2022,
arXiv:2204.02311, section 5). Validation reports the plain negative log-likelihood, and the same in
bits per UTF-8 byte and per character, which do not depend on the tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.config import field
from jaxlm.kernels.head_loss import head_loss
from jaxlm.objectives.base import Loss, Objective

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from jaxlm.types import Batch, Cache, LanguageModel, ModelConfig, Tokenizer


@dataclass(frozen=True, kw_only=True)
class CausalLM(Objective):
    """Predict the next token."""

    label_smoothing: float = field(0.0, "share of the target given to all tokens alike", ge=0, lt=1)
    z_loss: float = field(0.0, "weight of the squared log of the softmax's normaliser", ge=0)

    @property
    def generates(self) -> bool:
        return True

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> LanguageModel:
        return model.build(model.vocab_size, rngs=rngs)

    def host_transform(self, tokenizer: Tokenizer) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Raw token rows [T + 1] -> inputs, targets and weights [T].

        A target counts where it belongs to the same document as its input, so no document is asked
        to predict the next one's start.
        """
        pieces = tokenizer.token_bytes
        num_bytes = np.array([len(piece) for piece in pieces], np.int32)
        num_chars = np.array([sum((b & 0xC0) != 0x80 for b in piece) for piece in pieces], np.int32)

        def transform(row: Mapping[str, Any]) -> dict[str, Any]:
            tokens, segments = row["tokens"], row["segment_ids"]  # [T + 1]
            targets = tokens[1:]
            counts = (segments[1:] == segments[:-1]) & (segments[1:] > 0)
            return {
                "tokens": tokens[:-1],
                "targets": targets,
                "loss_weights": counts.astype(np.float32),
                "segment_ids": segments[:-1],
                "positions": row["positions"][:-1],
                "num_bytes": (num_bytes[targets] * counts).sum(dtype=np.int32),
                "num_chars": (num_chars[targets] * counts).sum(dtype=np.int32),
            }

        return transform

    def loss(
        self, model: LanguageModel, batch: Batch, *, key: jax.Array | None, cache: Cache | None
    ) -> Loss:
        out = model(
            batch["tokens"],
            positions=batch["positions"],
            segment_ids=batch["segment_ids"],
            cache=cache,
            key=key,
        )
        weights = batch["loss_weights"]  # [B, T]
        loss_sum, token = head_loss(
            model.head_input(out.hidden),  # [B, T, D]
            model.head(),
            batch["targets"],
            weights,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
        )
        weight = weights.sum()
        nll = (token.nll * weights).sum()
        metrics = {
            "loss": (nll, weight),
            "accuracy": ((token.correct * weights).sum(), weight),
            "bits_per_byte": (nll / math.log(2), batch["num_bytes"].astype(nll.dtype).sum()),
            "bits_per_char": (nll / math.log(2), batch["num_chars"].astype(nll.dtype).sum()),
        }
        for name, by_row in out.losses.items():
            metrics[name] = ((by_row * weights.sum(-1)).sum(), weight)
            loss_sum += metrics[name][0]
        return Loss(loss_sum, weight, metrics, out.cache, out.load)

    def summarize(self, metrics: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
        values = super().summarize(metrics)
        values["perplexity"] = math.exp(min(values["loss"], 700.0))
        return values
