"""GRPO's losses against TRL's, its parts against numpy, gradients by finite differences."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxlm.core.config import UserError
from jaxlm.core.types import Output
from jaxlm.kernels.cross_entropy import HeadParams
from jaxlm.kernels.log_probs import log_probs
from jaxlm.objectives.base import FrozenModel
from jaxlm.objectives.grpo import GRPO
from jaxlm.objectives.on_policy import Repeated
from jaxlm.objectives.policy_losses import VARIANTS, group_advantages, policy_sums
from jaxlm.objectives.rewards import Rewards
from jaxlm.tasks.prompt_completion import PromptCompletion

GOLDEN = dict(np.load(Path(__file__).parents[1] / "fixtures" / "grpo.npz"))
HERE = "test_grpo"
CASES = [
    (variant, beta, mask)
    for variant in VARIANTS
    for beta in (0.0, 0.1)
    for mask in (("mask", "left_out") if variant == "dapo" else ("mask",))
]


@pytest.mark.parametrize(("variant", "beta", "mask"), CASES)
def test_losses_and_gradients_are_those_of_trl(variant: str, beta: float, mask: str) -> None:
    golden = {n: x.astype(np.float32) for n, x in GOLDEN.items()}
    weights = golden[mask]

    def loss(x: Any) -> Any:
        sums = policy_sums(
            variant,
            x,
            golden["old_log_probs"],
            golden[f"advantages_{VARIANTS[variant].scale}"],
            weights,
            max_tokens=int(GOLDEN["max_tokens"]),
            low=float(GOLDEN["low"]),
            high=float(GOLDEN["high"]),
            reference=golden["reference"] if beta else None,
            beta=beta,
        )
        return sums.loss_sum / sums.weight.sum(), sums

    (found, sums), gradient = jax.value_and_grad(loss, has_aux=True)(golden["log_probs"])
    want = {
        name: GOLDEN[f"{variant}_{beta}_{mask}_{name}"] for name in ("loss", "gradient", "clipped")
    }
    np.testing.assert_allclose(found, want["loss"], atol=1e-6)
    np.testing.assert_allclose(gradient, want["gradient"], atol=1e-6)
    assert np.abs(want["gradient"]).max() > 1e-2
    if not VARIANTS[variant].by_sequence:  # TRL's share is of sequences there
        np.testing.assert_allclose(sums.clipped / weights.sum(), want["clipped"], atol=1e-6)
        assert want["clipped"] > 0
    if beta:
        kl = GOLDEN[f"{variant}_{beta}_{mask}_kl"]
        np.testing.assert_allclose(sums.kl / weights.sum(), kl, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_completions_that_share_a_row_have_the_sums_of_their_own_rows(variant: str) -> None:
    rng, sizes = np.random.default_rng(2), np.array([4, 2, 5, 3])
    place = np.arange(6)
    mask = ((place >= 1) & (place < sizes[:, None])).astype(np.float32)
    arrays = [rng.normal(size=(4, 6)).astype(np.float32) for _ in range(3)]
    advantages = rng.normal(size=4).astype(np.float32)
    numbers = [[0, 1], [2, 3]]  # the completions of each row of 8

    def packed(x: Any) -> Any:
        rows = [jnp.concatenate([x[i][: sizes[i]] for i in row]) for row in numbers]
        return jnp.stack([jnp.pad(row, (0, 8 - len(row))) for row in rows])

    segments = packed([np.full(6, 1 + i % 2) for i in range(4)]).astype(np.int32)
    of_tokens = packed([np.full(6, a) for a in advantages])

    def loss(x: Any, fit: Any = lambda x: x, a: Any = advantages, more: Any = None) -> Any:
        given = fit(x), fit(arrays[1]), a, fit(mask)
        kl = {"reference": fit(arrays[2]), "beta": 0.1}
        found = policy_sums(variant, *given, max_tokens=6, segment_ids=more, **kl)
        return found.loss_sum, (*found[2:], found.weight.sum())

    apart = jax.jit(jax.value_and_grad(loss, has_aux=True))
    together = partial(loss, fit=packed, a=of_tokens, more=segments)
    want = apart(arrays[0])
    found = jax.jit(jax.value_and_grad(together, has_aux=True))(arrays[0])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_advantages_are_those_of_trl_and_0_in_a_group_of_equal_rewards() -> None:
    rewards = GOLDEN["rewards"].astype(np.float32)
    for scale in (True, False):
        found = group_advantages(rewards, 4, scale=scale).advantages
        np.testing.assert_allclose(found, GOLDEN[f"advantages_{scale}"], atol=1e-6)
    equal = group_advantages(np.array([0.1] * 7 + [0.3] * 7, np.float32), 7)
    assert not np.any(equal.advantages) and not np.any(equal.std)


# ------------------------------------------------------------------------------ log-probabilities

RNG = np.random.default_rng(1)
D, V = 4, 11


def in_numpy(hidden: Any, kernel: Any, bias: Any, targets: Any, temperature: float) -> Any:
    z = (hidden.astype(np.float64) @ kernel + bias) / temperature
    z = z - z.max(-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    return chosen, -(np.exp(log_p) * log_p).sum(-1)


@pytest.mark.parametrize("length", [5, 1030])  # the longer one is computed in parts
def test_log_probs_and_entropy(length: int) -> None:
    hidden = RNG.normal(size=(2, length, D)).astype(np.float32)
    kernel, bias = (RNG.normal(size=s).astype(np.float32) for s in ((D, V), (V,)))
    targets = RNG.integers(0, V, (2, length)).astype(np.int32)
    found = log_probs(hidden, HeadParams(kernel, bias), targets, temperature=0.7)
    want = in_numpy(hidden, kernel, bias, targets, 0.7)
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)

    def squares(x: Any, k: Any) -> Any:
        return jnp.square(log_probs(x, HeadParams(k, bias), targets, temperature=0.7)[0]).mean()

    check_grads(squares, (hidden, kernel), order=1, modes=["rev"], eps=1e-2, atol=2e-3, rtol=2e-3)


def test_the_kernels_gradient_is_summed_over_chunks_in_float32(monkeypatch) -> None:
    """A bfloat16 sum of so many equal parts stops at 256 of them."""
    monkeypatch.setattr("jaxlm.kernels.head_loss.CHUNK", 1)
    hidden, kernel = np.ones((1, 640, D), np.float32), 0.1 * RNG.normal(size=(D, V))

    def gradient(dtype: Any) -> np.ndarray:
        arrays = jnp.asarray(hidden, dtype), jnp.asarray(kernel, dtype)
        targets = jnp.zeros(hidden.shape[:2], jnp.int32)
        one = lambda k: log_probs(arrays[0], HeadParams(k), targets)[0].sum()  # noqa: E731
        found = jax.jit(jax.grad(one))(arrays[1])
        assert found.dtype == dtype
        return np.asarray(found, np.float32)

    want = gradient(jnp.float32)
    assert np.abs(gradient(jnp.bfloat16) - want).max() < 0.02 * np.abs(want).max()


def test_the_backward_pass_keeps_no_logits() -> None:
    hidden, kernel = (RNG.normal(size=s).astype(np.float32) for s in ((2, 50, D), (D, V)))
    targets = np.zeros((2, 50), np.int32)
    _, pull = jax.vjp(lambda x, k: log_probs(x, HeadParams(k), targets)[0], hidden, kernel)
    assert max(x.size for x in jax.tree.leaves(pull)) < 2 * 50 * V


# ---------------------------------------------------------------------------------- the objective

B, T, GROUP = 8, 7, 4
HEAD = RNG.normal(size=(D, V)).astype(np.float32)


class Backbone:
    """A model whose hidden states are given."""

    config = SimpleNamespace(row_keys=frozenset(), output_size=D)

    def __init__(self, hidden: Any) -> None:
        self.hidden = hidden

    def __call__(self, tokens: Any, **rest: Any) -> Output:
        return Output(self.hidden[: len(tokens)])

    def head_input(self, hidden: Any) -> Any:
        return hidden

    def head(self) -> HeadParams:
        return HeadParams(jnp.asarray(HEAD))


HIDDEN = RNG.normal(size=(B, T, D)).astype(np.float32)
SETTINGS: dict[str, Any] = {
    "group_size": GROUP,
    "max_tokens": T,
    "rewards": ("task", f"{HERE}:short"),
    "reward_weights": (1.0, 0.5),
    "temperature": 0.8,
    "mask_truncated": True,
}


def short(record: Any, text: str) -> float:
    return float(len(text) < 3)


def written() -> dict[str, np.ndarray]:
    """What the generator gave, as a learner passes it on."""
    lengths = np.array([7, 3, 5, 2, 1, 7, 4, 6])
    place = np.arange(T)
    return {
        "tokens": RNG.integers(0, V, (B, T)).astype(np.int32),
        "targets": RNG.integers(0, V, (B, T)).astype(np.int32),
        "loss_weights": ((place >= 1) & (place < lengths[:, None])).astype(np.float32),
        "segment_ids": (place < lengths[:, None]).astype(np.int32),
        "positions": np.broadcast_to(place, (B, T)).astype(np.int32),
        "truncated": np.array([1, 0, 0, 0, 0, 1, 0, 0], np.float32),
        "rewards": RNG.integers(0, 3, (B, 2)).astype(np.float32),
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_of_a_rollout_and_its_gradient(variant: str) -> None:
    objective = GRPO(variant=variant, num_iterations=2, **SETTINGS)  # type: ignore[arg-type]
    batch = dict(objective.rollout(written()))
    batch |= objective.read_again(Backbone(HIDDEN), batch)  # type: ignore[arg-type]
    spec = objective.rollout_spec(T).batch(B)
    assert {n: (np.shape(x), np.asarray(x).dtype) for n, x in batch.items()} == spec
    assert not np.any(batch["loss_weights"][0]) and np.any(batch["loss_weights"][1])
    moved = (HIDDEN + 0.3 * RNG.normal(size=HIDDEN.shape)).astype(np.float32)

    def loss(hidden: Any, rows: slice = slice(None)) -> Any:
        part = {name: x[rows] for name, x in batch.items()}
        return objective.loss(Backbone(hidden[rows]), part, key=None, cache=None)  # type: ignore[arg-type]

    out = loss(moved)
    old, new = (
        in_numpy(x, HEAD, 0.0, batch["targets"], 0.8)[0] for x in (HIDDEN, moved)
    )  # fmt: skip
    want = policy_sums(
        variant,
        new.astype(np.float32),
        old.astype(np.float32),
        batch["advantages"],
        batch["loss_weights"],
        max_tokens=T,
    )
    np.testing.assert_allclose(out.loss_sum, want.loss_sum, atol=1e-4)
    # micro-batches have the sums of the whole batch
    halves = [loss(moved, slice(0, 4)), loss(moved, slice(4, 8))]
    for whole, parts in (
        (out.loss_sum, [h.loss_sum for h in halves]),
        (out.weight, [h.weight for h in halves]),
        *((out.metrics[n][i], [h.metrics[n][i] for h in halves])
          for n in out.metrics for i in (0, 1)),
    ):  # fmt: skip
        np.testing.assert_allclose(whole, sum(parts), rtol=1e-6, atol=1e-6)
    assert {*objective.train_displays} and {m.name for m in objective.train_displays} == {
        *out.metrics
    }
    total = written_total(batch["rewards"])
    np.testing.assert_allclose(out.metrics["reward"][0] / B, total.mean(), rtol=1e-6)

    def value(hidden: Any) -> Any:
        return loss(hidden).loss_sum

    check_grads(value, (moved,), order=1, modes=["rev"], eps=2e-3, atol=2e-2, rtol=2e-2)


def written_total(rewards: Any) -> np.ndarray:
    return np.asarray(rewards) @ np.array([1.0, 0.5])


def test_one_step_a_rollout_needs_no_old_log_probs() -> None:
    """The ratio is 1, so the gradient is that of the advantages times log p."""
    objective = GRPO(**SETTINGS)
    batch = dict(objective.rollout(written()))
    assert not objective.read_again(Backbone(HIDDEN), batch)  # type: ignore[arg-type]

    def loss(hidden: Any) -> Any:
        return objective.loss(Backbone(hidden), batch, key=None, cache=None).loss_sum  # type: ignore[arg-type]

    def plain(hidden: Any) -> Any:
        head = HeadParams(jnp.asarray(HEAD))
        log_p, _ = log_probs(hidden, head, batch["targets"], temperature=0.8)
        return -(batch["advantages"][:, None] * log_p * batch["loss_weights"]).sum()

    np.testing.assert_allclose(jax.grad(loss)(HIDDEN), jax.grad(plain)(HIDDEN), atol=1e-6)


def test_the_kl_from_a_reference_is_added() -> None:
    objective, plain = GRPO(beta=0.1, **SETTINGS), GRPO(**SETTINGS)
    batch = dict(objective.rollout(written()))
    other = (HIDDEN + 0.3 * RNG.normal(size=HIDDEN.shape)).astype(np.float32)
    beside = {"reference": Backbone(other)}
    assert {*objective.references} == {"reference"} and not plain.references
    out = objective.loss_beside(Backbone(HIDDEN), beside, batch, key=None, cache=None)  # type: ignore[arg-type]
    without = plain.loss(Backbone(HIDDEN), batch, key=None, cache=None)  # type: ignore[arg-type]
    own, reference = (in_numpy(x, HEAD, 0.0, batch["targets"], 0.8)[0] for x in (HIDDEN, other))
    d = reference - own
    kl = ((np.exp(d) - d - 1) * batch["loss_weights"]).sum()
    np.testing.assert_allclose(out.metrics["kl"][0], kl, rtol=1e-6)
    np.testing.assert_allclose(out.loss_sum - without.loss_sum, 0.1 * kl, rtol=1e-4)
    assert {m.name for m in objective.train_displays} == {*out.metrics}


# ---------------------------------------------------------------------------------------- rewards


def nothing(record: Any, text: str) -> float:
    return float("nan")


def broken(record: Any, text: str) -> float:
    raise ValueError("no such\nanswer")


def word(record: Any, text: str) -> Any:
    return "good"


def test_rewards_and_their_errors() -> None:
    task, record = PromptCompletion(), {"prompt": "1+1=", "completion": "2"}
    found = Rewards(task, ("task", f"{HERE}:short"))
    assert found(record, " 2").tolist() == [1.0, 1.0]
    assert found(record, "two").tolist() == [0.0, 0.0]
    for name, said in {
        f"{HERE}:nothing": r"nothing returned nan \(record {.*1\+1=.*answer 'x'\); return a finite",
        f"{HERE}:broken": r"broken raised ValueError: no such answer \(record .*correct the",
        f"{HERE}:word": "word returned 'good'",
    }.items():
        with pytest.raises(UserError, match=said) as error:
            Rewards(task, ("task", name))(record, "x")
        assert "\n" not in str(error.value)
    for name, said in {
        "grade": "objective.rewards: 'grade' names no function; write package.module:function",
        f"{HERE}:shorter": "objective.rewards: .* has no function shorter",
        f"{HERE}:HERE": "cannot be called",
    }.items():
        with pytest.raises(UserError, match=said):
            Rewards(task, (name,))
    with pytest.raises(UserError, match="reward_weights: 2 numbers for 1 rewards"):
        GRPO(reward_weights=(1.0, 2.0)).validate()


def test_what_would_have_no_effect_is_refused() -> None:
    with pytest.raises(UserError, match="^reference: beta is 0, so it has no part in the loss"):
        GRPO(reference=FrozenModel(from_="runs/a")).validate()
    GRPO(reference=FrozenModel(from_="runs/a"), beta=0.1).validate()
    with pytest.raises(UserError, match="mask_truncated: the tokenizer has no id that ends a text"):
        GRPO(mask_truncated=True).check_ends(())
    GRPO(mask_truncated=True).check_ends((7,))
    GRPO().check_ends(())


def test_each_record_fills_a_group_in_each_step_of_a_rollout() -> None:
    rows: Any = [{"id": n} for n in range(50)]
    ids = [Repeated(rows, 6, 3, 2)[i]["id"] for i in range(24)]
    assert ids == [0, 0, 0, 1, 1, 1] * 2 + [2, 2, 2, 3, 3, 3] * 2
    assert Repeated(SimpleNamespace(rows_per_epoch=50), 6, 3, 2).rows_per_epoch == 300  # type: ignore[arg-type]
