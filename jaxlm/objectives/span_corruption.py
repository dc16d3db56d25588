"""Span corruption: an encoder reads a text without some spans of it, a decoder writes these.

Raffel et al. 2020 (arXiv:1910.10683, section 3.1.4): a share of the tokens is left out in spans of
a mean length. In the source a sentinel replaces each span; the target is the sentinels, each
before its span, and one that closes it.

    text      Thank you for inviting me to your party last week
    source    Thank you <X> me to your party <Y> week
    target    <X> for inviting <Y> last <Z>           after the model's `prompt.start_id`

From n tokens N = round(density n) are left out in K = round(N / mean_span) spans, so a row of
`data.seq_len` gives a source of n - N + K and a target of N + K + 1 tokens, as T5's
`compute_input_and_target_lengths` counts them (our closing sentinel has the place of its final eos;
a document's own bos and eos stay in the source). Both are rounded up to a multiple of
`multiple_of`, so that a mesh may split them. Spans begin anywhere, not only after a first gap.

Packed rows: each document is corrupted by itself. Spans cross no border, sentinels begin at <X> in
every document, and source and target keep its segment id, so that documents do not see each other.
Their targets have a closing sentinel each: with d documents K is smaller by about (d - 1) / 2, and
N by as much. Where documents are so short (a few tokens each) that too little can be left out for
the source's length, the last ones of the row are left out of both. The source's and the target's
positions count from 0 in every document. Sentinels are found as `jaxlm.objectives.ids` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.rows import RowSpec
from jaxlm.data.prompt_formats.encode_source import EncodeSource
from jaxlm.objectives.base import Transform, record_rng, text_ids
from jaxlm.objectives.ids import choose_ids
from jaxlm.objectives.prediction import PREDICTED
from jaxlm.objectives.spans import documents_of, filled, place_spans, round_up, split_at_random
from jaxlm.objectives.with_source import SOURCE, WithSource, start_id

if TYPE_CHECKING:
    from jaxlm.core.types import ModelConfig, Tokenizer

Spans = list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class SpanCorruption(WithSource):
    """Write the spans that a source text lacks (T5)."""

    # the lengths that follow from them are the batch's shapes
    density: float = field(0.15, "share of the tokens that is left out", gt=0, lt=1, affects="host")
    mean_span: float = field(3.0, "tokens of a span, on average", ge=1, affects="host")
    sentinels: tuple[int | str, ...] = field(
        (),
        "ids or spellings of the sentinels that replace spans, in their order; none: as usual",
        ge=0,
        affects="host",
    )
    start: int | str | None = field(
        None,
        "what a target begins with; null: model.prompt.start_id, or padding",
        ge=0,
        affects="host",
    )
    multiple_of: int = field(
        8, "the lengths of source and target are rounded up to one", ge=1, affects="host"
    )

    def why_silent(self, model: ModelConfig) -> str | None:
        return "writes spans between sentinels and no text of its own"

    def lengths(self, seq_len: int) -> tuple[int, int]:
        """Tokens of a source and of a target, for rows of `seq_len`."""
        noise, spans = self._counts(seq_len)
        both = seq_len - noise + spans, noise + spans + 1
        return round_up(both[0], self.multiple_of), round_up(both[1], self.multiple_of)

    def _counts(self, length: int) -> tuple[int, int]:
        """(tokens left out, spans) of `length` tokens."""
        if length < 2:
            return 0, 0
        noise = min(max(round(length * self.density), 1), length - 1)
        return noise, max(round(noise / self.mean_span), 1)

    def resolve(self, prepared: Any, model: ModelConfig) -> SpanCorruption:
        tokenizer, (source, target) = prepared.tokenizer, self.lengths(prepared.seq_len)
        limits = (source, model.max_source_positions), (target, model.max_positions)
        for length, limit in limits:
            if limit is not None and length > limit:
                raise UserError(
                    f"data.seq_len: {prepared.seq_len} tokens give a source of {source} and a "
                    f"target of {target}, one of which passes the {limit} positions that the "
                    "model has for it; shorten the rows, or raise its max_seq_len"
                )
        count = self._counts(prepared.seq_len)[1] + 1
        if 0 < len(self.sentinels) < count:
            raise UserError(
                f"objective.sentinels: {len(self.sentinels)} are too few for {count - 1} spans and "
                f"the end of the last; name {count}, or none"
            )
        given: list[int | str | None] = [*self.sentinels] or [None] * count
        wanted = {f"sentinels[{i}]": (t, (f"<extra_id_{i}>",)) for i, t in enumerate(given)}
        sentinels = tuple(choose_ids(wanted, tokenizer, model).values())
        start = start_id(self.start, tokenizer, model)
        if start in sentinels:
            raise UserError(
                f"objective.start: {start} is a sentinel's id as well; name another, such as "
                "padding's"
            )
        return self.replace(sentinels=sentinels, start=start)

    def complete(self, model: ModelConfig) -> ModelConfig:
        start: Any = self.start  # an id, since it was resolved
        return model.replace(prompt=EncodeSource(start_id=start))

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        """Raw token rows [T + 1] -> a source and its target, of the lengths that `lengths` says."""
        is_text, pad = text_ids(tokenizer), tokenizer.pad_id
        marks = np.array(self.sentinels, np.int32)
        start = np.array([self.start], np.int32)

        def transform(row: Mapping[str, Any], index: int) -> dict[str, Any]:
            tokens, segments = row["tokens"][:-1], row["segment_ids"][:-1]
            documents = documents_of(tokens, segments, is_text)
            lengths = self.lengths(len(tokens))
            room, sources, targets, numbers = lengths[0], [], [], []
            spans = self._draw(record_rng(seed, index), documents)
            for document, chosen in zip(documents, spans, strict=True):
                left, asked = corrupt(tokens, document.start, document.stop, chosen, marks)
                room -= len(left)
                if room < 0:
                    break
                sources.append(left)
                targets.append(asked)
                numbers.append(segments[document.start])
            inputs = [np.concatenate([start, x[:-1]]) if len(x) else x for x in targets]
            return {
                **_row("source_", sources, numbers, lengths[0], pad),
                **_row("", inputs, numbers, lengths[1], pad),
                "targets": filled(targets, lengths[1], pad),
                "loss_weights": _ones(targets, lengths[1]),
            }

        return transform

    def _draw(self, rng: np.random.RandomState, documents: list) -> list[Spans]:
        """The spans of each document: as many, and as long, as source and target have room for."""
        noise, most = self._counts(sum(d.stop - d.start for d in documents))
        able = sum(d.last - d.first > 1 for d in documents)
        spans = most  # K - x of them and N - x tokens, so that a target's closing sentinels fit
        while spans + min(able, spans) // 2 > most:
            spans -= 1
        sizes = split_at_random(rng, noise - (most - spans), spans)
        return place_spans(rng, sizes, documents)

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        source, target = self.lengths(rows.sizes["T"] - 1)
        return RowSpec({**SOURCE, **PREDICTED}, S=source, T=target)

    def flops_per_token(self, model: Any, seq_len: int) -> float:
        source, target = self.lengths(seq_len)
        return model.flops_per_token(target, source_len=source)


def corrupt(
    tokens: np.ndarray, start: int, stop: int, spans: Spans, marks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(source, target) of a document [start, stop); no target where nothing is left out."""
    left, asked, at = [], [], start
    for mark, (first, last) in zip(marks[:, None], spans, strict=False):
        left += [tokens[at:first], mark]
        asked += [mark, tokens[first:last]]
        at = last
    if spans:
        asked.append(marks[len(spans), None])
    source = np.concatenate([*left, tokens[at:stop]])
    return source, np.concatenate(asked) if asked else source[:0]


def _row(prefix: str, pieces: list, numbers: list, length: int, pad: int) -> dict[str, np.ndarray]:
    places = [np.arange(len(piece)) for piece in pieces]
    ids = [np.full(len(piece), number) for piece, number in zip(pieces, numbers, strict=True)]
    return {
        f"{prefix}tokens": filled(pieces, length, pad),
        f"{prefix}segment_ids": filled(ids, length, 0),
        f"{prefix}positions": filled(places, length, 0),
    }


def _ones(pieces: list, length: int) -> np.ndarray:
    """[length] float32: 1 as far as the pieces reach."""
    return (np.arange(length) < sum(map(len, pieces))).astype(np.float32)
