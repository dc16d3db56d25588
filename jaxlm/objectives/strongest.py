"""The features of a bag of words that speak most for each class, by their names.

    strongest(model, tokenizer, ("negative", "positive"), most=20)
    # {"classes": ["negative", "positive"], "features": [[["dull", 1.93], ...], [["moving", ...]]]}

How much a feature speaks for a class is what the head says (`BagHead.strengths`). Features that are
shared by a hash have no name and are left out; {} where none has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from jaxlm import mesh as meshes

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer

MOST = 20  # features of a class that a run keeps


def strongest(
    model: Any, tokenizer: Tokenizer, classes: Sequence[str], most: int = MOST
) -> dict[str, Any]:
    """The classes, and for each the names and strengths of its features, the strongest first."""
    names = model.feature_names(tokenizer)  # {feature: name}
    if not names:
        return {}
    graphdef, state = nnx.split(model)
    whole = jax.jit(
        lambda state: nnx.merge(graphdef, state).task_head.strengths(),
        out_shardings=meshes.replicated(jax.sharding.get_mesh()),
    )(state)
    ids = np.fromiter(names, np.int64, len(names))
    table = np.asarray(whole)[ids]  # [N, C]
    found = []
    for column in table.T:
        order = np.argsort(-column, kind="stable")[:most]
        kept = [n for n in order if column[n] > 0]
        found.append([[names[int(ids[n])], round(float(column[n]), 4)] for n in kept])
    return {"classes": list(classes), "features": found}
