"""Parts of a model in a compiled step: by the scopes of the code, whatever its files are called."""

from __future__ import annotations

from functools import cache

import pytest

from jaxlm.mesh import MeshConfig
from jaxlm.plan.hlo.count import Counts, count
from tests import tiny

SPLIT = {"data": 2, "fsdp": 2, "tensor": 2}


# The lookup of an embedding and sums over rows may be products; some get their name from XLA.
BESIDE = {"embedding", "norm", "other", "step"}


@cache
def counts_of(name: str, *overrides: str) -> Counts:
    config = tiny.load(name, *overrides).config
    learner = tiny.learner(config, MeshConfig(**SPLIT))
    batch = tiny.on_mesh(tiny.ragged_batch(0), learner)
    return count(learner.compile(tiny.spec_of(batch)).as_text(), mesh=SPLIT)


@pytest.mark.parametrize(
    ("name", "overrides", "parts"),
    [
        (
            "transformer",
            ["model.ffn={type: moe, num_experts: 4, experts_per_token: 2, intermediate_size: 64}"],
            {"attention", "experts", "router", "head"},
        ),
        ("lstm", [], {"recurrence", "head"}),
    ],
)
def test_every_product_belongs_to_a_part(name: str, overrides: list[str], parts: set[str]) -> None:
    found = counts_of(name, *overrides).by_module
    with_products = {part for part, cost in found.items() if cost.flops}
    assert parts <= with_products <= parts | BESIDE
    beside = sum(cost.flops for part, cost in found.items() if part not in parts)
    assert beside < 0.05 * sum(cost.flops for cost in found.values())
    assert found["optimizer"].hbm_bytes > 0


def test_what_is_computed_again_belongs_to_its_part() -> None:
    kept, again = (counts_of("transformer", f"model.remat={x}") for x in ("none", "full"))
    assert {"attention", "ffn", "head"} <= set(kept.by_module)
    for part in ("attention", "ffn"):
        assert again.by_module[part].flops > 1.2 * kept.by_module[part].flops
    assert again.by_module["head"].flops == kept.by_module["head"].flops
