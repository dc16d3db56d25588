"""The most frequent masked token of the training split, in each mask of another.

It is right where that token was hidden, with the masks that the model is measured with, drawn or
given. At most 20,000 rows of a split are read, evenly spread; the title says so where that is a
part of the split that is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from jaxlm.core.measures import Measure
from jaxlm.evals.baselines.base import EVERY, Baseline
from jaxlm.evals.loss import EVAL_SEED
from jaxlm.evals.one_pass import OnePass
from jaxlm.evals.split_records import spread
from jaxlm.objectives.masked_lm import MaskedLM
from jaxlm.objectives.prediction import ACCURACY

if TYPE_CHECKING:
    from jaxlm.training.session import Session


@dataclass(frozen=True, kw_only=True)
class FrequentToken(Baseline):
    """The most frequent masked token."""

    most: ClassVar[int] = 20_000  # rows of a split

    def title(self, session: Session, split: str) -> str:
        share = min(1.0, self.most / max(rows_in(session, split), 1))
        title = "most frequent token"
        return title if share == 1 else f"{title}, on {share:.1%} of the split"

    def suits(self, session: Session, names: Container[str]) -> bool:
        return isinstance(session.config.objective, MaskedLM) and ACCURACY.name in names

    def measures(
        self, session: Session, split: str, *, on_batch: Callable[[], object] = lambda: None
    ) -> list[Measure] | None:
        if not isinstance(session.config.objective, MaskedLM):
            return None
        if "train" not in session.prepared.splits or split not in session.prepared.splits:
            return None
        trained, asked = (
            np.concatenate([*targets(session, name, self.most, on_batch)])
            for name in ("train", split)
        )
        if not len(trained) or not len(asked):
            return None
        guess = np.bincount(trained).argmax()  # the first one of those that are as frequent
        return [ACCURACY.of(float((asked == guess).mean()))]


def targets(
    session: Session, split: str, most: int, on_batch: Callable[[], object]
) -> Iterator[np.ndarray]:
    """The masked tokens of each row of a split, of at most `most` rows."""
    config, prepared = session.config, session.prepared
    rows = prepared.rows(split, batch_size=config.train.batch_size, seed=config.seed)
    # in the order of an evaluation, in which a row's masks are drawn by its number
    drawn = OnePass(rows, prepared.row_spec, spread=not prepared.consecutive)
    transform = session.transform(EVAL_SEED)
    for n, i in enumerate(spread(rows.rows_per_epoch, most).tolist()):
        if n % EVERY == 0:
            on_batch()
        row = transform(drawn[i], i)
        yield row["targets"][row["loss_weights"] > 0]


def rows_in(session: Session, split: str) -> int:
    """The rows of a split."""
    config = session.config
    rows = session.prepared.rows(split, batch_size=config.train.batch_size, seed=config.seed)
    return rows.rows_per_epoch
