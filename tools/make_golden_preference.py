"""Losses of preference and of distillation as TRL computes them, for tests without torch.

    pip install trl==1.16 torch==2.13.0           (in an environment of its own)
    python tools/make_golden_preference.py [--check]

Each trainer's own loss function gets fixed log-probabilities of tokens instead of a model's, in
float64. Writes tests/fixtures/preference.json; --check compares with it instead.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from trl import DPOTrainer, KTOTrainer, RewardTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.gkd import GKDTrainer
from trl.experimental.orpo import ORPOTrainer

OUT = Path(__file__).parents[1] / "tests" / "fixtures" / "preference.json"
PAIRS, TOKENS, VOCAB = 4, 7, 11
DPO = [
    {"loss_type": "sigmoid", "beta": 0.1},
    {"loss_type": "hinge", "beta": 0.5},
    {"loss_type": "ipo", "beta": 0.2},
    {"loss_type": "robust", "beta": 0.3, "label_smoothing": 0.1},
]
KTO = [
    {"beta": 0.1},
    {"beta": 0.5, "desirable_weight": 1.5, "undesirable_weight": 0.5},
]
SIMPO = [{"beta": 2.0, "gamma": 1.0}, {"beta": 0.7, "gamma": 0.0}]
REWARD = [{}, {"centering": 0.01}]
JSD = [{"beta": b, "temperature": t} for b, t in ((0.0, 1.0), (1.0, 1.0), (0.5, 1.0), (0.3, 2.0))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the stored file")
    args = parser.parse_args()
    made = golden()
    if args.check:
        kept = json.loads(OUT.read_text())
        wrong = [path for path, a, b in both(made, kept) if not np.isclose(a, b, rtol=1e-9)]
        print(f"{len(wrong)} values differ from {OUT}" if wrong else f"{OUT} is as TRL computes it")
        raise SystemExit(bool(wrong))
    OUT.write_text(json.dumps(made, indent=1) + "\n")
    print(f"wrote {OUT}")


def both(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict):
        return [x for k in a | b for x in both(a.get(k), b.get(k), f"{path}/{k}")]
    if isinstance(a, list):
        return [x for i, v in enumerate(a) for x in both(v, b[i], f"{path}/{i}")]
    return [(path, a, b)] if isinstance(a, int | float) else [] if a == b else [(path, 0, 1)]


def golden() -> dict[str, Any]:
    rng = np.random.default_rng(17)
    numbers = lambda *shape: rng.normal(size=shape).astype(np.float32).astype(np.float64)  # noqa: E731
    own, known = -np.abs(numbers(2 * PAIRS, TOKENS)), -np.abs(numbers(2 * PAIRS, TOKENS))
    counts = np.array([5, 4, 2, 6, 3, 6, 1, 2])  # tokens of each answer: chosen, then rejected
    mask = (np.arange(TOKENS) >= TOKENS - counts[:, None]).astype(np.float64)
    rewards = numbers(2 * PAIRS)
    mismatched, known_mismatched = numbers(2 * PAIRS, TOKENS), numbers(2 * PAIRS, TOKENS)
    labels = np.arange(2 * PAIRS) % 3 != 0
    student, teacher = 2 * numbers(2, 3, VOCAB), 2 * numbers(2, 3, VOCAB)
    inputs = {
        "log_probs": own, "reference": known, "mask": mask, "rewards": rewards, "labels": labels,
        "mismatched": mismatched, "reference_mismatched": known_mismatched,
        "student": student, "teacher": teacher,
    }  # fmt: skip
    own, known = own * mask, known * mask
    return {
        "inputs": {name: value.tolist() for name, value in inputs.items()},
        "dpo": [{**o, "loss": [dpo(o, own, known, mask, n) for n in range(PAIRS)]} for o in DPO],
        "kto": [
            {**o, "loss": kto(o, own, known, mismatched, known_mismatched, labels)} for o in KTO
        ],
        "orpo": {"loss": orpo(own, mask)},
        "simpo": [{**o, "loss": simpo(o, own, mask)} for o in SIMPO],
        "reward": [{**o, "loss": reward(o, rewards)} for o in REWARD],
        "jsd": [{**o, "loss": jsd(o, student, teacher)} for o in JSD],
    }


def trainer(**values: Any) -> MagicMock:
    """A mock of a trainer whose model gives fixed values."""
    made = MagicMock()
    made._metrics = defaultdict(lambda: defaultdict(list))
    made._tp_size, made._total_train_tokens = 1, 0
    made.accelerator.gather = made.accelerator.gather_for_metrics = lambda x: x
    made.accelerator.device = "cpu"
    for name, value in values.items():
        setattr(made, name, value)
    return made


def model(log_probs: np.ndarray) -> Any:
    """Returns these log-probabilities of the targets, which have one column less than inputs."""
    found = torch.tensor(log_probs)
    zeros = torch.zeros_like(found)
    out = SimpleNamespace(
        log_probs=found, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), logits=found
    )
    return MagicMock(side_effect=lambda **_: out, is_gradient_checkpointing=False)


def tokens_of(mask: np.ndarray) -> dict[str, torch.Tensor]:
    """Inputs with one token before those that have a log-probability."""
    padded = np.concatenate([np.zeros((len(mask), 1)), mask], 1)
    ids = torch.ones(padded.shape, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": ids, "completion_mask": torch.tensor(padded)}


def dpo(o: dict[str, Any], own: Any, known: Any, mask: Any, n: int) -> float:
    both = [n, n + PAIRS]
    fake = trainer(
        loss_types=[o["loss_type"]], loss_weights=[1.0], beta=o["beta"], ld_alpha=None,
        label_smoothing=o.get("label_smoothing", 0.0), f_divergence_type="reverse_kl",
        use_weighting=False, aux_loss_enabled=False, precompute_ref_logps=False,
        ref_model=model(known[both]),
    )  # fmt: skip
    loss = DPOTrainer._compute_loss(fake, model(own[both]), tokens_of(mask[both]), False)
    return float(loss)


def kto(
    o: dict[str, Any], own: Any, known: Any, other: Any, known_other: Any, labels: Any
) -> float:
    fake = trainer(
        beta=o["beta"], desirable_weight=o.get("desirable_weight", 1.0), loss_type="kto",
        undesirable_weight=o.get("undesirable_weight", 1.0), calculate_KL=True,
        aux_loss_enabled=False, precompute_ref_logps=False, ref_model=model(known),
    )  # fmt: skip
    sums = {id(fake.ref_model): known_other}
    fake._compute_kl_logps = lambda m, batch: torch.tensor(sums.get(id(m), other)).sum(-1)
    batch = {**tokens_of(np.ones_like(own)), "label": torch.tensor(labels)}
    return float(KTOTrainer._compute_loss(fake, model(own), batch, False))


def means(own: np.ndarray, mask: np.ndarray) -> list[torch.Tensor]:
    found = (own * mask).sum(1) / mask.sum(1)
    return [torch.tensor(found[:PAIRS]), torch.tensor(found[PAIRS:])]


def orpo(own: np.ndarray, mask: np.ndarray) -> list[float]:
    fake = trainer(beta=1.0)
    return (-ORPOTrainer.odds_ratio_loss(fake, *means(own, mask))[0]).tolist()


def simpo(o: dict[str, Any], own: np.ndarray, mask: np.ndarray) -> list[float]:
    fake = trainer(
        alpha=0.0, beta=o["beta"], simpo_gamma=o["gamma"], loss_type="simpo", label_smoothing=0.0
    )
    return CPOTrainer.cpo_loss(fake, *means(own, mask))[0].tolist()


def reward(o: dict[str, Any], rewards: np.ndarray) -> list[float]:
    found = []
    for n in range(PAIRS):
        fake = trainer()
        fake.args.center_rewards_coefficient = o.get("centering")
        out = SimpleNamespace(logits=torch.tensor(rewards[[n, n + PAIRS]])[:, None])
        ids = {"attention_mask": torch.ones(2, 1)}
        found.append(float(RewardTrainer.compute_loss(fake, lambda _out=out, **_: _out, ids)))
    return found


def jsd(o: dict[str, Any], student: np.ndarray, teacher: np.ndarray) -> list[Any]:
    each = GKDTrainer.generalized_jsd_loss(
        torch.tensor(student), torch.tensor(teacher), reduction="none", **o
    )
    return each.sum(-1).tolist()


if __name__ == "__main__":
    main()
