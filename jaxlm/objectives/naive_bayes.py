"""Naive Bayes: the most probable class of a text, from counts of its features in each class.

    tokenizer: {type: words}
    model: {type: bag_of_words, ngrams: 2}
    objective: {type: naive_bayes, head: {type: multinomial, alpha: 1.0}}
    optimizer: null
    train: {epochs: 1, batch_size: 256}

Each training record is counted once, however often it is read: more epochs, another order or other
devices give the same tables. A model with `idf` is counted in the first epoch and the classes in
the second, so it needs `train.epochs: 2`. The loss is the mean of -log p(class | text); before the
first step all classes are equally probable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import UserError, field
from jaxlm.nn.heads.base import TaskHeadConfig
from jaxlm.nn.heads.multinomial import Multinomial
from jaxlm.objectives.base_counted import Counted
from jaxlm.objectives.counting import Counting


@dataclass(frozen=True, kw_only=True)
class NaiveBayes(Counted, Counting):
    """Count the features of the texts of each class."""

    head: TaskHeadConfig = field(Multinomial, "the tables that are counted for each class")

    def validate(self) -> None:
        if self.label_smoothing:
            raise UserError("label_smoothing: counts have none; leave it out")

    def flops_per_token(self, model: Any, seq_len: int) -> float:
        return 0.0
