"""An n-gram model of characters beside a language model, counted on the same training split.

It is interpolated modified Kneser-Ney of order 6 (`jaxlm.ngrams`) over the characters of the text,
whatever the tokenizer: its bits per character compare with those of any language model. It predicts
what the model is asked for: all characters after the first token, and the end of a document where
the data marks it. A character that the counted text lacks costs 17 bits more, its place in Unicode.

At most 5 million characters are counted and 2 million scored, in documents evenly spread over their
split: about 5 seconds, 500 MB. The title says so where that is a part of the text.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from jaxlm.core.measures import Measure
from jaxlm.data.store.tokens import Documents
from jaxlm.evals.baselines.base import Baseline
from jaxlm.evals.split_records import spread
from jaxlm.ngrams.counting import count, stream
from jaxlm.ngrams.smoothing.kneser_ney import KneserNey
from jaxlm.objectives.base import LOSS
from jaxlm.objectives.causal_lm import BITS_PER_BYTE, BITS_PER_CHAR, CausalLM

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer
    from jaxlm.training.session import Session

log = logging.getLogger("jaxlm")

UNICODE = 2**17  # about as many characters are assigned
SAMPLED = 64  # documents by which the characters of all are estimated
BOS, END, UNKNOWN, FIRST = range(4)  # ids; the characters of the counted text follow


class Text(NamedTuple):
    """A document as characters."""

    characters: np.ndarray  # [n] uint32 code points
    ends: bool  # the data marks its end
    given: int  # characters of the first token, which no model is asked for
    targets: int  # tokens that a model is asked for


@dataclass(frozen=True, kw_only=True)
class Ngram(Baseline):
    """Modified Kneser-Ney over characters."""

    order: ClassVar[int] = 6
    most_counted: ClassVar[int] = 5_000_000  # characters
    most_scored: ClassVar[int] = 2_000_000

    def title(self, session: Session, split: str) -> str:
        tokenizer, splits = session.prepared.tokenizer, session.prepared.splits
        counted = share(tokenizer, documents_of(splits["train"]), self.most_counted)
        scored = share(tokenizer, documents_of(splits[split]), self.most_scored)
        title = f"character {self.order}-gram model"
        if counted < 1:
            title += f" of {counted:.1%} of the training text"
        return title if scored == 1 else f"{title}, on {scored:.1%} of the split"

    def measures(
        self, session: Session, split: str, *, on_batch: Callable[[], object] = lambda: None
    ) -> list[Measure] | None:
        prepared = session.prepared
        chosen = [documents_of(prepared.splits.get(name)) for name in ("train", split)]
        if not isinstance(session.config.objective, CausalLM) or not all(chosen):
            return None
        counted, scored = (
            list(texts(prepared.tokenizer, documents, most, on_batch))
            for documents, most in zip(chosen, (self.most_counted, self.most_scored), strict=True)
        )
        asked = [text.characters[text.given :] for text in scored]
        characters = sum(len(each) for each in asked)
        if not characters or not any(len(text.characters) for text in counted):
            return None
        nats = self.scores(counted, scored, on_batch)
        num_bytes = sum(len(_spelt(each).encode()) for each in asked)
        size = sum(len(text.characters) for text in counted)
        log.info(
            f"baseline: character {self.order}-grams of {size:,} characters, on {characters:,}"
        )
        return [
            BITS_PER_CHAR.of(nats / math.log(2) / characters),
            BITS_PER_BYTE.of(nats / math.log(2) / num_bytes),
            LOSS.of(nats / max(sum(text.targets for text in scored), 1)),
        ]

    def scores(
        self, counted: list[Text], scored: list[Text], on_batch: Callable[[], object]
    ) -> float:
        """-log p of what is asked for in the texts `scored`, by the counts of others."""
        known = np.unique(np.concatenate([text.characters for text in counted]))
        size = FIRST + len(known)
        tokens = stream([_ids(text, known) for text in counted], BOS)
        counts = count(tokens, order=self.order, vocab_size=size, bos=BOS)
        on_batch()
        model = KneserNey().estimate(counts)
        on_batch()
        ids = [_ids(text, known) for text in scored]
        tokens = stream(ids, BOS)
        nats = -model.log_probs(tokens) + math.log(UNICODE) * (tokens == UNKNOWN)
        on_batch()
        begins = np.cumsum([0, *(len(each) + 1 for each in ids[:-1])])
        places = np.arange(len(tokens)) - begins.repeat([len(each) + 1 for each in ids])
        given = np.repeat([text.given for text in scored], [len(each) + 1 for each in ids])
        return float(nats[places > given].sum())


def documents_of(split: Any) -> list[Documents]:
    """The documents of a split of running text, or of the parts of a mixture; none: other rows."""
    if split is None:
        return []
    if hasattr(split, "parts"):
        found = [documents_of(part) for part in split.parts.values()]
        return [each for part in found for each in part] if all(found) else []
    documents = getattr(split, "documents", None)
    return [documents] if isinstance(documents, Documents) else []


def share(tokenizer: Tokenizer, documents: list[Documents], most: int) -> float:
    """The share of the text that `texts` takes, in (0, 1]: about `most` characters."""
    characters = sum(_rate(tokenizer, each) * each.num_tokens for each in documents)
    return min(1.0, most / max(characters, 1))


def texts(
    tokenizer: Tokenizer,
    documents: list[Documents],
    most: int,
    on_batch: Callable[[], object] = lambda: None,
) -> Iterator[Text]:
    """Documents evenly spread over all, at most about `most` characters together."""
    part = share(tokenizer, documents, most)
    for each in documents:
        left = math.ceil(part * each.num_tokens)
        for i in spread(len(each), math.ceil(part * len(each))):
            ids = each.document(int(i))
            cut = ids[:left]
            left -= len(cut)
            if not len(cut):
                break
            on_batch()
            marked = cut[0] == tokenizer.bos_id
            characters = np.frombuffer(_text(tokenizer, cut).encode("utf-32-le"), np.uint32)
            given = 0 if marked else len(_text(tokenizer, cut[:1]))
            ends = bool(ids[-1] == tokenizer.eos_id) and len(cut) == len(ids)
            yield Text(characters, ends, given, len(cut) - 1)


def _rate(tokenizer: Tokenizer, documents: Documents) -> float:
    """Characters of a token, of the beginnings of documents that are evenly spread."""
    chosen = spread(len(documents), SAMPLED)
    sample = np.concatenate([documents.document(int(i))[:1024] for i in chosen])
    return len(_text(tokenizer, sample)) / len(sample)


def _text(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    pieces = tokenizer.token_bytes
    return b"".join([pieces[i] for i in ids.tolist()]).decode("utf-8", "replace")


def _spelt(characters: np.ndarray) -> str:
    return characters.tobytes().decode("utf-32-le")


def _ids(text: Text, known: np.ndarray) -> np.ndarray:
    """[n or n + 1] the characters as ids, with the end where it is marked."""
    place = np.minimum(np.searchsorted(known, text.characters), len(known) - 1)
    ids = np.where(known[place] == text.characters, FIRST + place, UNKNOWN)
    return np.append(ids, END) if text.ends else ids
