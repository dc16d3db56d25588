"""Losses of preference equal TRL's on fixed inputs (tools/make_golden_preference.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.objectives.base_pairs import Pairs, pairs_of
from jaxlm.objectives.dpo import DPO, dpo_loss
from jaxlm.objectives.kto import kto_loss
from jaxlm.objectives.orpo import log_odds, odds_ratio_loss
from jaxlm.objectives.reward import reward_loss
from jaxlm.objectives.simpo import simpo_loss

FILE = Path(__file__).parents[1] / "fixtures" / "preference.json"
GOLDEN = json.loads(FILE.read_text())
INPUTS = {name: np.array(value, np.float32) for name, value in GOLDEN["inputs"].items()}
EXACT = {"rtol": 1e-6, "atol": 1e-6}
SIDES = len(INPUTS["log_probs"]) // 2


def options(case: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in case.items() if name != "loss"}


def pairs(name: str) -> Pairs:
    """The tokens of each pair as a row: its chosen side, then its rejected one."""
    row = lambda x: jnp.concatenate([x[:SIDES], x[SIDES:]], axis=1)  # noqa: E731
    mask = row(INPUTS["mask"])
    segments = jnp.repeat(jnp.array([[1, 2]]), INPUTS["mask"].shape[1], axis=1)
    batch = {"loss_weights": mask, "segment_ids": jnp.broadcast_to(segments, mask.shape)}
    found = pairs_of(row(INPUTS[name]), batch)
    assert found.chosen[:, 1:].any() == False  # noqa: E712
    return Pairs(*(x[:, 0] for x in found))


@pytest.mark.parametrize("case", GOLDEN["dpo"], ids=lambda case: case["loss_type"])
def test_dpo(case: dict[str, Any]) -> None:
    scored = DPO(**options(case)).pair_loss(pairs("log_probs"), pairs("reference"))
    np.testing.assert_allclose(scored.loss, case["loss"], **EXACT)


def test_label_smoothing_exchanges_a_share_of_the_pairs() -> None:
    one, other = np.float32([0.3, -2.0, 5.0]), np.float32([1.0, -2.5, -4.0])
    right, wrong = (dpo_loss(*p, beta=0.2) for p in ((one, other), (other, one)))
    found = dpo_loss(one, other, beta=0.2, label_smoothing=0.2)
    np.testing.assert_allclose(found, 0.8 * right + 0.2 * wrong, **EXACT)
    robust = dpo_loss(one, other, beta=0.2, loss_type="robust", label_smoothing=0.2)
    np.testing.assert_allclose(0.8 * robust + 0.2 * (right + wrong - robust), right, **EXACT)


@pytest.mark.parametrize("case", GOLDEN["kto"], ids=lambda case: f"beta {case['beta']}")
def test_kto(case: dict[str, Any]) -> None:
    d = ((INPUTS["log_probs"] - INPUTS["reference"]) * INPUTS["mask"]).sum(1)
    z = (INPUTS["mismatched"] - INPUTS["reference_mismatched"]).sum(1).mean().clip(0)
    found = kto_loss(jnp.array(d), INPUTS["labels"] > 0, z, **options(case))
    np.testing.assert_allclose(found.mean(), case["loss"], **EXACT)


def test_orpo() -> None:
    found = odds_ratio_loss(*pairs("log_probs").means)
    np.testing.assert_allclose(found, GOLDEN["orpo"]["loss"], **EXACT)
    log_p = np.array([-1e-5, -0.1, -0.7, -1.0, -30.0])
    want = log_p - np.log(-np.expm1(log_p))
    np.testing.assert_allclose(log_odds(jnp.array(log_p, jnp.float32)), want, rtol=1e-5)
    slopes = jax.vmap(jax.grad(log_odds))(jnp.float32([-0.0, -0.1, -90.0]))
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize("case", GOLDEN["simpo"], ids=lambda case: f"beta {case['beta']}")
def test_simpo(case: dict[str, Any]) -> None:
    found = simpo_loss(*pairs("log_probs").means, **options(case))
    np.testing.assert_allclose(found, case["loss"], **EXACT)


@pytest.mark.parametrize("case", GOLDEN["reward"], ids=lambda case: str(options(case)))
def test_reward(case: dict[str, Any]) -> None:
    rewards = INPUTS["rewards"]
    found = reward_loss(rewards[:SIDES], rewards[SIDES:], **options(case))
    np.testing.assert_allclose(found, case["loss"], **EXACT)
