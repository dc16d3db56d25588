"""A span of tokens is cut off (Shen et al. 2020, arXiv:2009.13818, section 3.1).

    augment: [{type: token_cutoff, rate: 0.1}]                             # one span, masked
    augment: [{type: token_cutoff, rate: 0.1, span: false, replace_by: nothing}]

From the n tokens that may go, rate * n do, rounded up as often as makes the mean exact: neighbours
among them, or with `span: false` any. They become the mask token, or are removed, and the places of
answers move along. Special tokens, tokens with a loss weight and answers stay. A row with a source
text of its own (`source_tokens`) loses tokens of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.data.augment.base import Augment, draws

if TYPE_CHECKING:
    from jaxlm.core.rows import RowSpec
    from jaxlm.core.types import Tokenizer
    from jaxlm.tasks.base import Arrays, Record, Task


@dataclass(frozen=True, kw_only=True)
class TokenCutoff(Augment):
    """Mask or remove a span of tokens."""

    rate: float = field(0.1, "share of the tokens that are cut off", ge=0, lt=1)
    span: bool = field(True, "one span of tokens; false: tokens here and there")
    replace_by: Literal["mask", "nothing"] = field(
        "mask", "mask: the tokenizer's mask token; nothing: the tokens are removed"
    )

    def check(self, task: Task) -> None:
        if self.columns:
            raise UserError("augment: token_cutoff changes tokens, not columns; remove columns")

    def prepare(self, tokenizer: Tokenizer) -> None:
        if self.replace_by == "mask" and _mask(tokenizer) is None:
            raise UserError(
                "augment: the tokenizer has no mask token; set replace_by of token_cutoff to "
                "nothing, or use a tokenizer with a mask"
            )

    def record(self, record: Record, task: Task, rng: np.random.RandomState) -> Record:
        return record

    def arrays(
        self,
        arrays: Arrays,
        task: Task,
        tokenizer: Tokenizer,
        spec: RowSpec,
        rng: np.random.RandomState,
    ) -> Mapping[str, Any]:
        dim, prefix = ("S", "source_") if "source_tokens" in arrays else ("T", "")
        tokens = np.asarray(arrays[f"{prefix}tokens"])
        stays = np.isin(tokens, [*tokenizer.special_tokens.values()])
        if not prefix:
            stays |= task.protected(arrays)
        free = np.flatnonzero(~stays)
        count = draws(self.rate, len(free), rng)
        if self.span:
            first = rng.randint(len(free) - count + 1)
            gone = free[first : first + count]
        else:
            gone = rng.permutation(free)[:count]
        if self.replace_by == "mask":
            tokens = tokens.copy()
            tokens[gone] = _mask(tokenizer)
            return {**arrays, f"{prefix}tokens": tokens}
        kept = np.delete(np.arange(len(tokens)), gone)
        shorter = {
            key: np.asarray(arrays[key])[kept] for key in spec.with_dim(dim) if key in arrays
        }
        places = {} if prefix else {key: arrays[key] for key in task.places}
        moved = {k: np.int32(v - (gone < v).sum()) for k, v in places.items()}
        return {**arrays, **shorter, **moved}


def _mask(tokenizer: Tokenizer) -> int | None:
    found = (tokenizer.id_of(name) for name in ("[MASK]", "<mask>"))
    return next((i for i in found if i is not None), None)
