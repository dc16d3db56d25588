"""Writes tests/fixtures/grpo.npz: losses of GRPO's variants, and their gradients, as TRL has them.

    python tools/make_golden_grpo.py                 (needs torch and trl 1.16)
    python tools/make_golden_grpo.py --check         (compares with the file; writes nothing)

The losses are those of `GRPOTrainer._compute_loss`, called on given log-probabilities in float64;
advantages are computed with the trainer's `nanstd` and its formula. Two completions of the batch
are left out by their mask under dapo, whose weight is the number of tokens; TRL counts them in the
mean over completions, where this project does not.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from trl import GRPOTrainer
from trl.trainer.utils import nanstd

PATH = Path(__file__).parent.parent / "tests" / "fixtures" / "grpo.npz"
GROUP, ROWS, LENGTH = 4, 8, 7
# variant: (TRL's loss_type, importance_sampling_level)
VARIANTS = {
    "dapo": ("dapo", "token"),
    "grpo": ("grpo", "token"),
    "dr_grpo": ("dr_grpo", "token"),
    "gspo": ("grpo", "sequence"),
}
LOW, HIGH, BETA = 0.2, 0.28, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    found = {k: np.asarray(v) for k, v in made().items()}
    if not args.check:
        np.savez(PATH, **found)
        print(f"{PATH}: {len(found)} arrays")
        return
    with np.load(PATH) as kept:
        assert {*kept} == {*found}, {*kept} ^ {*found}
        worst = max(float(np.abs(kept[name] - found[name]).max()) for name in found)
    print(f"largest difference {worst:.1e}")
    sys.exit(worst > 1e-9)


def made() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, LENGTH + 1, ROWS)
    lengths[:2] = LENGTH, 1
    rewards = rng.normal(size=ROWS)
    rewards[GROUP:] = np.array([1.0, 0.0, 0.0, 1.0])
    given = {
        "log_probs": -rng.exponential(1.5, (ROWS, LENGTH)),
        "mask": (np.arange(LENGTH) < lengths[:, None]).astype(np.float64),
        "rewards": rewards,
        "group_size": GROUP,
        "low": LOW,
        "high": HIGH,
        "beta": BETA,
        "max_tokens": LENGTH + 3,
    }
    given["old_log_probs"] = given["log_probs"] + rng.normal(0, 0.25, (ROWS, LENGTH))
    given["reference"] = given["log_probs"] + rng.normal(0, 0.5, (ROWS, LENGTH))
    given["left_out"] = given["mask"] * (np.arange(ROWS) % 5 != 1)[:, None]
    out = dict(given)
    for scale in (True, False):
        out[f"advantages_{scale}"] = advantages(torch.tensor(rewards), scale).numpy()
    for variant in VARIANTS:
        for beta in (0.0, BETA):
            masks = ("mask", "left_out") if variant == "dapo" else ("mask",)
            for mask in masks:
                values = compute(variant, beta, given, given[mask])
                out |= {f"{variant}_{beta}_{mask}_{name}": x for name, x in values.items()}
    return out


def advantages(rewards: torch.Tensor, scale: bool) -> torch.Tensor:
    """As in `_generate_and_score_completions`."""
    groups = rewards.view(-1, GROUP)
    centred = rewards - torch.nanmean(groups, dim=1).repeat_interleave(GROUP)
    std = nanstd(groups, dim=1).repeat_interleave(GROUP)
    return centred / (std + 1e-4) if scale else centred


def compute(variant: str, beta: float, given: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """TRL's loss of a batch, its gradient, and the shares that it reports."""
    log_probs = torch.tensor(given["log_probs"], requires_grad=True)
    zeros = torch.zeros((ROWS, LENGTH), dtype=torch.float64)
    loss_type, level = VARIANTS[variant]
    accelerator = SimpleNamespace(
        num_processes=1, reduce=lambda x, reduction: x, gather=lambda x: x
    )
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (log_probs, zeros, None),
        _metrics={"train": defaultdict(list)},
        _entropy_bonus_enabled=False,
        accelerator=accelerator,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        aux_loss_enabled=False,
        beta=beta,
        current_gradient_accumulation_steps=1,
        epsilon_high=HIGH,
        epsilon_low=LOW,
        importance_sampling_level=level,
        loss_type=loss_type,
        max_completion_length=given["max_tokens"],
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
    )
    whole = torch.tensor(mask)
    inputs = {
        "prompt_ids": torch.zeros((ROWS, 1)),
        "prompt_mask": torch.ones((ROWS, 1)),
        "completion_ids": torch.zeros((ROWS, LENGTH)),
        "completion_mask": whole,
        "advantages": advantages(torch.tensor(given["rewards"]), variant != "dr_grpo"),
        "old_per_token_logps": torch.tensor(given["old_log_probs"]),
        "ref_per_token_logps": torch.tensor(given["reference"]),
        "num_items_in_batch": whole.sum(),
    }
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    metrics = trainer._metrics["train"]
    found = {"loss": loss.item(), "gradient": log_probs.grad.numpy()}
    found["clipped"] = metrics["clip_ratio/region_mean"][0]
    return found | ({"kl": metrics["kl"][0]} if beta else {})


if __name__ == "__main__":
    main()
