"""Blank infilling: spans of a text become blanks, and are written after it, one by one.

Du et al. 2022 (GLM, arXiv:2103.10360, section 2.1): the text with its blanks, part A, is seen by
all; part B is the spans in random order, each after a start, and sees what is before it.

    text           x1  x2  x3  x4  x5  x6
    tokens         x1  x2  [M] x4  [M]  [S] x5  x6  [S] x3
    targets                             x5  x6  [E] x3  [E]
    places[..., 0]  0   1   2   3   4    4   4   4   2   2       of the blank, in part A
    places[..., 1]  0   0   0   0   0    1   2   3   1   2       within it
    prefix          1   1   1   1   1    0   0   0   0   0

A row is of one of two kinds. Short: spans of Poisson(`mean_span`) tokens until a `density` of the
row is left out, each a [MASK]. Long, with probability `long_rows`, for generation: from a random
place in its first half on, a token at least, a document is one [gMASK] to its end.

From n tokens N = round(density n) are left out in at most K = ceil(1.25 N / mean_span) spans (the
mean is N / mean_span; where the K-th is drawn, less than N may be left out). A blank adds itself
and a start, so rows have n + 2 K tokens, rounded up to a multiple of `multiple_of`.

Packed rows: each document has its own parts A and B, side by side, under its own segment id.
`positions` are the order in them, which is what a model of other positions (rotary) reads;
`places` are for models with learned positions and blocks. [MASK], [gMASK], start and end are found
as `jaxlm.objectives.ids` says; the end is the tokenizer's eos where it has one, at which
`jaxlm generate` stops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.data.prompt_formats.fill_blank import FillBlank
from jaxlm.objectives.base import Transform, record_rng, text_ids
from jaxlm.objectives.ids import choose_ids
from jaxlm.objectives.prediction import PREDICTED, TokenPrediction
from jaxlm.objectives.spans import Document, documents_of, filled, place_spans, round_up

if TYPE_CHECKING:
    import jax

    from jaxlm.core.types import Batch, Cache, ModelConfig, Output, Tokenizer

Rng = np.random.RandomState
Spans = list[tuple[int, int]]
# How files spell them: GLM's own, then those of ChatGLM.
SPELLINGS = {
    "mask": ("[MASK]", "<mask>"),
    "long_mask": ("[gMASK]",),
    "start": ("<|startofpiece|>", "<sop>", "sop"),
    "end": ("<|endofpiece|>", "<eop>", "eop"),
}


@dataclass(frozen=True, kw_only=True)
class BlankInfilling(TokenPrediction):
    """Write the blanks of a text after it (GLM)."""

    # the length that follows from them is that of the batch
    density: float = field(
        0.15, "share of the tokens that short blanks replace", gt=0, lt=1, affects="host"
    )
    mean_span: float = field(3.0, "tokens of a short blank, on average", ge=1, affects="host")
    long_rows: float = field(
        0.5, "share of rows whose ends are one blank each", ge=0, le=1, affects="host"
    )
    mask: int | str | None = field(
        None, "the token of a short blank; null: as usual", ge=0, affects="host"
    )
    long_mask: int | str | None = field(
        None, "the token of a long one; null: as usual", ge=0, affects="host"
    )
    start: int | str | None = field(
        None,
        "what a blank is written after; null: model.prompt.start_id, or as usual",
        ge=0,
        affects="host",
    )
    end: int | str | None = field(
        None, "ends what is written; null: eos, or as usual", ge=0, affects="host"
    )
    multiple_of: int = field(8, "the length of rows is rounded up to one", ge=1, affects="host")

    def why_silent(self, model: ModelConfig) -> str | None:
        if "places" in model.row_keys:
            return None
        return "writes after a prefix, with which only a model of blanks' positions is read"

    def check_model(self, model: ModelConfig) -> None:
        if "prefix" not in model.row_keys:
            raise UserError(
                "objective: blank_infilling needs a causal transformer without an encoder, whose "
                "text may begin with what all of it sees; set model.attention.is_causal to true, "
                "or use another objective"
            )

    def _counts(self, length: int) -> tuple[int, int]:
        """(tokens left out, blanks at most) of short blanks in `length` tokens."""
        noise = max(round(length * self.density), 1)
        return noise, math.ceil(1.25 * noise / self.mean_span)

    def length(self, seq_len: int) -> int:
        """Tokens of a batch's rows, for rows of `seq_len`."""
        return round_up(seq_len + 2 * self._counts(seq_len)[1], self.multiple_of)

    def resolve(self, prepared: Any, model: ModelConfig) -> BlankInfilling:
        limit = model.max_positions
        if "places" in model.row_keys and limit is not None and prepared.seq_len >= limit:
            raise UserError(
                f"data.seq_len: {prepared.seq_len} tokens in a blank, and its start, pass the "
                f"model's {limit} positions; set data.seq_len to at most {limit - 1}"
            )
        tokenizer = prepared.tokenizer
        unused = {"mask": self.long_rows == 1, "long_mask": self.long_rows == 0}
        given = {name: getattr(self, name) for name in SPELLINGS if not unused.get(name)}
        if given["start"] is None:
            given["start"] = getattr(model.prompt_format, "start_id", None)
        if given["end"] is None:
            given["end"] = tokenizer.eos_id
        ids = choose_ids({n: (given[n], SPELLINGS[n]) for n in given}, tokenizer, model)
        return self.replace(**ids)

    def complete(self, model: ModelConfig) -> ModelConfig:
        """The blanks that a prompt may have; the last one is put after a prompt that has none."""
        if "places" not in model.row_keys:
            return model
        start: Any = self.start  # ids, since they were resolved
        last: list[Any] = [i for i in (self.mask, self.long_mask) if i is not None]
        others = [i for i in getattr(model.prompt, "blank_ids", ()) if i not in last]
        return model.replace(prompt=FillBlank(start_id=start, blank_ids=(*others, *last)))

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        """Raw token rows [T + 1] -> parts A and B of every document, in rows of `length`."""
        is_text, pad = text_ids(tokenizer), tokenizer.pad_id

        def transform(row: Mapping[str, Any], index: int) -> dict[str, Any]:
            rng = record_rng(seed, index)
            tokens, segments = row["tokens"][:-1], row["segment_ids"][:-1]
            documents, ids = documents_of(tokens, segments, is_text), tokens.tolist()
            most = self._counts(len(tokens))[1]
            is_long = rng.random_sample() < self.long_rows
            draw = self._long if is_long else self._short
            mask, parts = self.long_mask if is_long else self.mask, []
            for document, spans in zip(documents, draw(rng, documents, most), strict=True):
                order = rng.permutation(len(spans)).tolist()
                part = self._parts(ids, document, spans, order, mask)
                part["segment_ids"] = np.full(len(part["tokens"]), segments[document.start])
                parts.append(part)
            pads = dict.fromkeys(("tokens", "targets"), pad)
            length = self.length(len(tokens))
            out = {k: filled([p[k] for p in parts], length, pads.get(k, 0)) for k in KEYS}
            if not parts:  # nothing but padding
                out["places"] = np.zeros((length, 2), np.int32)
            out["loss_weights"] = out["loss_weights"].astype(np.float32)
            out["prefix"] = out["prefix"].astype(bool)
            return out

        return transform

    def _short(self, rng: Rng, documents: list[Document], most: int) -> list[Spans]:
        noise = self._counts(sum(d.stop - d.start for d in documents))[0]
        lengths: list[int] = []
        while noise > 0 and len(lengths) < most:
            if size := min(int(rng.poisson(self.mean_span)), noise):
                lengths.append(size)
                noise -= size
        return place_spans(rng, lengths, documents)

    def _long(self, rng: Rng, documents: list[Document], most: int) -> list[Spans]:
        """One blank to the end of each document that has two tokens of text, of `most` of them."""
        found: list[Spans] = [[] for _ in documents]
        able = [i for i, d in enumerate(documents) if d.last - d.first > 1]
        for i in rng.permutation(len(able))[:most].tolist():
            d = documents[able[i]]
            size = d.last - d.first
            found[able[i]] = [(d.first + 1 + int(rng.randint((size + 1) // 2)), d.stop)]
        return found

    def _parts(
        self, tokens: list[int], document: Document, spans: Spans, order: list[int], mask: Any
    ) -> dict[str, np.ndarray]:
        """Parts A and B of a document, side by side, with `spans` in this `order`."""
        left: list[Any] = []
        blanks, at = [], document.start
        for first, last in spans:
            left += [*tokens[at:first], mask]
            blanks.append(len(left) - 1)
            at = last
        left += tokens[at : document.stop]
        inputs, targets, places = [], [], [(i, 0) for i in range(len(left))]
        for i in order:
            span = tokens[slice(*spans[i])]
            inputs += [self.start, *span]
            targets += [*span, self.end]
            places += [(blanks[i], 1 + k) for k in range(len(span) + 1)]
        both = len(left) + len(inputs)
        in_a = np.arange(both) < len(left)
        return {
            "tokens": np.array(left + inputs),
            "targets": np.array(left + targets),
            "loss_weights": ~in_a,
            "positions": np.arange(both),
            "places": np.array(places),
            "prefix": in_a,
        }

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        entries = {**PREDICTED, "places": Entry(("T", 2)), "prefix": Entry(("T",), "bool")}
        return RowSpec(entries, T=self.length(rows.sizes["T"] - 1))

    def flops_per_token(self, model: Any, seq_len: int) -> float:
        # All pairs: most tokens are of part A, which sees all of itself.
        return model.flops_per_token(self.length(seq_len), is_causal=False)

    def read(self, model: Any, batch: Batch, key: jax.Array | None, cache: Cache | None) -> Output:
        return model(
            batch["tokens"],
            positions=batch["positions"],
            segment_ids=batch["segment_ids"],
            prefix=batch["prefix"],
            places=batch["places"] if "places" in model.config.row_keys else None,
            key=key,
        )


KEYS = ("tokens", "targets", "loss_weights", "positions", "segment_ids", "places", "prefix")
