"""Masked language modelling: predict tokens that were hidden, from the text around them.

Devlin et al. 2018 (arXiv:1810.04805, section 3.1): of the tokens that are chosen, each with
probability `rate`, 80% become [MASK], 10% a random token and 10% stay; all of them are predicted.
They are chosen again whenever a row comes again (Liu et al. 2019, arXiv:1907.11692, section 4.1),
and once for all in the validation split.

    text     the  cat   sat  on   the  mat
    tokens   the [MASK] sat  on  [MASK] mat         targets    . cat . . the .

Special tokens and padding are never chosen, nor put in another's place. With `whole_words` all
pieces of a word are chosen together, a word being what begins with a space or after a special
token: of use for languages that write spaces, and for tokenizers whose pieces have theirs in front.

Rows whose masks are given (task `fill_mask`) are read as they are, and `predict` says what belongs
in their masks.

A row of T tokens is the first T of the data's T + 1: the last is the next row's first. [MASK] is
found as `jaxlm.objectives.ids` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.rows import RowSpec
from jaxlm.objectives.base import Transform, record_rng, text_ids
from jaxlm.objectives.ids import choose_ids
from jaxlm.objectives.prediction import PREDICTED, TokenPrediction
from jaxlm.tasks.fill_mask import MOST_MASKS, FillMask

if TYPE_CHECKING:
    from jaxlm.core.types import Batch, ModelConfig, Tokenizer
    from jaxlm.tasks.base import Task

LIKELIEST = 5  # tokens of a mask that are predicted


@dataclass(frozen=True, kw_only=True)
class MaskedLM(TokenPrediction):
    """Predict hidden tokens from both sides (BERT)."""

    rate: float = field(0.15, "probability that a token is predicted", gt=0, lt=1, affects="host")
    masked: float = field(
        0.8, "share of these that [MASK] takes the place of", ge=0, le=1, affects="host"
    )
    random: float = field(
        0.1, "share of these that another token takes the place of", ge=0, le=1, affects="host"
    )
    whole_words: bool = field(False, "choose all pieces of a word, or none", affects="host")
    mask: int | str | None = field(
        None, "the mask's id or spelling; null: as usual", ge=0, affects="host"
    )

    def validate(self) -> None:
        if self.masked + self.random > 1:
            raise UserError(
                f"masked, random: {self.masked} and {self.random} are more than all; lower one"
            )

    uses: ClassVar[tuple[str, ...]] = ("targets", "hidden")

    def why_silent(self, model: ModelConfig) -> str | None:
        return "fills masks and writes no text"

    def check_model(self, model: ModelConfig) -> None:
        if not model.sees_ahead or model.is_encoder_decoder:
            raise UserError(
                "objective: masked_lm needs a model that sees both sides of a mask; use one "
                "transformer without an encoder, and set model.attention.is_causal to false"
            )

    def resolve(self, prepared: Any, model: ModelConfig) -> MaskedLM:
        wanted = {"mask": (self.mask, ("[MASK]", "<mask>"))}
        return self.replace(**choose_ids(wanted, prepared.tokenizer, model))

    @property
    def own_task(self) -> Task:
        return FillMask(mask=self.mask)

    def predict(self, model: Any, batch: Batch) -> Mapping[str, jax.Array]:
        """The likeliest tokens of the masks of rows that have theirs given, in order: `ids` and
        `log_probs` [B, M, k], and `target_log_probs` [B, M]. Other rows: as the base class.
        """
        if "hidden" not in batch:
            return super().predict(model, batch)
        hidden = self.read(model, batch, None, None).hidden
        most = min(MOST_MASKS, hidden.shape[1])
        _, places = jax.lax.top_k(batch["hidden"], most)  # [B, M]; equal ones in order
        at = jnp.take_along_axis(hidden, places[..., None], axis=1)
        log_probs = jax.nn.log_softmax(model.logits(at).astype(jnp.float32))
        best, ids = jax.lax.top_k(log_probs, min(LIKELIEST, log_probs.shape[-1]))
        targets = jnp.take_along_axis(batch["targets"], places, axis=1)
        own = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
        return {"ids": ids, "log_probs": best, "target_log_probs": own}

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        """Raw token rows [T + 1] -> corrupted tokens, targets and weights [T]."""
        mask, is_text = self.mask, text_ids(tokenizer)
        if isinstance(mask, int):  # of an import it is not: its rows have their masks
            is_text[mask : mask + 1] = False  # where it is one of the tokenizer's
        others = np.flatnonzero(is_text).astype(np.int32)
        begins = np.array([piece[:1].isspace() or not piece for piece in tokenizer.token_bytes])

        def transform(row: Mapping[str, Any], index: int) -> dict[str, Any]:
            if "hidden" in row:
                return _given(row)
            assert isinstance(mask, int), "resolved"
            rng = record_rng(seed, index)
            targets, segments = row["tokens"][:-1], row["segment_ids"][:-1]
            size = len(targets)
            draws, kinds = rng.random_sample(size), rng.random_sample(size)
            substitutes = others[rng.randint(len(others), size=size)]
            if self.whole_words:
                draws = draws[_words(begins[targets], segments)]
            chosen = (draws < self.rate) & is_text[targets] & (segments > 0)
            tokens = np.where(chosen & (kinds < self.masked), np.int32(mask), targets)
            swapped = chosen & (kinds >= self.masked) & (kinds < self.masked + self.random)
            return {
                "tokens": np.where(swapped, substitutes, tokens),
                "targets": targets,
                "loss_weights": chosen.astype(np.float32),
                "segment_ids": segments,
                "positions": row["positions"][:-1],
            }

        return transform

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        if "hidden" in rows:
            return RowSpec({**PREDICTED, "hidden": rows["hidden"]}, T=rows.sizes["T"])
        return RowSpec(PREDICTED, T=rows.sizes["T"] - 1)


def _given(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose masks are given, with weights where their tokens are known."""
    known = (row["hidden"] > 0) & (row["targets"] >= 0)
    return {
        **{key: row[key] for key in ("tokens", "segment_ids", "positions", "hidden")},
        "targets": np.maximum(row["targets"], 0),
        "loss_weights": known.astype(np.float32),
    }


def _words(begins: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """[T]: the number of each token's word; a special token may share one with what follows it."""
    after = np.roll(segments, 1) != segments
    return np.cumsum(begins | after) - (begins | after)[0]
