"""adapter_config.json: what of it is read, what is refused, and what is written.

    settings = read_settings(Path("downloads/lora"))
    settings.of("model.layers.0.self_attn.q_proj")     # (rank 8, scale 2.0)

Only the keys that every version of PEFT reads are written: an older one refuses what it does not
know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown
from jaxlm.hf.vocabularies import read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
READ = {
    "peft_type", "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora",
    "use_dora", "base_model_name_or_path", "task_type", "init_lora_weights", "bias",
    "target_parameters",
}  # fmt: skip
IDLE = {  # what is said by the names of the tensors as well, or has no effect on the result
    "target_modules", "exclude_modules", "modules_to_save", "fan_in_fan_out", "layers_to_transform",
    "layers_pattern", "inference_mode", "revision", "peft_version", "auto_mapping", "megatron_core",
    "qalora_group_size", "runtime_config", "ensure_weight_tying", "eva_config", "lora_ga_config",
    "_convert_adapter_from_fsdp",
}  # fmt: skip
INITS = (True, False, "gaussian", "eva", "orthogonal")  # those that leave the base as it is


@dataclass(frozen=True, kw_only=True)
class Settings:
    """An adapter_config.json of LoRA or DoRA."""

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)  # pattern -> rank
    alphas: Mapping[str, float] = field(default_factory=dict)
    base: str | None = None  # name or path of the base
    task_type: str | None = None
    parameters: tuple[str, ...] = ()  # target_parameters: those of experts and routers

    def of(self, module: str) -> tuple[int, float]:
        """(rank, scale) of a module; a pattern matches the end of its name."""
        rank = _matched(self.ranks, module, self.rank)
        return rank, self.scale(rank, _matched(self.alphas, module, self.alpha))

    def scale(self, rank: int, alpha: float) -> float:
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def alpha_of(self, rank: int, scale: float) -> float:
        """The alpha that gives a scale; whole where it is so up to rounding."""
        alpha = scale * (math.sqrt(rank) if self.rslora else rank)
        return float(round(alpha)) if math.isclose(alpha, round(alpha), rel_tol=1e-9) else alpha


def read_settings(folder: Path) -> Settings:
    """The settings of a folder. Raises `UserError` for what changes the result and is not read."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(
            f"{folder}: has no {CONFIG}; name a folder that PEFT's save_pretrained wrote"
        )
    values = read_json(path)
    if values.get("peft_type") != "LORA":
        raise UserError(
            f"{path}: peft_type is {shown(values.get('peft_type'))}; LORA alone is read (LoRA and "
            "DoRA): merge the adapter where PEFT is, and import the model by `jaxlm import hf`"
        )
    init = values.get("init_lora_weights", True)
    if init not in INITS:
        raise UserError(
            f"{path}: init_lora_weights is {shown(init)}, which changes the base as well; save it "
            "by PEFT's save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    for key, value in values.items():
        if key not in READ | IDLE and value:
            raise UserError(
                f"{path}: {key} is {shown(value)}, which is not read and may change the result; "
                "merge the adapter where PEFT is, and import the model by `jaxlm import hf`"
            )
    try:
        return Settings(
            rank=int(values.get("r", 8)),
            alpha=float(values.get("lora_alpha", 8)),
            dropout=float(values.get("lora_dropout", 0.0)),
            rslora=bool(values.get("use_rslora", False)),
            dora=bool(values.get("use_dora", False)),
            ranks={str(k): int(v) for k, v in (values.get("rank_pattern") or {}).items()},
            alphas={str(k): float(v) for k, v in (values.get("alpha_pattern") or {}).items()},
            base=values.get("base_model_name_or_path"),
            task_type=values.get("task_type"),
            parameters=tuple(map(str, values.get("target_parameters") or ())),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: has a value of a wrong type ({error}); get it again") from None


def _matched(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def to_values(
    settings: Settings,
    *,
    targets: Collection[str],
    saved: Collection[str],
    transposed: bool,
    bias: str,
) -> dict[str, Any]:
    """adapter_config.json. transposed: the file's kernels are [inputs, outputs] (GPT-2)."""
    s = settings
    # a key that PEFT < 0.17 refuses
    parameters = {"target_parameters": sorted(s.parameters)} if s.parameters else {}
    return {
        "peft_type": "LORA",
        "task_type": s.task_type,
        "base_model_name_or_path": s.base,
        "inference_mode": True,
        "r": s.rank,
        "lora_alpha": _number(s.alpha),
        "lora_dropout": s.dropout,
        "target_modules": sorted(targets),
        "modules_to_save": sorted(saved) or None,
        "bias": bias,
        "fan_in_fan_out": transposed,
        "use_rslora": s.rslora,
        "use_dora": s.dora,
        "rank_pattern": dict(s.ranks),
        "alpha_pattern": {key: _number(value) for key, value in s.alphas.items()},
        **parameters,
    }


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def compact(chosen: Collection[str], every: Collection[str], *, dotted: bool = True) -> list[str]:
    """The names by which PEFT finds these modules of a model, and no others: last parts of names
    where they are enough.

    dotted: an end counts from a dot on, as in target_modules; modules_to_save takes any end.
    """
    out: list[str] = []
    left = set(chosen)
    for name in sorted(chosen):
        if name not in left:
            continue
        for end in _ends(name):
            same = {m for m in every if m == end or m.endswith(f".{end}" if dotted else end)}
            if same <= set(chosen):
                break
        out.append(end)
        left -= same
    return out


def _ends(name: str) -> list[str]:
    """The ends of a name to try: its last part, that after its last number, all of it."""
    after = re.split(r"(?:^|\.)\d+\.", name)[-1]
    return list(dict.fromkeys([name.rpartition(".")[2], after, name]))
