"""A picture of word vectors: chosen words on their two principal axes, which the report draws.

    evaluators:
      map: {type: word_map, words: [king, queen, man, woman, sun, moon]}

Its figure is the share of the words' variance that the picture has.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxlm import mesh as meshes
from jaxlm.core.config import UserError, field, type_name
from jaxlm.core.evaluator import Evaluator, Measuring
from jaxlm.core.measures import Measure
from jaxlm.vectors.projection import project
from jaxlm.vectors.table import WordVectors

log = logging.getLogger("jaxlm")
SHARE = Measure("share", better="higher", label="variance in the picture", format="percent")
PLACES = Measure("places", show="table")
FREQUENT = 40  # words that are shown where none are chosen


@dataclass(frozen=True, kw_only=True)
class WordMap(Evaluator):
    """The places of chosen words, by principal components of their vectors."""

    words: tuple[str, ...] = field(
        (), "the words that are shown; none: the first of the vocabulary"
    )

    def prepare(self, session: Any) -> Measuring | None:
        model, tokenizer = session.config.model, session.prepared.tokenizer
        if not model.has_word_vectors:
            raise UserError(
                f"type: word_map shows vectors of words, which model.type "
                f"{type_name(type(model))} does not have; leave it out"
            )
        known = WordVectors.of_tokenizer(tokenizer, np.zeros((tokenizer.vocab_size, 1)))
        if len(self._shown(known)) < 2:
            log.warning("word_map: fewer than two of its words are in the vocabulary: no picture")
        return super().prepare(session)

    def _shown(self, table: WordVectors) -> list[str]:
        if self.words:
            return [word for word in dict.fromkeys(self.words) if word in table]
        return [word for word in table.words if word.isalpha()][:FREQUENT]

    def measure(self, session: Any, params: Any, max_batches: int | None) -> list[Measure]:
        table = _table(session, params)
        words = self._shown(table)
        if len(words) < 2:  # the log says so
            return []
        found = project(table, words)
        rounded = np.round(found.places, 4).tolist()
        places = {word: place for word, place in zip(words, rounded, strict=True)}
        missing = [word for word in self.words if word not in table]
        return [SHARE.of(found.share), PLACES.of({"word_map": places, "missing": missing})]


def _table(session: Any, params: Any) -> WordVectors:
    config, tokenizer = session.config, session.prepared.tokenizer
    whole = meshes.replicated(session.program.mesh)
    params = jax.jit(lambda tree: tree, out_shardings=whole)(params)
    rows = config.model.word_vectors(params, tokenizer)
    assert rows is not None, "prepare"
    return WordVectors.of_tokenizer(tokenizer, rows)
