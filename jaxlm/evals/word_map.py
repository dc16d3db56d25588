"""A picture of word vectors: chosen words on their two principal axes, which the report draws.

    evaluators:
      map: {type: word_map, words: [king, queen, man, woman, sun, moon]}

Its figure is the share of the words' variance that the picture has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxlm import mesh as meshes
from jaxlm.core.config import UserError, field, type_name
from jaxlm.core.evaluator import Evaluator
from jaxlm.core.measures import Measure
from jaxlm.vectors.projection import project
from jaxlm.vectors.table import WordVectors

SHARE = Measure("share", better="higher", label="variance in the picture", format="percent")
PLACES = Measure("places", show="table")
FREQUENT = 40  # words that are shown where none are chosen


@dataclass(frozen=True, kw_only=True)
class WordMap(Evaluator):
    """The places of chosen words, by principal components of their vectors."""

    words: tuple[str, ...] = field(
        (), "the words that are shown; none: the first of the vocabulary"
    )

    def measure(self, session: Any, params: Any, max_batches: int | None) -> list[Measure]:
        table = _table(session, params)
        words = [word for word in dict.fromkeys(self.words) if word in table]
        if not self.words:
            words = [word for word in table.words if word.isalpha()][:FREQUENT]
        if len(words) < 2:
            raise UserError(
                "evaluators: word_map: fewer than two of its words are in the vocabulary; name "
                "others (words)"
            )
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
    if rows is None:
        raise UserError(
            f"evaluators: word_map: model.type {type_name(type(config.model))} has no vectors of "
            "words; leave it out"
        )
    return WordVectors.of_tokenizer(tokenizer, rows)
