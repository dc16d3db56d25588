"""Parts of a run that do not fit each other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jaxlm.core.config import UserError
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.evals.generation import Generation
from jaxlm.evals.loss import Loss
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.kto import KTO
from jaxlm.training.compatibility import check_fit
from tests import tiny


class Reader(CausalLM):
    """An objective of rows that have a source alone."""

    needs, uses = ("source_tokens",), ()

    def check_model(self, model: Any) -> None:
        pass


class Counted(CausalLM):
    """An objective that counts."""

    descends = False


def test_noise_on_what_is_counted_is_an_error() -> None:
    config = tiny.load("transformer", "train.embedding_noise=5").config
    check_fit(config)
    with pytest.raises(UserError, match="train.embedding_noise: the objective counts"):
        check_fit(config.replace(objective=Counted()))


def test_a_source_that_is_longer_than_the_encoder_is_an_error() -> None:
    spec = RowSpec({"source_tokens": Entry(("S",))}, S=64)
    data = SimpleNamespace(row_spec=lambda: spec, row_length=8, consecutive=True)
    model: Any = SimpleNamespace(max_positions=8, max_source_positions=64, carries_state=False)
    model.descends, model.gives_bags = True, False
    parts = {"data": data, "objective": Reader(), "model": model}
    config: Any = SimpleNamespace(**vars(tiny.load("transformer").config) | parts)
    check_fit(config)
    model.max_source_positions = 63
    with pytest.raises(UserError, match="source texts of 64 tokens are longer than the encoder's"):
        check_fit(config)


def test_an_objective_that_compares_rows_needs_two_in_each_batch_of_a_loss() -> None:
    config = tiny.load("transformer").config.replace(objective=KTO(), data=None)
    for name in ("train", "eval"):
        part = getattr(config, name).replace(batch_size=1)
        with pytest.raises(UserError, match=rf"^{name}.batch_size: 1, but objective kto compares"):
            check_fit(config.replace(**{name: part}))
    check_fit(config.replace(evaluators={"texts": Generation(batch_size=1), "all": Loss()}))
    with pytest.raises(UserError, match=r"^evaluators.web.batch_size: 1, but objective kto"):
        check_fit(config.replace(evaluators={"web": Loss(batch_size=1)}))
