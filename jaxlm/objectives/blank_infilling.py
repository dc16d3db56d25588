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

Records with answers (conversations, prompts and completions, sources and targets) have one blank
each, the long one: what is before the answer is part A, the answer is part B with its own loss
weights, and what follows it is left out. So the model learns what a prompt asks of it, to which a
blank is added. Of several answers of a conversation one is drawn, each time that the row is.

    row            [bos] 2 + 2 = 4 [eos]            the answer is 4 [eos]
    tokens         [bos] 2 + 2 = [gMASK]  [S] 4
    targets                                4 [eos]  an answer without an eos of its own gets [E]

Packed rows: each document has its own parts A and B, side by side, under its own segment id.
`positions` are the order in them, which is what a model of other positions (rotary) reads;
`places` are for models with learned positions and blocks. [MASK], [gMASK], start and end are found
as `jaxlm.objectives.ids` says; the end is the tokenizer's eos where it has one, at which
`jaxlm generate` stops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.data.prompt_formats.fill_blank import FillBlank
from jaxlm.data.store.prepared import most_records
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
    """Write the blanks of a text after it, or the answers of records after their prompts (GLM)."""

    uses = ("loss_weights",)

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
    answers: int | None = field(
        None, "answers of a packed row at most; null: from the data", ge=1, affects="host"
    )

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
        added = 2 * self._counts(seq_len)[1] if self.answers is None else 1 + 2 * self.answers
        return round_up(seq_len + added, self.multiple_of)

    def resolve(self, prepared: Any, model: ModelConfig) -> BlankInfilling:
        limit = model.max_positions
        if "places" in model.row_keys and limit is not None and prepared.seq_len >= limit:
            raise UserError(
                f"data.seq_len: {prepared.seq_len} tokens in a blank, and its start, pass the "
                f"model's {limit} positions; set data.seq_len to at most {limit - 1}"
            )
        tokenizer = prepared.tokenizer
        has_answers = "loss_weights" in prepared.row_spec
        answers = most_records(prepared.splits.values()) if has_answers else None
        if answers is not None:
            unused = {"mask": self.mask is None}
        else:
            unused = {"mask": self.long_rows == 1, "long_mask": self.long_rows == 0}
        given = {name: getattr(self, name) for name in SPELLINGS if not unused.get(name)}
        known = getattr(model.prompt_format, "blank_ids", ())
        if answers is not None and self.long_mask is None and known:
            given["long_mask"] = known[-1]  # which a prompt without a blank gets
        if given["start"] is None:
            given["start"] = getattr(model.prompt_format, "start_id", None)
        if given["end"] is None:
            given["end"] = tokenizer.eos_id
        ids = choose_ids({n: (given[n], SPELLINGS[n]) for n in given}, tokenizer, model)
        return self.replace(**ids, answers=self.answers or answers)

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

        def answered(row: Mapping[str, Any], index: int) -> dict[str, Any]:
            parts = list(self._answers(row, record_rng(seed, index), is_text))
            return _laid_out(parts, self.length(len(row["tokens"]) - 1), pad)

        def transform(row: Mapping[str, Any], index: int) -> dict[str, Any]:
            if "loss_weights" in row:
                return answered(row, index)
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
            return _laid_out(parts, self.length(len(tokens)), pad)

        return transform

    def _answers(
        self, row: Mapping[str, Any], rng: Rng, is_text: np.ndarray
    ) -> Iterator[dict[str, np.ndarray]]:
        """Parts A and B of each document of a row [T + 1] of which an answer is trained."""
        tokens, segments, ids = row["tokens"], row["segment_ids"], row["tokens"].tolist()
        documents = documents_of(tokens, segments, is_text)
        if self.answers is not None and len(documents) > self.answers:
            raise UserError(
                f"objective.answers: a row holds {len(documents)} records, and there is room for "
                f"{self.answers}; raise it, or set data.packing to null"
            )
        for document in documents:
            weights = np.array(row["loss_weights"][document.start : document.stop], np.float32)
            weights[0] = 0  # as without a blank: nothing predicts the first token
            borders = np.flatnonzero(np.diff(np.concatenate([[0], weights > 0, [0]])))
            spans = borders.reshape(-1, 2)
            if not len(spans):
                continue
            first, last = spans[rng.randint(len(spans)) if len(spans) > 1 else 0].tolist()
            span = (document.start + first, document.start + last)
            part = self._parts(ids, document._replace(stop=span[1]), [span], [0], self._last_blank)
            own = weights[first:last]
            context = len(part["tokens"]) - len(own) - 1
            part["loss_weights"] = np.concatenate([np.zeros(context), own, own[-1:]])
            # a record that fills the row may have had more
            is_cut = document.start == 0 and span[1] == len(tokens)
            if is_cut or not is_text[ids[span[1] - 1]]:
                part = {key: value[:-1] for key, value in part.items()}
            part["segment_ids"] = np.full(len(part["tokens"]), segments[document.start])
            yield part

    @property
    def _last_blank(self) -> Any:
        """The blank that a prompt without one gets."""
        return self.mask if self.long_mask is None else self.long_mask

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
        known = self.answers is not None or "loss_weights" not in rows
        sized = self if known else self.replace(answers=1)  # before the data is read
        return RowSpec(entries, T=sized.length(rows.sizes["T"] - 1))

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


def _laid_out(parts: Sequence[Mapping[str, np.ndarray]], length: int, pad: int) -> dict[str, Any]:
    """A row of the parts of its documents, side by side."""
    pads = dict.fromkeys(("tokens", "targets"), pad)
    types = {"loss_weights": np.float32, "prefix": bool}
    out = {
        key: filled([p[key] for p in parts], length, pads.get(key, 0), types.get(key, np.int32))
        for key in KEYS
    }
    if not parts:  # nothing but padding
        out["places"] = np.zeros((length, 2), np.int32)
    return out
