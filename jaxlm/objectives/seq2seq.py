"""Write a target for a source: an encoder reads the source, a decoder predicts the target.

    source_tokens   x1 x2 x3 </s>
    tokens          [start] y1 y2          targets   y1 y2 </s>

    loss = sum_t w_t (-log p(y_t | y_<t, x)) / sum_t w_t

with the terms of `jaxlm.objectives.prediction` (Sutskever et al. 2014, arXiv:1409.3215). For tasks
with `encoder: true`. A row may hold several pairs: each begins with a start of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.rows import RowSpec
from jaxlm.data.prompt_formats.encode_source import EncodeSource
from jaxlm.objectives.base import Transform
from jaxlm.objectives.prediction import PREDICTED
from jaxlm.objectives.with_source import SOURCE, WithSource, start_id

if TYPE_CHECKING:
    from jaxlm.core.types import ModelConfig, Tokenizer


@dataclass(frozen=True, kw_only=True)
class Seq2Seq(WithSource):
    """Write the target of a source, which an encoder reads."""

    needs = ("tokens", "segment_ids", "positions", *SOURCE)

    start: int | str | None = field(
        None,
        "what a target begins with; null: model.prompt.start_id, or padding",
        ge=0,
        affects="host",
    )
    source_share: float | None = field(
        None,
        "tokens of a source for each of a target, for counts of FLOPs; null: from the data",
        gt=0,
        affects="host",
    )

    def why_silent(self, model: ModelConfig) -> str | None:
        return None

    def resolve(self, prepared: Any, model: ModelConfig) -> Seq2Seq:
        sizes = prepared.row_spec.sizes
        for name, size, limit in (
            ("max_source", sizes["S"], model.max_source_positions),
            ("max_target", sizes["T"], model.max_positions),
        ):
            if limit is not None and size > limit:
                raise UserError(
                    f"data.task.{name}: {size} tokens pass the {limit} positions that the model "
                    f"has for them; set it to at most {limit}"
                )
        return self.replace(
            start=start_id(self.start, prepared.tokenizer, model),
            source_share=sizes["S"] / sizes["T"],
        )

    def complete(self, model: ModelConfig) -> ModelConfig:
        start: Any = self.start  # an id, since it was resolved
        return model.replace(prompt=EncodeSource(start_id=start))

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        """Rows of targets [T] and their sources [S] -> inputs, targets and weights [T]."""
        start = self.start

        def transform(row: Mapping[str, Any], index: int) -> dict[str, Any]:
            targets, segments = row["tokens"], row["segment_ids"]
            inputs = np.roll(targets, 1)
            inputs[row["positions"] == 0] = start
            inputs[segments == 0] = tokenizer.pad_id
            return {
                **{key: row[key] for key in SOURCE},
                "tokens": inputs,
                "targets": targets,
                "loss_weights": (segments > 0).astype(np.float32),
                "segment_ids": segments,
                "positions": row["positions"],
            }

        return transform

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        return RowSpec({**SOURCE, **PREDICTED}, S=rows.sizes["S"], T=rows.sizes["T"])

    def flops_per_token(self, model: Any, seq_len: int) -> float:
        return model.flops_per_token(seq_len, source_len=round(seq_len * (self.source_share or 1)))
